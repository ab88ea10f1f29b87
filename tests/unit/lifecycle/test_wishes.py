"""Wishes: the last word of the verbs counts."""

from __future__ import annotations

import asyncio

import pytest

from datastream_ws.lifecycle.wishes import HangUp, Wishes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wishes(clock: Clock) -> Wishes:
    return Wishes(clock)


def test_nothing_is_wished_at_first(wishes: Wishes) -> None:
    assert wishes.hang_up is None
    assert not wishes.is_closing
    assert not wishes.is_paused
    assert wishes.left == float("inf")
    assert not wishes.changed.is_set()


def test_pause_and_resume_leave_nothing_to_do(wishes: Wishes) -> None:
    wishes.pause(HangUp(4000, "for lunch"))
    assert wishes.hang_up == (4000, "for lunch")
    wishes.resume()
    left: HangUp | None = wishes.hang_up
    assert left is None
    assert wishes.changed.is_set()


def test_the_same_word_again_is_no_news(wishes: Wishes) -> None:
    wishes.resume()
    assert not wishes.changed.is_set()
    wishes.pause(HangUp(1000, "first"))
    wishes.changed.clear()
    wishes.pause(HangUp(1000, "second"))
    assert not wishes.changed.is_set()
    assert wishes.hang_up == (1000, "first")


def test_a_reconnect_is_what_the_next_attempt_is(wishes: Wishes) -> None:
    wishes.reconnect(HangUp(1001))
    assert wishes.hang_up == (1001, "")
    wishes.begin_attempt()
    left: HangUp | None = wishes.hang_up
    assert left is None


def test_a_pause_outlives_reconnects_and_attempts(wishes: Wishes) -> None:
    wishes.pause(HangUp(1000, "paused"))
    wishes.reconnect(HangUp(1001, "again"))
    wishes.begin_attempt()
    assert wishes.hang_up == (1000, "paused")


def test_a_deadline_may_only_be_shortened(wishes: Wishes, clock: Clock) -> None:
    wishes.close(10.0, HangUp(1001, "first"))
    clock.now = 1.0
    wishes.close(20.0, HangUp(1000, "later"))
    assert wishes.left == 9.0
    wishes.close(2.0)
    assert wishes.left == 2.0
    assert wishes.farewell == (1001, "first")
    assert wishes.is_closing


async def test_who_waits_hears_of_every_word(wishes: Wishes) -> None:
    waiting = asyncio.ensure_future(wishes.change())
    await asyncio.sleep(0)
    wishes.reconnect(HangUp())
    assert await waiting


async def test_who_waits_gives_up_in_time(wishes: Wishes) -> None:
    assert not await wishes.change(timeout=0.001)


async def test_who_waits_hears_of_other_things(wishes: Wishes) -> None:
    thing = asyncio.get_running_loop().create_future()
    thing.set_result(None)
    assert await wishes.change(thing)
