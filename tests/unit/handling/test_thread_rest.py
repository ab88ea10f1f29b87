"""The rest of a worker's thread between two messages, alone and within a dispatcher."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from datastream_ws import Message
from datastream_ws.handling.thread_rest import ThreadRest
from datastream_ws.process import handler_threads
from kit.rigs import Stream, stream, until
from kit.seen import eventually


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rest lasts until something ends it, not until its time is over."""
    monkeypatch.setattr(handler_threads, "REST_SECONDS", 30.0)


def resting(s: Stream, number: int = 1) -> bool:
    return len(s.threads._resting) == number


def never() -> bool:
    return False


# --- alone ---


def test_work_ends_a_rest() -> None:
    rest, results = ThreadRest(lambda lock: lock.acquire(timeout=10)), []
    threads = [threading.Thread(target=lambda: results.append(rest.take(never))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(rest._places) == 3)
    assert rest.end(2) == 2
    eventually(lambda: results == [True, True])
    assert rest.end(5) == 1
    assert rest.end(5) == 0
    for thread in threads:
        thread.join(5)
    assert results == [True, True, True]


def test_a_rest_that_takes_too_long() -> None:
    rest = ThreadRest(lambda lock: lock.acquire(timeout=0.001))
    assert not rest.take(never)
    assert not rest.is_taken


def test_it_is_visible_before_it_is_checked() -> None:
    rest = ThreadRest(lambda lock: pytest.fail("must not wait"))
    assert not rest.take(lambda: rest.is_taken)
    assert not rest.is_taken


@pytest.mark.parametrize("chosen_by", ["check", "wait"])
def test_a_thread_that_is_chosen_as_its_rest_ends_works(chosen_by: str) -> None:
    """Otherwise nobody would handle the message for which it was chosen."""
    rest = ThreadRest(lambda lock: chosen_by == "wait" and rest.end(1) == 0)
    assert rest.take(lambda: chosen_by == "check" and rest.end(1) == 1)


# --- within a dispatcher ---


def noting_handler(s: Stream) -> list[threading.Thread]:
    """Register a handler that appends its thread to the returned list."""
    threads = []

    @s.handlers.on_message
    def handle(message: Message) -> None:
        threads.append(threading.current_thread())
        s.log.append(message.route)

    return threads


async def test_one_thread_handles_messages_that_come_one_by_one() -> None:
    async with stream() as s:
        threads = noting_handler(s)
        for number in range(1, 6):
            s.put("a")
            await until(lambda: len(threads) == number and resting(s))  # noqa: B023
        assert len(set(threads)) == 1
        assert len(s.threads._alive) == 1
        (stats,) = s.dispatcher.timings.stats().values()
        assert stats.calls == 5
        assert s.dispatcher.running_handlers == []


async def test_a_thread_without_work_ends_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_threads, "REST_SECONDS", 0.001)
    async with stream() as s:
        noting_handler(s)
        s.put("a")
        await until(lambda: s.log and not s.dispatcher._workers)
        s.put("b")
        await until(lambda: s.log == ["a", "b"])


async def test_messages_that_come_as_rests_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_threads, "REST_SECONDS", 0.0005)
    async with stream(concurrency=2) as s:
        noting_handler(s)
        for number in range(1, 300):
            s.put("a")
            await asyncio.sleep(number % 5 * 0.0002)
        await until(lambda: len(s.log) == 299)
        assert not s.reported


@pytest.mark.parametrize("end", ["drain", "stop"])
async def test_the_end_of_the_client_ends_a_rest(end: str) -> None:
    async with stream() as s:
        noting_handler(s)
        s.put("a")
        await until(lambda: resting(s))
        async with asyncio.timeout(5):
            await (s.drain() if end == "drain" else s.dispatcher.stop())
        await until(lambda: not s.dispatcher._workers)
        assert not s.dispatcher._callers


async def test_a_drain_with_a_closed_gate_ends_a_rest() -> None:
    """It waits for the worker, because a message is left."""
    async with stream() as s:
        noting_handler(s)
        s.put("a")
        await until(lambda: resting(s))
        s.open = False
        s.put("b", wake=False)
        async with asyncio.timeout(5):
            await s.drain()
        assert s.log == ["a"]


async def test_no_thread_rests_during_a_drain() -> None:
    async with stream() as s:
        go = threading.Event()

        @s.handlers.on_message
        def handle(message: Message) -> None:
            s.log.append("called")
            go.wait(10)

        s.put("a")
        await until(lambda: s.log)
        asyncio.get_running_loop().call_later(0.01, go.set)
        await s.drain()
        await until(lambda: not s.dispatcher._workers)


