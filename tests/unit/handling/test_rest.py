"""The rest of a worker's task between two messages, alone and within a dispatcher."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from typing import Any

import pytest

import datastream_ws.handling.rest as module
from datastream_ws import Message
from datastream_ws.handling.callers import LoopCaller
from datastream_ws.handling.rest import Rest
from kit.rigs import Stream, stream, until


def resting(s: Stream) -> bool:
    return s.dispatcher._is_resting


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.02)


# --- alone ---


async def test_work_ends_a_rest() -> None:
    rest = Rest(asyncio.get_running_loop())
    task = asyncio.create_task(rest.take(lambda: False))
    await asyncio.sleep(0)
    assert rest.is_taken
    rest.end()
    rest.end()  # the task has not run since
    assert await task
    rest.end()  # nobody rests
    rest.stop()


async def test_no_rest_while_there_is_work() -> None:
    rest = Rest(asyncio.get_running_loop())
    assert not await rest.take(lambda: rest.is_taken)  # visible before it is checked
    assert not rest.is_taken


@pytest.mark.usefixtures("short")
async def test_a_long_rest_ends() -> None:
    rest = Rest(asyncio.get_running_loop())
    assert not await rest.take(lambda: False)


@pytest.mark.usefixtures("short")
async def test_short_rests_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_later = loop.call_later

    def counted(seconds: float, *rest: Any) -> asyncio.TimerHandle:
        timers.append(seconds)
        return call_later(seconds, *rest)

    monkeypatch.setattr(loop, "call_later", counted)
    rest = Rest(loop)
    for _ in range(100):
        loop.call_soon(rest.end)
        assert await rest.take(lambda: False)
    assert len(timers) < 20
    began = loop.time()
    assert not await rest.take(lambda: False)
    assert loop.time() - began >= 0.02  # the timer of an earlier rest has not ended it
    assert rest._timer is None  # nobody rests, so nothing wakes the loop


async def test_a_canceled_rest_is_free_again() -> None:
    rest = Rest(asyncio.get_running_loop())
    task = asyncio.create_task(rest.take(lambda: False))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not rest.is_taken
    rest.end()
    rest.stop()


# --- within a dispatcher ---


async def test_one_task_handles_messages_that_come_one_by_one() -> None:
    async with stream() as s:
        tasks = []

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            tasks.append(asyncio.current_task())

        for number in range(1, 6):
            s.put("a")
            await until(lambda: len(tasks) == number and resting(s))  # noqa: B023
        assert len(set(tasks)) == 1
        assert s.dispatcher.timings.stats()[f"{handle.__module__}.{handle.__qualname__}"].calls == 5
        assert s.dispatcher.running_handlers == []


@pytest.mark.usefixtures("short")
async def test_a_task_without_work_ends() -> None:
    async with stream() as s:
        s.handler(is_async=True)
        s.put("a")
        await until(lambda: s.log and not s.dispatcher._tasks)
        s.put("b")
        await until(lambda: s.log == ["a", "b"])


async def test_messages_from_another_thread_end_a_rest() -> None:
    async with stream() as s:
        s.handler(is_async=True)
        for number in range(1, 50):
            thread = threading.Thread(target=s.put, args=("a",))
            thread.start()
            await until(lambda: len(s.log) == number)  # noqa: B023
            thread.join()


async def test_a_drain_ends_a_rest() -> None:
    """It waits for the worker, because the gate is closed and a message is left."""
    async with stream() as s:
        s.handler(is_async=True)
        s.put("a")
        await until(lambda: resting(s))
        s.open = False
        s.put("b", wake=False)
        async with asyncio.timeout(0.5):
            await s.drain()
        assert s.log == ["a"]


async def test_nobody_rests_during_a_drain() -> None:
    async with stream() as s:

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            s.log.append("called")
            await asyncio.sleep(0.01)

        s.put("a")
        await until(lambda: s.log)
        async with asyncio.timeout(0.5):
            await s.drain()
        assert not resting(s)


async def test_a_message_that_comes_before_the_rest_is_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread's wake() then finds neither a rest nor a free worker."""
    async with stream() as s:
        s.handler(is_async=True)
        take = Rest.take

        async def late(rest: Rest, has_work: Any) -> bool:
            monkeypatch.undo()
            s.put("b")
            return await take(rest, has_work)

        monkeypatch.setattr(Rest, "take", late)
        s.put("a")
        async with asyncio.timeout(0.5):
            await until(lambda: s.log == ["a", "b"])


async def test_an_opened_gate_ends_a_rest() -> None:
    async with stream() as s:
        s.handler(is_async=True)
        s.put("a")
        await until(lambda: resting(s))
        s.open = False
        s.put("b")
        await until(lambda: not resting(s))
        s.open = True
        s.dispatcher.wake()
        async with asyncio.timeout(0.5):
            await until(lambda: s.log == ["a", "b"])


