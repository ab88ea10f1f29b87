"""What one worker handles in one go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest

from datastream_ws import (
    Message,
    Postponed,
)
from datastream_ws.handling.current import handling
from kit.rigs import BOTH, noted, stream, until


@BOTH
async def test_handled_in_order(is_async: bool) -> None:
    """Five hundred messages, more than a run takes, in order of arrival."""
    async with stream() as s:
        s.handler(is_async=is_async)
        routes = [str(n) for n in range(500)]
        s.put(*routes)
        counts = await s.drain()
        assert s.log == routes
        assert (counts.handled, counts.unrouted, counts.waiting) == (500, 0, 0)


@BOTH
async def test_place_of_handlers(is_async: bool) -> None:
    """Plain ones run on a thread, coroutine functions on the loop; both know whose they are."""
    async with stream() as s:
        here = threading.get_ident()

        def plain(message: Message) -> None:
            s.log.append((threading.get_ident() == here, handling.get() is s))

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a")
        await s.drain()
        assert s.log == [(is_async, True)]
        assert handling.get() is None


async def test_both_kinds_in_order() -> None:
    """A plain and a coroutine handler of one stream: for each message in order of registration."""
    async with stream() as s:
        s.handler(name="a")
        s.handler(name="b", is_async=True)
        s.put("1", "2", "3")
        await s.drain()
        assert s.log == ["1", "1", "2", "2", "3", "3"]


async def test_unrouted() -> None:
    """What no handler takes is handled, and counted as unrouted."""
    async with stream() as s:
        s.handler(route="a")
        s.put("a", "b", "c")
        counts = await s.drain()
        assert (counts.handled, counts.unrouted, counts.failed) == (3, 2, 0)


async def test_no_handlers_at_all() -> None:
    """Nothing waits for ever."""
    async with stream() as s:
        s.put("a", "b")
        counts = await s.drain()
        assert (counts.handled, counts.unrouted) == (2, 2)


async def test_room_is_told() -> None:
    """Reading resumes while a full inbox is emptied."""
    async with stream(inbox_size=4) as s:
        s.handler()
        s.open = False
        s.put("a", "b", "c", "d")
        s.open = True
        s.dispatcher.wake()
        await s.drain()
        assert s.rooms == 1


@pytest.mark.parametrize("how", ["one by one", "postponed", "failing", "in batches", "dropped"])
async def test_room_is_told_whatever_becomes_of_messages(how: str) -> None:
    """Else reading would not go on."""
    options: Any = {"ordering_key": lambda message: message.route, "concurrency": 2}
    async with stream(inbox_size=2, **(options if how == "one by one" else {})) as s:
        tries: list[str] = []

        def handle(message: Message) -> None:
            tries.append(str(message.data))
            if how == "postponed" and len(tries) == 1:
                raise Postponed(0.0)
            if how in ("failing", "dropped"):
                raise LookupError if how == "failing" else Postponed(3600)

        if how == "in batches":
            s.handlers.on_batch(2, 0.001)(lambda messages: tries.append("x"))
        else:
            s.handlers.on_message(handle)
        s.open = False
        s.put("a", "b")
        s.open = True
        s.dispatcher.wake()
        if how == "dropped":
            await until(lambda: tries)
            await s.dispatcher.stop()
        await until(lambda: s.rooms >= 1)


async def test_gate_holds_back() -> None:
    """What it does not let through waits, until a wake-up finds it open."""
    async with stream() as s:
        s.handler()
        s.open = False
        s.put("a")
        await asyncio.sleep(0.02)
        assert (s.log, s.inbox.waiting) == ([], 1)
        s.open = True
        s.dispatcher.wake()
        await s.drain()
        assert s.log == ["a"]


async def test_gate_that_closes_during_a_run() -> None:
    """It is looked at before each message."""
    async with stream() as s:

        def close_gate(message: Message) -> None:
            s.log.append(message.route)
            s.open = message.route != "b"

        s.handlers.on_message(close_gate)
        s.put("a", "b", "c")
        await until(lambda: len(s.log) == 2)
        await asyncio.sleep(0.02)
        assert (s.log, s.inbox.waiting) == (["a", "b"], 1)


async def test_stop_in_a_portion() -> None:
    """What the inbox drops is not handled, and what is at work is counted once it is done."""
    async with stream() as s:
        release, started = threading.Event(), threading.Event()

        @s.handlers.on_message
        def slow(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "5":
                started.set()
                release.wait(10)

        s.put(*map(str, range(20)))
        await asyncio.to_thread(started.wait, 5)
        counts = s.inbox.counts()
        assert (counts.handled, counts.waiting) == (5, 15)
        assert s.inbox.close() == 14
        release.set()
        await until(lambda: not s.inbox.waiting)
        assert s.log == list(map(str, range(6)))
        assert s.inbox.counts().handled == 6
        await asyncio.get_running_loop().shutdown_default_executor()


@BOTH
async def test_a_run_ends_after_a_while(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its contexts are left; what it had taken is the next one's, in order."""
    monkeypatch.setattr("datastream_ws.handling.runs.RUN_SECONDS", 0.002)
    async with stream() as s:
        runs: list[int] = []

        @contextmanager
        def run() -> Iterator[None]:
            runs.append(len(s.log))
            yield

        s.handlers.use(run, per="run")

        def plain(message: Message) -> None:
            time.sleep(0.001)
            s.log.append(message.route)

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        routes = [str(n) for n in range(20)]
        s.put(*routes)
        counts = await s.drain()
        assert s.log == routes
        assert counts.handled == 20
        assert len(runs) >= 4


