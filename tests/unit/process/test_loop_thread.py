"""The thread of the loop: it survives user code, and shuts the loop down itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from datastream_ws.process import loop_thread as module
from datastream_ws.process.handler_threads import HandlerThreads
from datastream_ws.process.loop_thread import LoopThread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    loop_thread = LoopThread(HandlerThreads())
    yield loop_thread
    assert loop_thread.stop(5)


async def answer() -> int:
    return 42


def test_a_coroutine_runs_on_the_loop(thread: LoopThread) -> None:
    async def where() -> bool:
        return thread.is_current

    assert thread.run(where())
    assert not thread.is_current


def test_time_is_up_for_a_coroutine(thread: LoopThread) -> None:
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        thread.run(forever(), 0.01)
    assert cancelled.wait(5)


def test_everything_of_the_loop_ends_on_its_own_thread() -> None:
    """Tasks, generators, the loop itself; also where the caller runs a loop (reports/16c)."""
    thread, ended = LoopThread(HandlerThreads()), list[str]()

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(10):
                yield n
        finally:
            ended.append("generator" if thread.is_current else "generator elsewhere")

    async def left_behind() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task" if thread.is_current else "task elsewhere")

    async def begin() -> None:
        iterator = numbers()
        await anext(iterator)
        kept.append((iterator, asyncio.create_task(left_behind())))
        await asyncio.sleep(0)

    kept: list[object] = []
    thread.run(begin())

    async def caller() -> bool:
        return thread.stop(5)

    assert asyncio.run(caller())
    assert ended == ["task", "generator"]
    assert thread.loop.is_closed()


def test_a_second_stop_does_nothing_more(thread: LoopThread) -> None:
    assert thread.stop(5)
    assert thread.stop(5)
    assert not thread.responds(0), "the loop is closed"


def test_stop_on_the_thread_itself_does_not_wait() -> None:
    thread = LoopThread(HandlerThreads())

    async def stop() -> bool:
        return thread.stop(5)

    assert thread.run(stop()) is False
    assert thread.stop(5)


@pytest.mark.parametrize("how", ["exit", "stop"])
def test_user_code_cannot_end_the_loop(
    thread: LoopThread, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    def leave() -> None:
        if how == "exit":
            raise SystemExit
        thread.loop.stop()

    thread.loop.call_soon_threadsafe(leave)
    assert thread.run(answer(), 5) == 42
    assert ("continues after an exception" in caplog.text) == (how == "exit")


def test_an_exit_while_the_loop_is_shut_down() -> None:
    thread = LoopThread(HandlerThreads())

    async def exits() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise SystemExit from None

    async def begin() -> None:
        kept.append(asyncio.create_task(exits()))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    thread.run(begin())
    assert thread.stop(5)
    assert thread.loop.is_closed()
    assert isinstance(kept[0].exception(), SystemExit)


@pytest.mark.leaks_allowed("the task that is named")
def test_tasks_that_ignore_their_cancellation_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LEFTOVER_SECONDS", 0.01)
    thread, go = LoopThread(HandlerThreads()), asyncio.Event()

    async def stubborn() -> None:
        while not go.is_set():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await go.wait()

    async def stubborn_numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await go.wait()

    async def begin() -> None:
        iterator = stubborn_numbers()
        await anext(iterator)
        kept.append((iterator, asyncio.create_task(stubborn(), name="stubborn")))
        await asyncio.sleep(0)

    kept: list[tuple[AsyncIterator[int], asyncio.Task[None]]] = []
    thread.run(begin())
    with caplog.at_level(logging.WARNING, "datastream_ws"):
        assert thread.stop(5)
    assert "a task that ignores its cancellation" in caplog.text
    assert "stubborn" in caplog.text
    kept[0][1]._log_destroy_pending = False  # type: ignore[attr-defined]


def test_what_blocks_the_loop_is_in_its_stack(thread: LoopThread) -> None:
    begun, go = threading.Event(), threading.Event()

    async def blocking() -> None:
        begun.set()
        go.wait(10)

    assert thread.responds(5)
    asyncio.run_coroutine_threadsafe(blocking(), thread.loop)
    assert begun.wait(5)
    try:
        assert not thread.responds(0.01)
        assert not thread.stop(0.01)
        stack = thread.stack()
    finally:
        go.set()
    assert "in blocking\n    go.wait(10)" in stack
    assert "run_forever" not in stack, "from the callback on"
    assert thread.stop(5), "it ends once user code returns"
    assert thread.stack() == ""


def test_the_stack_of_an_idle_loop(thread: LoopThread) -> None:
    assert thread.responds(5)
    assert "select" in thread.stack()