async def test_a_synchronous_handler_that_comes_during_a_rest_runs_on_a_thread() -> None:
    async with stream() as s:
        threads = []
        s.handler(is_async=True)
        s.put("a")
        await until(lambda: resting(s))

        @s.handlers.on_message
        def plain(message: Message) -> None:
            threads.append(threading.current_thread())

        for _ in range(3):
            s.put("b")
        await until(lambda: len(threads) == 3)
        assert threading.current_thread() not in threads


@pytest.mark.parametrize("concurrency", [2, 5])
async def test_one_of_several_workers_rests(concurrency: int) -> None:
    async with stream(concurrency=concurrency) as s:
        s.handler(is_async=True)
        s.put(*["a"] * 20)
        await until(lambda: len(s.log) == 20 and resting(s))
        await until(lambda: len(s.dispatcher._tasks) == 1)
        s.put("b")
        assert len(s.dispatcher._tasks) == 1  # it's for the one that rests
        s.put(*["c"] * 20)
        await s.drain()
        assert len(s.log) == 41


async def test_a_batch_that_waits_is_not_slept_through() -> None:
    async with stream() as s:
        batches: list[list[Message]] = []

        @s.handlers.on_batch(max_size=10, max_wait=0.02)
        async def store(messages: list[Message]) -> None:
            batches.append(messages)

        for number in range(1, 4):
            s.put("a")
            async with asyncio.timeout(0.5):
                await until(lambda: len(batches) == number)  # noqa: B023


async def test_a_handler_that_outlives_the_stop_leaves_no_resting_task() -> None:
    async with stream() as s:

        @s.handlers.on_message
        async def stubborn(message: Message) -> None:
            s.log.append("called")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                s.log.append("canceled")

        s.put("a")
        await until(lambda: s.log)
        async with asyncio.timeout(0.5):
            await s.dispatcher.stop()
        assert s.log == ["called", "canceled"]
        assert not s.dispatcher._tasks


async def test_run_contexts_are_left_before_a_rest() -> None:
    async with stream() as s:

        class Context:
            async def __aenter__(self) -> None:
                s.log.append("+")

            async def __aexit__(self, *error: object) -> None:
                s.log.append("-")

        s.handlers.use(Context, per="run")
        s.handler(is_async=True)
        for _ in range(2):
            s.put("a")
            await until(lambda: resting(s))
            await asyncio.sleep(0)
        await until(lambda: len(s.log) == 6)
        assert s.log == ["+", "a", "-"] * 2


async def test_a_failure_after_a_rest_is_reported_once() -> None:
    """What a worker keeps from run to run must not hide which handler has failed."""
    async with stream() as s:

        @s.handlers.on_message
        async def fail(message: Message) -> None:
            s.log.append(message.seq)
            raise ValueError

        for number in range(1, 4):
            s.put("a")
            await until(lambda: len(s.reported) == number and resting(s))  # noqa: B023
        assert s.log == [1, 2, 3]


async def test_slow_calls_after_quick_ones_are_timed_one_by_one() -> None:
    """The first run has made long strides. After the rest, they must not hide slow calls."""
    async with stream() as s:
        seconds = 0.0

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            s.log.append(message.seq)
            if seconds and message.seq > 101:
                await asyncio.sleep(seconds)

        s.put(*["quick"] * 100)
        await until(lambda: len(s.log) == 100 and resting(s))
        seconds = 0.02
        s.put("quick", *["slow"] * 15)
        await until(lambda: len(s.log) == 116 and resting(s))
        (stats,) = s.dispatcher.timings.stats().values()
        assert stats.calls == 116
        assert stats.max is not None
        assert stats.max < 0.2  # at most two slow calls together, not fifteen


async def test_a_suppressed_cancellation_does_not_affect_later_messages() -> None:
    """A CancelledError of the second handler call is a failure, as in a task of its own."""
    async with stream() as s:

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "suppress":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
            else:
                raise asyncio.CancelledError

        s.put("suppress")
        await until(lambda: s.inbox.counts().handled == 1)
        await asyncio.sleep(0.01)
        s.put("fail")
        await until(lambda: not s.inbox.counts().waiting)
        assert s.log == ["suppress", "fail"]
        assert s.errors == ["CancelledError"]
        assert s.inbox.counts().failed == 1


async def test_a_rest_ends_although_the_handlers_were_removed() -> None:
    async with stream() as s:
        s.dispatcher._is_iterable = True
        s.handler(is_async=True)
        s.put("a")
        await until(lambda: resting(s))
        s.handlers.remove(s.handlers.message_functions[0])
        s.dispatcher.wake()
        async with asyncio.timeout(0.5):
            await until(lambda: not s.dispatcher._tasks)


async def test_a_task_that_is_collected_during_a_rest_does_nothing_more() -> None:
    """Its loop was closed. The collector closes the coroutine, in any context."""
    async with stream() as s:

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            s.log.append(message.route)

        s.put("a", wake=False)
        work = s.dispatcher._work(LoopCaller(asyncio.Event()))
        context = contextvars.copy_context()
        while not resting(s):
            context.run(work.send, None)
        work.close()
        assert s.log == ["a"]
        assert not s.reported
        assert not s.dispatcher._stopped.is_set()
