"""The workers that empty an inbox: how many at once, and what wakes them."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from datastream_ws import (
    Message,
)
from kit.rigs import BOTH, stream, until

# --- concurrency ---


@BOTH
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_as_many_at_once_as_said(concurrency: int, is_async: bool) -> None:
    """Never more; and as many, when there is work for them."""
    async with stream(concurrency=concurrency) as s:
        lock, now, most = threading.Lock(), 0, 0

        def enter(step: int) -> None:
            nonlocal now, most
            with lock:
                now += step
                most = max(most, now)

        def plain(message: Message) -> None:
            enter(1)
            time.sleep(0.01)
            enter(-1)

        async def coroutine(message: Message) -> None:
            enter(1)
            await asyncio.sleep(0.01)
            enter(-1)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put(*["a"] * 12)
        counts = await s.drain()
        assert (most, counts.handled) == (concurrency, 12)


async def test_order_per_key() -> None:
    """Four workers; the messages of one key stay in order, and never meet."""
    async with stream(concurrency=4, ordering_key=lambda message: message.seq % 5) as s:
        seen: dict[int, list[int]] = {n: [] for n in range(5)}
        busy = [False] * 5
        met = []

        @s.handlers.on_message
        def handle(message: Message) -> None:
            key = message.seq % 5
            if busy[key]:
                met.append(message)
            busy[key] = True
            time.sleep(0.0002)
            seen[key].append(message.seq)
            busy[key] = False

        s.put(*["a"] * 500)
        await s.drain()
        assert met == []
        assert all(order == sorted(order) and len(order) == 100 for order in seen.values())


# --- wake-ups ---


@BOTH
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_no_wake_up_is_lost(is_async: bool, concurrency: int) -> None:
    """Messages that come just as a worker leaves: 4 threads put 500 each, without a drain."""
    async with stream(concurrency=concurrency, inbox_size=None) as s:
        s.handler(is_async=is_async)

        def receive() -> None:
            for n in range(500):
                s.put("a")
                if n % 7 == 0:
                    time.sleep(0.0001)

        threads = [threading.Thread(target=receive) for _ in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: len(s.log) == 2000)
        for thread in threads:
            thread.join()
        await until(lambda: not s.inbox.waiting)
        assert s.inbox.counts().handled == 2000


async def test_one_task_handles_reads_that_follow_each_other() -> None:
    """A new task and a new run for each read cost more than to handle its message."""
    async with stream() as s:
        tasks = []

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            tasks.append(asyncio.current_task())

        for _ in range(20):
            s.put("a")
            await asyncio.sleep(0)
        await until(lambda: len(tasks) == 20)
        assert len(set(tasks)) == 1


async def test_reads_that_follow_each_other_find_the_handlers_of_their_time() -> None:
    async with stream() as s:
        seen: list[str] = []
        handled = asyncio.Event()

        async def first(message: Message) -> None:
            seen.append("first")
            handled.set()

        async def second(message: Message) -> None:
            seen.append("second")

        s.handlers.on_message(first)
        s.put("a")
        await handled.wait()  # the task that handled it waits for the next read now
        s.handlers.remove(first)
        s.handlers.on_message(second)
        s.put("a")
        await until(lambda: len(seen) == 2)
        assert seen == ["first", "second"]


async def test_handlers_that_come_later() -> None:
    """What comes after a registration is theirs."""
    async with stream() as s:
        s.handler(route="a")
        s.put("b")
        await until(lambda: not s.inbox.waiting)
        s.handler(name="b", route="b")
        s.put("b")
        await s.drain()
        assert s.log == ["b"]


async def test_stopped_dispatcher_takes_nothing() -> None:
    """Whoever wakes it."""
    async with stream() as s:
        s.handler()
        await s.dispatcher.stop()
        s.put("a")
        await asyncio.sleep(0.02)
        assert (s.log, s.inbox.waiting) == ([], 1)


async def test_stop_cancels_coroutine_handlers() -> None:
    """Those on the loop and those a thread waits for; their messages are counted as dropped."""
    async with stream() as s:

        @s.handlers.on_message
        async def hang(message: Message) -> None:
            s.log.append("called")
            await asyncio.sleep(3600)

        s.put("a")
        await until(lambda: s.log)
        await s.dispatcher.stop()
        await until(lambda: not s.inbox.waiting)
        assert s.inbox.counts().dropped == {"shutdown": 1}