async def test_a_run_takes_what_comes_meanwhile() -> None:
    """It ends when nothing waits, not with what it had found first."""
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")

        @s.handlers.on_message
        def handle(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "a":
                s.put("b", "c")

        s.put("a")
        await s.drain()
        assert s.log == ["+run", "a", "b", "c", "-run"]


async def test_a_run_with_contexts_has_at_most_a_hundred_messages() -> None:
    """As the documentation of use() says."""
    async with stream(inbox_size=None) as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handler()
        s.put(*map(str, range(250)))
        await s.drain()
        bounds = [index for index, entry in enumerate(s.log) if entry == "-run"]
        assert max(after - before for before, after in pairwise([-1, *bounds])) <= 102
        assert len(s.log) == 250 + 2 * len(bounds)


async def test_who_is_at_work_may_have_ended_meanwhile() -> None:
    """The worker's thread forgets its handler between two looks at it."""

    class Changing:
        looks = 0

        @property
        def run(self) -> Any:
            return self

        @property
        def handler(self) -> Any:
            self.looks += 1
            return handler if self.looks == 1 else None

    async with stream() as s:
        s.handlers.on_message("a")(print)
        [handler] = s.handlers.routing.handlers
        runs: Any = s.dispatcher._runs
        runs._workers.append(Changing())
        assert s.dispatcher.running_handlers == [handler.name]


async def test_who_is_at_work() -> None:
    """By name, for those who say why nothing goes on."""
    async with stream() as s:
        release, started = threading.Event(), threading.Event()
        assert s.dispatcher.running_handlers == []

        def slow_handler(message: Message) -> None:
            started.set()
            release.wait(10)

        s.handlers.on_message("a")(slow_handler)
        s.put("a")
        await asyncio.to_thread(started.wait, 5)
        [name] = s.dispatcher.running_handlers
        assert "slow_handler" in name
        release.set()
        await s.drain()
        await until(lambda: s.dispatcher.running_handlers == [])
        await asyncio.get_running_loop().shutdown_default_executor()


@BOTH
async def test_each_handler_has_its_calls_and_times(is_async: bool) -> None:
    """One slow call among many quick ones of others is seen, and is its own handler's."""
    async with stream(inbox_size=None) as s:
        for name in ("quick", "slow"):

            def plain(message: Message) -> None:
                if message.route == "slow" and message.seq == 500:
                    time.sleep(0.02)

            async def coroutine(message: Message, handle: Any = plain) -> None:
                handle(message)

            function = coroutine if is_async else plain
            function.__qualname__ = name
            s.handlers.on_message(name)(function)
        s.put(*["quick", "slow"] * 500, "none")
        counts = await s.drain()
        assert (counts.handled, counts.unrouted) == (1001, 1)
        found = {
            name.rpartition(".")[2]: each for name, each in s.dispatcher.timings.stats().items()
        }
        assert (found["quick"].calls, found["slow"].calls) == (500, 500)
        assert found["slow"].max is not None
        assert found["slow"].max >= 0.02
        assert found["quick"].max is not None
        assert found["quick"].max < 0.02


async def test_after_a_failure_the_handlers_that_are_left_are_called() -> None:
    """Those of that message, whether its route alone says which they are or not."""
    async with stream() as s:

        def broken(message: Message) -> None:
            s.log.append("broken")
            raise ZeroDivisionError

        s.handlers.on_message("a")(broken)
        s.handler(name="a", route="a")
        s.handlers.on_message("b")(broken)
        s.put("b", "a", "b", "c", "a")
        counts = await s.drain()
        assert s.log == ["broken", "broken", "a", "broken", "broken", "a"]
        assert (counts.failed, counts.handled, counts.unrouted) == (4, 1, 1)
        assert s.errors == ["ZeroDivisionError"] * 4
        assert sum(each.calls for each in s.dispatcher.timings.stats().values()) == 6


# --- handlers that change during a run ---


@BOTH
@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("change", ["remove", "add", "use"])
async def test_a_change_applies_from_the_next_message_on(
    change: str, concurrency: int, with_context: bool, is_async: bool
) -> None:
    """Also to messages that the worker has taken already."""
    # With one key for all messages, several workers handle them in order.
    in_order = {"ordering_key": lambda message: 0} if concurrency > 1 else {}
    async with stream(concurrency=concurrency, **in_order) as s:

        def plain(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "2":
                if change == "remove":
                    s.handlers.remove(handler)
                elif change == "use":
                    s.handlers.use(noted(s.log, "new"))
                else:
                    s.handler(name="new", is_async=is_async)

        async def coroutine(message: Message) -> None:
            await asyncio.sleep(0)
            plain(message)

        handler: Any = coroutine if is_async else plain
        if with_context:
            s.handlers.use(nullcontext)
        s.handlers.on_message(handler)
        s.put(*map(str, range(1, 41)))
        counts = await s.drain()
        rest = {"remove": [], "add": ["3", "3"], "use": ["+new", "3", "-new"]}[change]
        assert s.log[: 2 + len(rest)] == ["1", "2", *rest]
        assert len(s.log) == 2 + 38 * len(rest)
        assert counts.unrouted == (38 if change == "remove" else 0)
        assert counts.waiting == 0
