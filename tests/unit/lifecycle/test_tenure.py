"""The loop's side of a lease: when the stream is ours, and when it is not any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from datastream_ws.lifecycle.tenure import Tenure
from kit.offline import FakeLease, FakeRenewal
from kit.virtualtime import VirtualLoop

TTL = 10.0


class Scene:
    """A tenure over a lease at hand, and what it tells."""

    def __init__(self, lease: FakeLease) -> None:
        self.lease = lease
        self.told: list[str] = []
        self.reported: list[BaseException] = []
        self.tenure = Tenure(
            lambda **told: FakeRenewal(lease, TTL, **told),
            on_lost=lambda: self.told.append("lost"),
            report=self.reported.append,
        )

    async def acquire(self) -> None:
        await self.tenure.acquire(lambda: self.told.append("standby"))

    @property
    def renewal(self) -> FakeRenewal:
        assert self.lease.renewal is not None
        return self.lease.renewal


def play(scene: Callable[[Scene], Awaitable[None]], *, is_free: bool = True) -> None:
    async def stage() -> None:
        await scene(Scene(FakeLease(is_free=is_free)))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(stage())


def test_a_free_lease_is_ours_until_it_is_given_up() -> None:
    async def scene(s: Scene) -> None:
        assert (s.tenure.is_ours, s.tenure.tenure()) == (False, 0)
        await s.acquire()
        assert s.tenure.is_ours
        assert s.tenure.tenure() == s.tenure.epoch > 0
        assert s.tenure.left > 0
        await asyncio.sleep(10 * TTL)  # it is renewed
        assert not s.tenure.is_lost
        s.tenure.give_up()
        assert (s.tenure.is_ours, s.tenure.is_lost, s.told) == (False, False, [])

    play(scene)


def test_stands_by_while_another_has_it() -> None:
    async def scene(s: Scene) -> None:
        waiting = asyncio.ensure_future(s.acquire())
        await asyncio.sleep(60.0)
        assert (set(s.told), waiting.done()) == ({"standby"}, False)
        s.lease.grant()
        await waiting
        assert s.tenure.is_ours

    play(scene, is_free=False)


def test_looks_whether_the_store_hangs_while_it_waits() -> None:
    async def scene(s: Scene) -> None:
        waiting = asyncio.ensure_future(s.acquire())
        await asyncio.sleep(10.5)
        assert 9 <= s.renewal.looks <= 12
        s.renewal.is_refused = True  # it does
        await asyncio.sleep(1.0)
        assert set(s.told) == {"standby"}
        s.lease.grant()
        await waiting

    play(scene, is_free=False)


def test_whoever_stops_waiting_campaigns_no_more() -> None:
    async def scene(s: Scene) -> None:
        waiting = asyncio.ensure_future(s.acquire())
        await asyncio.sleep(1.0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        s.lease.grant()
        assert not s.renewal.is_held
        assert not s.tenure.is_ours

    play(scene, is_free=False)


def test_lost_to_another() -> None:
    async def scene(s: Scene) -> None:
        await s.acquire()
        s.lease.take_away()
        assert s.told == []  # the renewal's thread must not run our code
        await asyncio.sleep(0.01)
        assert s.told == ["lost"]
        assert s.tenure.is_lost
        assert s.tenure.tenure() is None
        assert s.tenure.left <= 0
        assert len(s.reported) == 1
        s.tenure.give_up()
        assert not s.tenure.is_lost

    play(scene)


def test_over_without_a_word_of_the_renewal() -> None:
    """Its thread may hang in the store: the loop looks at the time itself."""

    async def scene(s: Scene) -> None:
        await s.acquire()
        s.renewal._ends_at = s.renewal.now() + 3.0  # not renewed in time
        s.tenure._watch()
        await asyncio.sleep(2.9)
        assert s.told == []
        await asyncio.sleep(0.2)
        assert s.told == ["lost"]
        assert s.tenure.left == pytest.approx(TTL / 10 - 0.1, abs=0.01)  # to say goodbye in

    play(scene)


def test_acquired_and_lost_in_one_moment() -> None:
    async def scene(s: Scene) -> None:
        s.renewal.campaign()
        s.lease.hang()
        s.tenure.is_ours = True
        s.tenure._watch()
        assert s.told == ["lost"]

    play(scene)


def test_a_watch_that_comes_late_finds_nothing() -> None:
    async def scene(s: Scene) -> None:
        await s.acquire()
        s.tenure.give_up()
        s.tenure._watch()
        await asyncio.sleep(10 * TTL)
        assert s.told == []

    play(scene)


def test_release_waits_no_longer_than_it_may() -> None:
    async def scene(s: Scene) -> None:
        await s.acquire()
        await s.tenure.release(1.0)
        assert (s.lease.ended, s.tenure.is_ours, s.renewal.is_held) == (1, False, False)
        hanging: Any = asyncio.get_running_loop().create_future()
        s.renewal.close = lambda: hanging  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        await s.tenure.release(1.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0, abs=0.01)

    play(scene)


def test_news_after_the_loop_is_closed_are_nobodys() -> None:
    kept: list[Scene] = []

    async def scene(s: Scene) -> None:
        kept.append(s)
        await s.acquire()

    play(scene)
    kept[0].tenure._notify()
    assert kept[0].told == []
