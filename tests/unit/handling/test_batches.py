"""The lists of messages that on_batch handlers are given."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest

from datastream_ws import (
    HandlerError,
    Message,
    Postponed,
)
from datastream_ws.handling import timing
from kit.rigs import BOTH, Lost, Stream, stream, until


def batches(s: Stream, **arguments: Any) -> None:
    """Register a batch handler that logs the routes it is given."""
    s.handlers.on_batch(**arguments)(
        lambda given: s.log.append([message.route for message in given])
    )


async def test_batches_by_size() -> None:
    """As soon as one is full; the rest with the drain."""
    async with stream() as s:
        batches(s, max_size=3, max_wait=3600)
        s.put(*"abcdefgh")
        await until(lambda: len(s.log) == 2)
        assert s.log == [["a", "b", "c"], ["d", "e", "f"]]
        assert s.inbox.waiting == 2
        counts = await s.drain()
        assert s.log[2:] == [["g", "h"]]
        assert (counts.handled, counts.waiting) == (8, 0)


async def test_batches_by_time() -> None:
    """The first one waits no longer than max_wait."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=0.05)
        started = time.monotonic()
        s.put("a", "b")
        await until(lambda: s.log)
        assert s.log == [["a", "b"]]
        assert time.monotonic() - started >= 0.05
        s.put("c")
        await until(lambda: len(s.log) == 2)
        assert s.inbox.counts().handled == 3


async def test_batches_without_a_wait() -> None:
    """max_wait=0: each at once."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=0)
        s.put("a", "b")
        await until(lambda: len(s.log) == 2)
        assert s.log == [["a"], ["b"]]


@BOTH
async def test_batch_that_fails(is_async: bool) -> None:
    """All of its messages failed; one report, with all of them."""
    async with stream() as s:

        async def coroutine(given: list[Message]) -> None:
            raise Lost

        def plain(given: list[Message]) -> None:
            raise Lost

        s.handlers.on_batch(2, 3600)(coroutine if is_async else plain)
        s.put("a", "b", "c")
        counts = await s.drain()
        assert (counts.failed, counts.handled) == (3, 0)
        sizes = [len(e.messages) for e in s.reported if isinstance(e, HandlerError)]
        assert sizes == [2, 1]


async def test_message_in_two_batches_and_a_handler() -> None:
    """Done once it has left them all, failed if any of them failed."""
    async with stream() as s:
        batches(s, max_size=2, max_wait=3600)
        s.handlers.on_batch(3, 3600)(lambda given: 1 / 0)
        s.handler(route="a")
        s.put("a", "b")
        await until(lambda: len(s.log) == 2)
        assert s.inbox.waiting == 2
        counts = await s.drain()
        assert s.log == ["a", ["a", "b"]]
        assert (counts.failed, counts.waiting) == (2, 0)


async def test_postponed_batch() -> None:
    """The same list again."""
    async with stream() as s:

        @s.handlers.on_batch(2, 3600)
        def handle(given: list[Message]) -> None:
            s.log.append(len(given))
            if len(s.log) == 1:
                raise Postponed(0)

        s.put("a", "b")
        counts = await s.drain()
        assert (s.log, counts.handled) == ([2, 2], 2)


async def test_batches_given_up() -> None:
    """At the end without a drain: dropped, and counted."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=3600)
        s.put("a", "b")
        await until(lambda: not s.inbox.ready)
        await asyncio.sleep(0.02)
        await s.dispatcher.stop()
        assert s.inbox.counts().dropped == {"shutdown": 2}
        assert s.log == []


async def test_a_message_that_reaches_its_batch_after_the_end_is_dropped_and_counted() -> None:
    """Its other handler ran on when the dispatcher was stopped."""
    async with stream() as s:
        begun, may_end = threading.Event(), threading.Event()
        batches(s, max_size=100, max_wait=3600)

        @s.handlers.on_message
        def handle(message: Message) -> None:
            begun.set()
            may_end.wait(10)

        s.put("a")
        await until(begun.is_set)
        await s.dispatcher.stop()
        may_end.set()
        await until(lambda: s.inbox.counts().waiting == 0)
        assert s.inbox.counts().dropped == {"shutdown": 1}
        assert s.log == []


