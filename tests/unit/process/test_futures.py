"""Waiting for a fact, from threads and coroutines: nothing missed, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from datastream_ws.codecs import JSON
from datastream_ws.exceptions import HandlerError
from datastream_ws.messages import Message, Origin
from datastream_ws.process.futures import ErrorBuffer, LoopEvent, Observable, wait_for


def is_above(limit: int) -> Callable[[int], bool]:
    return lambda value: value > limit


# --- Observable -------------------------------------------------------------------------------


def test_box_answers_at_once() -> None:
    """When the value is such a one already."""
    assert Observable(5).when(is_above(4)).result(0) == 5


async def test_a_result_that_is_there_needs_no_time() -> None:
    """wait_ready(0) of a client that is ready, and errors(0) with errors in the buffer."""
    assert await wait_for(Observable(5).when(is_above(4)), 0) == 5
    errors = ErrorBuffer()
    errors.put(ValueError("a"))
    assert [str(error) async for error in errors.read_async(0)] == ["a"]


def test_an_infinite_timeout_is_no_limit() -> None:
    errors = ErrorBuffer()
    threading.Timer(0.01, errors.end).start()
    assert list(errors.read(float("inf"))) == []


def test_two_threads_put_an_error() -> None:
    """As two calls of ``deliver(robust=True)`` may do. A reader gets both."""
    errors = ErrorBuffer()
    overtaking = threading.Thread(target=errors.put, args=(ValueError("b"),))

    class Slow(HandlerError):
        """An error with which a second thread has time to overtake the first."""

        @property
        def messages(self) -> tuple[Message, ...]:  # type: ignore[override]
            overtaking.start()
            overtaking.join(0.5)
            return ()

    slow = threading.Thread(target=errors.put, args=(Slow.__new__(Slow),))
    slow.start()
    assert len(list(itertools.islice(errors.read(5.0), 2))) == 2
    for thread in (slow, overtaking):
        thread.join()


def test_box_answers_with_the_value_that_woke() -> None:
    """Not with a later one: a state may last for a moment only."""
    box = Observable(0)
    future = box.when(is_above(4))
    for value in (3, 7, 1):
        box.set(value)
    assert future.result(0) == 7
    assert box.value == 1


def test_box_wakes_those_it_concerns() -> None:
    """The others go on waiting."""
    box = Observable(0)
    low, high = box.when(is_above(1)), box.when(is_above(10))
    box.set(5)
    assert low.done()
    assert not high.done()
    box.set(11)
    assert high.result(0) == 11


def test_box_waits_in_a_thread() -> None:
    """The value comes from another one."""
    box = Observable(0)
    setter = threading.Timer(0.01, box.set, [1])
    setter.start()
    assert box.when(is_above(0)).result(5) == 1
    setter.join()


async def test_box_waits_in_a_coroutine() -> None:
    """The value comes from a thread."""
    box = Observable(0)
    setter = threading.Timer(0.01, box.set, [1])
    setter.start()
    assert await wait_for(box.when(is_above(0)), 5) == 1
    setter.join()


def test_waiters_whose_time_is_up_are_forgotten() -> None:
    """A health check that asks every second for a day leaves nothing behind."""
    box = Observable(0)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            box.when(is_above(0)).result(0)
    assert len(box._waiters) <= 1


async def test_coroutines_whose_time_is_up_are_forgotten() -> None:
    """As threads are."""
    box = Observable(0)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await wait_for(box.when(is_above(0)), 0)
    assert len(box._waiters) <= 1


def test_cancelled_waiters_are_not_woken() -> None:
    """And do no harm to the others."""
    box = Observable(0)
    gone, there = box.when(is_above(0)), box.when(is_above(0))
    gone.cancel()
    box.set(1)
    assert there.result(0) == 1
    with pytest.raises(CancelledError):
        gone.result(0)


def test_no_wake_up_is_lost() -> None:
    """Threads that wait for each other's numbers all get to the end."""
    box = Observable(0)

    def step(mine: int) -> None:
        for number in range(mine, 400, 4):
            box.when(lambda value, number=number: value == number).result(10)  # type: ignore[misc]
            box.set(number + 1)

    threads = [threading.Thread(target=step, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert box.value == 400


# --- futures that several wait for ------------------------------------------------------------


async def test_giving_up_leaves_the_future_to_the_others() -> None:
    """`wait_closed(timeout)` must not make the client look closed."""
    future: Future[int] = Future()
    other = asyncio.ensure_future(wait_for(future, 5))
    with pytest.raises(TimeoutError):
        await wait_for(future, 0)
    cancelled = asyncio.ensure_future(wait_for(future, None))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert not future.done()
    future.set_result(5)
    assert await other == 5
    assert await wait_for(future, 0.1) == 5


async def test_polling_a_future_leaves_nothing_behind() -> None:
    """Once a second, for months."""
    future: Future[int] = Future()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await wait_for(future, 0)
    assert len(future._done_callbacks) <= 2  # type: ignore[attr-defined]
    future.set_result(1)


async def test_error_of_a_future() -> None:
    """Comes through to each; asyncio does not complain when nobody is left."""
    future: Future[int] = Future()
    with pytest.raises(TimeoutError):
        await wait_for(future, 0)
    future.set_exception(ValueError("bad"))
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            await wait_for(future, 1)


def test_future_seen_from_two_loops() -> None:
    """Each loop waits for it in its own way."""
    future: Future[int] = Future()
    future.set_result(7)
    assert [asyncio.run(wait_for(future, 1)) for _ in range(2)] == [7, 7]


def test_waits_that_time_out_keep_no_loop() -> None:
    """Each loop stayed in memory until the client had ended, for example after asyncio.run()."""
    future: Future[int] = Future()
    end: Future[None] = Future()

    async def time_out() -> weakref.ref[asyncio.AbstractEventLoop]:
        with pytest.raises(TimeoutError):
            await wait_for(future, 0, end)
        return weakref.ref(asyncio.get_running_loop())

    loops = [asyncio.run(time_out()) for _ in range(5)]
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1


# --- ErrorBuffer ------------------------------------------------------------------------------


def filled(*numbers: int, size: int = 1000, size_bytes: int | None = None) -> ErrorBuffer:
    errors = ErrorBuffer(size, size_bytes)
    for number in numbers:
        errors.put(Exception(number))
    return errors


def number_of(error: BaseException) -> int:
    number: int = error.args[0]
    return number


def read(errors: ErrorBuffer, timeout: float | None = 0) -> list[int]:
    return list(map(number_of, errors.read(timeout)))


async def read_all(errors: ErrorBuffer, timeout: float | None) -> list[int]:
    return [number_of(error) async for error in errors.read_async(timeout)]


def test_buffer_gives_what_was_put() -> None:
    """In order, until time is up without a new one."""
    assert read(filled(1, 2, 3)) == [1, 2, 3]
    assert read(filled()) == []


@pytest.mark.fault("G8")
def test_every_reader_sees_all() -> None:
    """One that comes later, too."""
    errors = filled(1, 2)
    assert read(errors) == [1, 2]
    errors.put(Exception(3))
    assert read(errors) == [1, 2, 3]


def test_buffer_ends() -> None:
    """Once everything is read; without a timeout, too."""
    errors = filled(1, 2)
    errors.end()
    assert read(errors, None) == [1, 2]
    assert read(errors, None) == [1, 2]


async def test_buffer_in_a_coroutine() -> None:
    """The same."""
    errors = filled(1, 2)
    assert await read_all(errors, 0.001) == [1, 2]
    errors.end()
    assert await read_all(errors, None) == [1, 2]


async def test_buffer_wakes_its_readers() -> None:
    """A thread and a coroutine that wait are told of each value and of the end."""
    errors = ErrorBuffer()
    in_thread = asyncio.to_thread(lambda: read(errors, 5))
    readers = [asyncio.ensure_future(in_thread), asyncio.ensure_future(read_all(errors, 5))]
    for value in range(10):
        errors.put(Exception(value))
        await asyncio.sleep(0)
    errors.end()
    assert await asyncio.gather(*readers) == [list(range(10))] * 2
    await asyncio.get_running_loop().shutdown_default_executor()


def test_the_oldest_go() -> None:
    """When nobody reads; and that is counted."""
    errors = filled(*range(10), size=4)
    assert errors.lost == 6
    assert read(errors) == [6, 7, 8, 9]


def test_what_was_read_is_not_lost() -> None:
    """It may go without being counted."""
    errors = filled(0, 1, 2, size=3)
    assert read(errors) == [0, 1, 2]
    errors.put(Exception(3))
    errors.put(Exception(4))
    assert errors.lost == 0
    for value in (5, 6, 7):
        errors.put(Exception(value))
    assert errors.lost == 2
    assert read(errors) == [5, 6, 7]


def test_an_end_amid_a_put_is_kept() -> None:
    """As close() abandons a loop that runs again at this moment."""
    errors = ErrorBuffer()
    put_on = errors._count.set

    def end_first(value: int) -> None:
        errors._count.set = put_on  # type: ignore[method-assign]
        errors.end()
        put_on(value)

    errors._count.set = end_first  # type: ignore[method-assign]
    began = time.monotonic()
    errors.put(Exception(0))
    assert read(errors, 10) == [0]
    assert time.monotonic() - began < 5


def test_a_slow_reader_goes_on_with_what_is_left() -> None:
    """It misses what went meanwhile, and sees nothing twice."""
    errors = filled(0, 1, size=3)
    reader = errors.read(0)
    assert number_of(next(reader)) == 0
    for value in range(2, 10):
        errors.put(Exception(value))
    assert [number_of(error) for error in reader] == [1, 7, 8, 9]


def test_polling_an_idle_buffer_leaves_nothing_behind() -> None:
    """`errors(timeout=0)` once a second, for a day without errors."""
    errors = filled()
    for _ in range(100):
        assert read(errors) == []
    assert len(errors._count._waiters) <= 1


def test_readers_beside_a_writer_miss_and_double_nothing() -> None:
    """Three threads read 20,000 values while they are put."""
    errors = ErrorBuffer(20_000)
    seen: list[list[int]] = [[], [], []]
    readers = [threading.Thread(target=lambda s=s: s.extend(read(errors, 10))) for s in seen]
    for reader in readers:
        reader.start()
    for value in range(20_000):
        errors.put(Exception(value))
    errors.end()
    for reader in readers:
        reader.join()
    assert all(each == list(range(20_000)) for each in seen)


def failed(number: int, *payloads: str | bytes) -> HandlerError:
    origin = Origin("test", 1, 1, JSON, "type")
    messages = tuple(Message(data, origin, 1, 0.0) for data in payloads)
    error = HandlerError("a handler failed", handler=None, messages=messages)
    error.args = (number,)
    return error


def test_payloads_that_errors_keep_in_memory_are_bounded() -> None:
    """A thousand failures of 1 MiB messages would keep 1 GB; errors without any cost nothing."""
    errors = filled(0, size_bytes=100)
    errors.put(failed(1, "x" * 40))
    errors.put(failed(2, b"x" * 20, "ü" * 20))
    assert read(errors) == [0, 1, 2]
    errors.put(Exception(3))
    errors.put(failed(4, b"x"))
    assert read(errors) == [2, 3, 4], "0 is older, and went first"
    assert errors.lost == 0
    errors.put(failed(5, b"x" * 100))
    assert read(errors) == [5]
    for number in (6, 7):
        errors.put(failed(number, b"x" * 1000))
    assert read(errors) == [7], "the latest is kept in any case"
    assert errors.lost == 1
    errors.put(Exception(8))
    assert read(errors) == [8]


class Failure(Exception):
    """Can be referred to weakly, as Exception cannot."""


async def test_a_reader_that_waits_keeps_no_error_in_memory() -> None:
    errors = ErrorBuffer()
    errors.put(Failure(1))
    reader = errors.read_async(None)
    gone = weakref.ref(await anext(reader))
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    errors._errors.clear()  # as newer ones do
    gc.collect()
    assert gone() is None
    errors.end()
    with pytest.raises(StopAsyncIteration):
        await waiting


def test_a_thread_that_waits_keeps_no_error_in_memory() -> None:
    errors = ErrorBuffer()
    errors.put(Failure(1))
    reader = errors.read(30)
    gone = weakref.ref(next(reader))
    left: list[BaseException] = []
    waiting = threading.Thread(target=lambda: left.extend(reader))
    waiting.start()
    while not errors._count._waiters:
        pass
    errors._errors.clear()
    gc.collect()
    assert gone() is None
    errors.end()
    waiting.join()
    assert left == []


# --- LoopEvent -----------------------------------------------------------------------------------


async def waiting_for(notice: LoopEvent, *things: asyncio.Future[Any]) -> asyncio.Task[None]:
    waiting = asyncio.create_task(notice.wait(*things))
    await asyncio.sleep(0)
    return waiting


async def test_notice_wakes_who_waits() -> None:
    notice = LoopEvent()
    waiting = await waiting_for(notice)
    assert not waiting.done()
    notice.set()
    notice.set()
    await asyncio.wait_for(waiting, 1)


async def test_notice_is_kept_from_those_who_wait_later() -> None:
    notice = LoopEvent()
    notice.set()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(notice.wait(), 0.01)


async def test_notice_outlives_a_waiter_that_was_cancelled() -> None:
    notice = LoopEvent()
    first = await waiting_for(notice)
    first.cancel()
    await asyncio.wait([first])
    notice.set()
    waiting = await waiting_for(notice)
    notice.set()
    await asyncio.wait_for(waiting, 1)


async def test_a_wait_for_other_things_leaves_nothing_with_them() -> None:
    """Else each wait for a connection's end would grow it; and the things are not cancelled."""
    notice, thing = LoopEvent(), asyncio.get_running_loop().create_future()
    for _ in range(2):
        waiting = await waiting_for(notice, thing)
        assert thing._callbacks
        notice.set()
        await asyncio.wait_for(waiting, 1)
        assert not thing._callbacks
    cancelled = await waiting_for(notice, thing)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert not thing._callbacks
    assert not thing.done()


async def test_a_thing_that_is_done_ends_the_wait() -> None:
    notice, thing = LoopEvent(), asyncio.get_running_loop().create_future()
    waiting = await waiting_for(notice, thing)
    thing.set_result(None)
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(notice.wait(thing), 1)  # also if it's done before


async def test_a_wait_ends_in_time() -> None:
    await asyncio.wait_for(LoopEvent().wait(timeout=0.001), 1)