@pytest.mark.parametrize("event", ["message", "drain", "stop"])
async def test_what_comes_just_before_the_rest_is_visible(
    event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds neither a rest nor a free worker."""
    async with stream() as s:
        noting_handler(s)
        take = ThreadRest.take

        def late(rest: ThreadRest, must_leave: Callable[[], bool]) -> bool:
            monkeypatch.setattr(ThreadRest, "take", take)
            if event == "message":
                s.put("b")
            else:
                ending: Any = getattr(s.dispatcher, event)()
                asyncio.run_coroutine_threadsafe(ending, s.dispatcher._loop).result(10)
            return take(rest, must_leave)

        monkeypatch.setattr(ThreadRest, "take", late)
        s.put("a")
        if event == "message":
            await until(lambda: s.log == ["a", "b"])
        else:
            await until(lambda: s.log and not s.dispatcher._workers)


async def test_an_opened_gate_ends_a_rest() -> None:
    async with stream() as s:
        noting_handler(s)
        s.put("a")
        await until(lambda: resting(s))
        s.open = False
        s.put("b")
        await asyncio.sleep(0.01)
        assert s.log == ["a"]
        s.open = True
        s.dispatcher.wake()
        await until(lambda: s.log == ["a", "b"])


async def test_a_coroutine_handler_that_comes_during_a_rest_runs_on_the_loop() -> None:
    async with stream() as s:
        s.handler()
        s.put("a")
        await until(lambda: resting(s))
        s.handlers.remove(s.handlers.message_functions[0])
        tasks = []

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            tasks.append(asyncio.current_task())

        s.put("b")
        await until(lambda: tasks)
        assert tasks[0] in s.dispatcher._tasks


async def test_an_iterator_gets_what_comes_after_the_handlers_were_removed() -> None:
    async with stream() as s:
        s.dispatcher._is_iterable = True
        s.handler()
        s.put("a")
        await until(lambda: resting(s))
        s.handlers.remove(s.handlers.message_functions[0])
        s.put("b")
        await asyncio.sleep(0.01)
        assert s.inbox.waiting == 1
        assert s.inbox.counts().unrouted == 0


@pytest.mark.parametrize("concurrency", [2, 5])
async def test_several_threads_rest_and_are_woken(concurrency: int) -> None:
    async with stream(concurrency=concurrency) as s:
        barrier = threading.Barrier(concurrency)

        @s.handlers.on_message
        def handle(message: Message) -> None:
            barrier.wait(10)
            s.log.append(message.route)

        for number in range(1, 4):
            s.put(*["a"] * concurrency)
            await until(lambda: len(s.log) == number * concurrency)  # noqa: B023
            await until(lambda: resting(s, concurrency))
            assert len(s.threads._alive) == concurrency


async def test_no_worker_starts_for_a_message_that_a_resting_one_takes() -> None:
    async with stream(concurrency=2) as s:
        noting_handler(s)
        s.put("a")
        await until(lambda: resting(s))
        s.put("b")
        assert s.dispatcher._workers == 1
        await until(lambda: len(s.log) == 2)
        assert len(s.threads._alive) == 1


async def test_a_batch_that_waits_is_not_slept_through() -> None:
    async with stream() as s:
        batches: list[list[Message]] = []

        @s.handlers.on_batch(max_size=10, max_wait=0.02)
        def store(messages: list[Message]) -> None:
            batches.append(messages)

        for number in range(1, 4):
            s.put("a")
            await until(lambda: len(batches) == number)  # noqa: B023


async def test_a_batch_that_is_due_wakes_a_thread() -> None:
    """While one worker adds to the batch and handles another message, the other one rests."""
    async with stream(concurrency=2) as s:
        go, batches = threading.Event(), []

        @s.handlers.on_message(route="slow")
        def slow(message: Message) -> None:
            s.log.append("slow")
            go.wait(10)

        @s.handlers.on_batch(route="batch", max_size=10, max_wait=0.05)
        def store(messages: list[Message]) -> None:
            batches.append(messages)

        s.put("batch", "slow")
        await until(lambda: batches and s.log)
        go.set()


async def test_run_contexts_are_left_before_a_rest() -> None:
    async with stream() as s:

        class Context:
            def __enter__(self) -> None:
                s.log.append("+")

            def __exit__(self, *error: object) -> None:
                s.log.append("-")

        s.handlers.use(Context, per="run")
        s.handler()
        for number in (1, 2):
            s.put("a")
            await until(lambda: len(s.log) == 3 * number and resting(s))  # noqa: B023
        assert s.log == ["+", "a", "-"] * 2


async def test_a_failure_after_a_rest_is_reported_once() -> None:
    async with stream() as s:

        @s.handlers.on_message
        def fail(message: Message) -> None:
            s.log.append(message.seq)
            raise ValueError

        for number in range(1, 4):
            s.put("a")
            await until(lambda: len(s.reported) == number and resting(s))  # noqa: B023
        assert s.log == [1, 2, 3]
