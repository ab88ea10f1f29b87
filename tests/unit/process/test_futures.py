"""Waiting for a fact, from threads and coroutines: nothing missed, nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import pytest

from datastream_ws.process.futures import ErrorBuffer, LoopEvent, Observable, wait_for


def is_above(limit: int) -> Callable[[int], bool]:
    return lambda value: value > limit


# --- Observable -------------------------------------------------------------------------------


def test_box_answers_at_once() -> None:
    """When the value is such a one already."""
    assert Observable(5).when(is_above(4)).result(0) == 5


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


# --- ErrorBuffer ------------------------------------------------------------------------------


def filled(*values: int, size: int = 1000) -> ErrorBuffer[int]:
    feed: ErrorBuffer[int] = ErrorBuffer(size)
    for value in values:
        feed.put(value)
    return feed


async def read_all(feed: ErrorBuffer[int], timeout: float | None) -> list[int]:
    return [value async for value in feed.read_async(timeout)]


def test_feed_gives_what_was_put() -> None:
    """In order, until time is up without a new one."""
    assert list(filled(1, 2, 3).read(0)) == [1, 2, 3]
    assert list(filled().read(0)) == []


@pytest.mark.fault("G8")
def test_every_reader_sees_all() -> None:
    """One that comes later, too."""
    feed = filled(1, 2)
    assert list(feed.read(0)) == [1, 2]
    feed.put(3)
    assert list(feed.read(0)) == [1, 2, 3]


def test_feed_ends() -> None:
    """Once everything is read; without a timeout, too."""
    feed = filled(1, 2)
    feed.end()
    assert list(feed.read(None)) == [1, 2]
    assert list(feed.read(None)) == [1, 2]


async def test_feed_in_a_coroutine() -> None:
    """The same."""
    feed = filled(1, 2)
    assert await read_all(feed, 0.001) == [1, 2]
    feed.end()
    assert await read_all(feed, None) == [1, 2]


async def test_feed_wakes_its_readers() -> None:
    """A thread and a coroutine that wait are told of each value and of the end."""
    feed: ErrorBuffer[int] = ErrorBuffer()
    in_thread = asyncio.to_thread(lambda: list(feed.read(5)))
    readers = [asyncio.ensure_future(in_thread), asyncio.ensure_future(read_all(feed, 5))]
    for value in range(10):
        feed.put(value)
        await asyncio.sleep(0)
    feed.end()
    assert await asyncio.gather(*readers) == [list(range(10))] * 2
    await asyncio.get_running_loop().shutdown_default_executor()


def test_the_oldest_go() -> None:
    """When nobody reads; and that is counted."""
    feed = filled(*range(10), size=4)
    assert feed.lost == 6
    assert list(feed.read(0)) == [6, 7, 8, 9]


def test_what_was_read_is_not_lost() -> None:
    """It may go without being counted."""
    feed = filled(0, 1, 2, size=3)
    assert list(feed.read(0)) == [0, 1, 2]
    feed.put(3)
    feed.put(4)
    assert feed.lost == 0
    for value in (5, 6, 7):
        feed.put(value)
    assert feed.lost == 2
    assert list(feed.read(0)) == [5, 6, 7]


def test_a_slow_reader_goes_on_with_what_is_left() -> None:
    """It misses what went meanwhile, and sees nothing twice."""
    feed = filled(0, 1, size=3)
    reader = feed.read(0)
    assert next(reader) == 0
    for value in range(2, 10):
        feed.put(value)
    assert list(reader) == [1, 7, 8, 9]


def test_polling_an_idle_feed_leaves_nothing_behind() -> None:
    """`errors(timeout=0)` once a second, for a day without errors."""
    feed = filled()
    for _ in range(100):
        assert list(feed.read(0)) == []
    assert len(feed._count._waiters) <= 1


def test_readers_beside_a_writer_miss_and_double_nothing() -> None:
    """Three threads read 20,000 values while they are put."""
    feed: ErrorBuffer[int] = ErrorBuffer(20_000)
    seen: list[list[int]] = [[], [], []]
    readers = [threading.Thread(target=lambda s=s: s.extend(feed.read(10))) for s in seen]
    for reader in readers:
        reader.start()
    for value in range(20_000):
        feed.put(value)
    feed.end()
    for reader in readers:
        reader.join()
    assert all(each == list(range(20_000)) for each in seen)


# --- LoopEvent -----------------------------------------------------------------------------------


async def test_notice_wakes_whoever_waits() -> None:
    """One future for all of them; those who come later are told at once."""
    notice = LoopEvent()
    first, second = notice.wait(), notice.wait()
    assert first is second
    assert not notice.is_set()
    notice.set()
    await asyncio.wait_for(first, 1)
    assert notice.is_set()
    await asyncio.wait_for(notice.wait(), 1)


async def test_notice_is_kept_from_those_who_wait_after_it_was_cleared() -> None:
    notice = LoopEvent()
    notice.set()
    notice.set()
    notice.clear()
    assert not notice.is_set()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(notice.wait(), 0.01)


async def test_notice_outlives_a_waiter_that_was_cancelled() -> None:
    """Awaiting a future and being cancelled cancels it; the next one has another."""
    notice = LoopEvent()
    notice.wait().cancel()
    waiting = notice.wait()
    notice.set()
    await asyncio.wait_for(waiting, 1)
