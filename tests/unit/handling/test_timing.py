"""What is known of the calls of handlers, and at what cost."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from datastream_ws.handlers import Handler
from datastream_ws.handling.timing import FADE_SECONDS, Notes, Timings


def handler() -> Handler:
    def tick(message: object) -> None: ...

    return Handler(tick, is_async=False)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_percentiles_are_right_to_a_tenth_and_the_longest_is_exact() -> None:
    timings, tick = Timings(), handler()
    timings.add({tick: 100}, [(tick, number / 100) for number in range(1, 101)])
    (found,) = timings.stats().values()
    assert found.calls == 100
    assert found.failures == 0
    assert found.p50 == pytest.approx(0.5, rel=0.1)
    assert found.p95 == pytest.approx(0.95, rel=0.1)
    assert found.max == 1.0


def test_a_quick_call_that_was_timed_stands_for_those_that_were_not() -> None:
    timings, tick = Timings(), handler()
    timings.add({tick: 100}, [(tick, 0.0001), (tick, 2.0)])
    (found,) = timings.stats().values()
    assert found.calls == 100
    assert found.p95 == pytest.approx(0.0001, rel=0.1)
    assert found.max == 2.0


def test_nothing_is_said_of_times_that_nobody_took() -> None:
    timings, tick = Timings(), handler()
    timings.add({tick: 3}, [])
    (found,) = timings.stats().values()
    assert (found.calls, found.p50, found.p95, found.max) == (3, None, None, None)


def test_percentiles_forget_what_was_long_ago_and_the_longest_does_not() -> None:
    clock, tick = Clock(), handler()
    timings = Timings(clock)
    timings.add({tick: 100}, [(tick, 1.0)] * 100)
    for _ in range(8):
        clock.now += FADE_SECONDS
        timings.add({tick: 10}, [(tick, 0.01)] * 10)
    (found,) = timings.stats().values()
    assert found.p95 == pytest.approx(0.01, rel=0.1)
    assert found.max == 1.0
    assert found.calls == 180


def test_the_name_is_the_qualified_one_and_failures_count_under_it() -> None:
    timings, tick = Timings(), handler()
    timings.failed(tick)
    (name,) = timings.stats()
    assert name == tick.name
    assert name.endswith("handler.<locals>.tick")
    assert timings.stats()[name].failures == 1


def test_a_run_times_slow_calls_always_and_quick_ones_once() -> None:
    timings, tick = Timings(), handler()
    notes = Notes(timings)
    for seconds in (0.0001, 0.0002, 0.0003, 1.0, 2.0):
        notes.call(tick, seconds)
    assert [seconds for _, seconds in notes.timed] == [0.0001, 1.0, 2.0]
    notes.add_up()
    notes.add_up()
    assert timings.stats()[tick.name].calls == 5


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    timings, tick = Timings(), handler()
    timings._lock.acquire()
    timings.abandon()
    timings.add({tick: 1}, [])
    assert timings.stats()[tick.name].calls == 1


def test_names_that_two_registrations_share_are_one() -> None:
    timings = Timings()
    make: Callable[[], Handler] = handler
    timings.add({make(): 2}, [])
    timings.add({make(): 3}, [])
    (found,) = timings.stats().values()
    assert found.calls == 5


def test_a_handler_that_was_removed_is_not_kept_for_good() -> None:
    """A program that registers one for each of its requests, for example."""
    clock, tick = Clock(), handler()
    timings, kept = Timings(clock), weakref.ref(tick.function)
    timings.add({tick: 1}, [(tick, 0.1)])
    del tick
    clock.now += FADE_SECONDS
    timings.add({handler(): 1}, [])
    gc.collect()
    assert kept() is None
    (found,) = timings.stats().values()
    assert found.calls == 2