@BOTH
async def test_a_batch_handler_that_is_removed_still_gets_its_batch(is_async: bool) -> None:
    """Although the handlers that remain could be called directly. The messages were taken."""
    async with stream() as s:

        async def coroutine(given: list[Message]) -> None:
            s.log.append(len(given))

        def plain(given: list[Message]) -> None:
            s.log.append(len(given))

        function: Any = coroutine if is_async else plain
        s.handlers.on_batch(max_size=100, max_wait=0.02)(function)
        s.handler(is_async=is_async)
        s.put("a", "b")
        await until(lambda: len(s.log) == 2)
        s.handlers.remove(function)
        async with asyncio.timeout(0.5):
            await until(lambda: s.log == ["a", "b", 2])
            await until(lambda: not s.inbox.waiting)


async def test_a_batch_handler_that_was_removed_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "FADE_SECONDS", 0.0)
    async with stream() as s:

        def handle(given: list[Message]) -> None:
            s.log.append(len(given))

        kept = weakref.ref(s.handlers.on_batch(2, 3600)(handle))
        s.put("a", "b")
        await until(lambda: s.inbox.counts().handled == 2)
        s.handlers.remove(handle)
        del handle
        await until(lambda: bool(gc.collect()) and kept() is None)


@BOTH
async def test_a_batch_in_hand_is_given_up(is_async: bool) -> None:
    """A postponed one in a thread, a coroutine in the middle of it."""
    async with stream() as s:
        begun = threading.Event()

        def plain(given: list[Message]) -> None:
            begun.set()
            raise Postponed(3600)

        async def coroutine(given: list[Message]) -> None:
            begun.set()
            await asyncio.Event().wait()

        s.handlers.on_batch(2, 3600)(coroutine if is_async else plain)
        s.put("a", "b")
        await until(begun.is_set)
        await s.dispatcher.stop()
        await until(lambda: s.inbox.counts().waiting == 0)
        assert s.inbox.counts().dropped == {"shutdown": 2}
        assert s.reported == []


async def test_what_comes_too_late_for_a_batch_is_given_up() -> None:
    """A worker that has popped it, and the end in between."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=3600)
        s.put("a", "b", wake=False)
        await s.dispatcher.stop()
        handler = s.handlers.only_batch
        messages = s.inbox.pop_together(2)
        assert handler is not None
        assert s.dispatcher._batches.add_together(handler, messages) is False
        assert s.inbox.counts().dropped == {"shutdown": 2}


async def test_batch_waits_no_longer_because_of_another_worker() -> None:
    """With a free worker a batch goes in time, however long the others take."""
    async with stream(concurrency=2) as s:
        release = threading.Event()
        batches(s, max_size=100, max_wait=0.05, route="batch")
        s.handlers.on_message("slow")(lambda message: release.wait(10))
        # What the one worker takes next.
        s.handlers.on_message("batch")(lambda message: s.put("slow", wake=False))
        s.put("batch")
        try:
            await until(lambda: s.log)
        finally:
            release.set()
        assert s.log == [["batch"]]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_timer_does_not_spin_while_workers_are_busy(concurrency: int) -> None:
    """A batch that is due and cannot go yet is no reason to keep the loop busy."""
    async with stream(concurrency=concurrency) as s:
        release, started = threading.Event(), threading.Event()

        @s.handlers.on_batch(100, 0.01)
        def slow(given: list[Message]) -> None:
            s.log.append(len(given))
            started.set()
            release.wait(10)

        @s.handlers.on_message("slow")
        def slow_too(message: Message) -> None:
            started.set()
            release.wait(10)

        s.put("a")
        if concurrency == 1:
            await until(lambda: not s.inbox.ready)
            s.put("slow")
        await asyncio.to_thread(started.wait, 5)
        s.put("b")
        timers = 0
        start_timer = s.dispatcher._batches._start_timer

        def counted(due: float) -> None:
            nonlocal timers
            timers += 1
            start_timer(due)

        s.dispatcher._batches._start_timer = counted  # type: ignore[method-assign]
        await asyncio.sleep(0.2)
        release.set()
        assert timers <= 5
        counts = await s.drain()
        assert counts.waiting == 0
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_no_wake_up_is_lost_with_batches() -> None:
    """The last batch goes by its timer, whatever came between."""
    async with stream(concurrency=2, inbox_size=None) as s:
        batches(s, max_size=7, max_wait=0.003)
        for n in range(300):
            s.put("a")
            if n % 5 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: sum(map(len, s.log)) == 300)
        await until(lambda: not s.inbox.waiting)
        assert all(0 < len(batch) <= 7 for batch in s.log)
