"""Where handlers are called: in a thread, on the loop, inline."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from datastream_ws.handling.callers import InlineCaller, LoopCaller, ThreadCaller, drive
from datastream_ws.handling.latch import Latch

SET_BY: ContextVar[str] = ContextVar("set_by", default="nobody")


async def where(result: object = None) -> tuple[int, object]:
    await asyncio.sleep(0)
    return threading.get_ident(), result


def ident(*arguments: object) -> tuple[int, Any]:
    return threading.get_ident(), arguments


def test_a_step_that_suspends_is_a_fault_of_ours() -> None:
    with pytest.raises(RuntimeError, match="waited for the event loop"):
        drive(asyncio.sleep(0))


def test_a_step_may_raise() -> None:
    async def fails() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        drive(fails())


# --- on the loop ---


async def test_on_the_loop() -> None:
    caller = LoopCaller(asyncio.Event())
    here = threading.get_ident()
    assert await caller.await_(lambda: where("x")) == (here, "x")
    thread, arguments = await caller.call_blocking(ident, 1, 2)
    assert thread != here
    assert arguments == (1, 2)


async def test_sleep_on_the_loop_ends_with_the_dispatcher() -> None:
    stopped = asyncio.Event()
    caller = LoopCaller(stopped)
    assert await caller.sleep(0.001)
    asleep = asyncio.ensure_future(caller.sleep(3600))
    await asyncio.sleep(0)
    stopped.set()
    assert not await asyncio.wait_for(asleep, 10)


# --- in a thread ---


async def test_in_a_thread() -> None:
    """Coroutine handlers run on the loop, with what the thread's contexts have set."""
    caller = ThreadCaller(asyncio.get_running_loop(), Latch())

    async def who() -> tuple[int, str]:
        await asyncio.sleep(0)
        return threading.get_ident(), SET_BY.get()

    def worker() -> tuple[Any, Any, int]:
        SET_BY.set("the thread")
        return drive(caller.await_(who)), drive(caller.call_blocking(ident, 1)), ident()[0]

    on_loop, blocking, thread = await asyncio.to_thread(worker)
    assert on_loop == (threading.get_ident(), "the thread")
    assert blocking == (thread, (1,))


async def test_a_coroutine_that_a_thread_waits_for_can_be_ended() -> None:
    stopped = Latch()
    caller = ThreadCaller(asyncio.get_running_loop(), stopped)
    caller.cancel()  # it waits for none
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.ensure_future(asyncio.to_thread(drive, caller.await_(hangs)))
    await asyncio.wait_for(began.wait(), 10)
    stopped.set()
    caller.cancel()  # the thread may not know yet what it waits for
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(ended.wait(), 10)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ZeroDivisionError])
async def test_a_coroutine_that_a_thread_waits_for_does_not_end_the_loop(
    kind: type[BaseException],
) -> None:
    """SystemExit in a task does, and an AsyncClient runs on the user's own loop."""
    caller = ThreadCaller(asyncio.get_running_loop(), Latch())
    raised: list[BaseException] = []

    async def leaves() -> None:
        raise kind(3)

    def worker() -> None:
        try:
            drive(caller.await_(leaves))
        except BaseException as error:
            raised.append(error)

    await asyncio.to_thread(worker)
    assert [(type(error), error.args) for error in raised] == [(kind, (3,))]


async def test_a_coroutine_that_begins_when_it_is_too_late_is_ended() -> None:
    """The cancelling has been there before it: nobody would come again."""
    stopped = Latch()
    stopped.set()
    caller = ThreadCaller(asyncio.get_running_loop(), stopped)
    caller.cancel()
    waiting = asyncio.to_thread(drive, caller.await_(asyncio.Event().wait))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 10)


async def test_sleep_in_a_thread_ends_with_the_dispatcher() -> None:
    """What was told to stop says so, for the message in hand is to be given up."""
    stopped = Latch()
    caller = ThreadCaller(asyncio.get_running_loop(), stopped)
    assert drive(caller.sleep(0))
    asleep = asyncio.ensure_future(asyncio.to_thread(drive, caller.sleep(3600)))
    while not caller.is_postponing:  # noqa: ASYNC110 - a fact of another thread
        await asyncio.sleep(0.001)
    stopped.set()
    assert not await asyncio.wait_for(asleep, 10)
    assert caller.is_postponing


# --- inline ---


def test_inline() -> None:
    """In whatever thread calls, and nothing is postponed there."""
    caller = InlineCaller()
    here = threading.get_ident()
    assert drive(caller.await_(lambda: where("x"))) == (here, "x")
    assert drive(caller.call_blocking(ident, 1)) == (here, (1,))
    began = time.monotonic()
    assert not drive(caller.sleep(3600))
    assert time.monotonic() - began < 60


def test_coroutines_of_an_inline_caller_run_where_they_are_told_to() -> None:
    with asyncio.Runner() as runner:
        caller = InlineCaller(runner.run)
        assert drive(caller.await_(where)) == (threading.get_ident(), None)
