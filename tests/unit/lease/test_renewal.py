"""The keeper of a lease, with a store that answers as it is told; and what the option may be."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from datastream_ws.exceptions import ConfigurationError, LeaseError
from datastream_ws.lease import Lease, LeaseRenewal, RedisLease, lease_for
from datastream_ws.lease import liveness as watch
from datastream_ws.lease.liveness import Liveness


class Store:
    """A lease that answers as it is told; *during* is called within each call."""

    def __init__(self) -> None:
        self.free = True
        self.fails: Exception | None = None
        self.calls: list[str] = []
        self.lives: set[float] = set()
        self.during: Callable[[], object] = lambda: None
        self._epoch = 100

    def acquire(self, ttl: float) -> int | None:
        self._call("acquire")
        self.lives.add(ttl)
        if not self.free:
            return None
        self._epoch += 1
        return self._epoch

    def renew(self, ttl: float) -> bool:
        self._call("renew")
        self.lives.add(ttl)
        return self.free

    def release(self) -> None:
        self._call("release")

    def _call(self, what: str) -> None:
        self.calls.append(what)
        self.during()
        if self.fails is not None:
            raise self.fails


class Kept:
    """A keeper at work, and what it says."""

    def __init__(self, store: Store, ttl: float) -> None:
        self.errors: list[BaseException] = []
        self._changed = threading.Condition()
        self.keeper = LeaseRenewal(store, ttl, on_change=self._note, report=self.errors.append)

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Kept:
        self.keeper.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.keeper.close().result(10)

    def until(self, fact: Callable[[], object]) -> None:
        with self._changed:
            while not fact():
                self._changed.wait(0.01)


def test_a_tenure_begins_and_ends_with_the_store() -> None:
    store = Store()
    with Kept(store, 0.3) as kept:
        keeper = kept.keeper
        assert keeper.tenure() == 0, "before the first: what a spool holds may be handled"
        keeper.campaign()
        kept.until(lambda: keeper.is_held)
        assert keeper.tenure() == keeper.epoch == 101
        kept.until(lambda: store.calls.count("renew") > 3)
        assert keeper.tenure() == 101
        store.free = False
        kept.until(lambda: not keeper.is_held)
        assert keeper.tenure() is None
        assert "somebody else has it" in str(kept.errors[-1])
        store.free = True
        kept.until(lambda: "release" in store.calls)
        assert store.calls.count("acquire") == 1, "not before it is told to"
        keeper.campaign()
        kept.until(lambda: keeper.is_held)
        assert keeper.tenure() == 102
    assert store.calls[-1] == "release"
    assert list(store.lives) == [pytest.approx(0.24)], "the rest is for a successor to connect"


def test_a_store_that_hangs_does_not_make_a_tenure_longer() -> None:
    store, hangs = Store(), threading.Event()
    with Kept(store, 0.3) as kept:
        kept.keeper.campaign()
        kept.until(lambda: kept.keeper.is_held)
        store.during = lambda: hangs.wait(10)
        kept.until(lambda: kept.keeper.tenure() is None)
        store.during = lambda: None
        hangs.set()
        kept.until(lambda: "release" in store.calls)
        assert kept.keeper.tenure() is None, "a late answer does not bring it back"


def test_a_grant_that_comes_too_late_is_given_back() -> None:
    store = Store()
    late = threading.Event()
    store.during = lambda: late.wait(0.4)
    with Kept(store, 0.2) as kept:
        kept.keeper.campaign()
        kept.until(lambda: "release" in store.calls)
        assert kept.keeper.tenure() == 0
        store.during = lambda: None
        late.set()


def test_a_store_that_fails_is_reported_once() -> None:
    store = Store()
    store.fails = OSError("refused")
    with Kept(store, 1.0) as kept:
        kept.keeper.campaign()
        kept.until(lambda: store.calls.count("acquire") >= 3)
        assert kept.keeper.is_refused
        (error,) = kept.errors
        assert isinstance(error, LeaseError)
        assert "does not answer (OSError: refused)" in str(error)
        store.fails = None
        kept.until(lambda: kept.keeper.is_held)


def test_rest_stops_the_campaign_and_keeps_what_is_held() -> None:
    store = Store()
    with Kept(store, 5.0) as kept:
        kept.keeper.campaign()
        kept.until(lambda: kept.keeper.is_held)
        kept.keeper.rest()
        assert kept.keeper.tenure() == 101


def test_a_tenure_ends_before_the_store_lets_somebody_else_in() -> None:
    store = Store()
    with Kept(store, 100.0) as kept:
        kept.keeper.campaign()
        kept.until(lambda: kept.keeper.is_held)
        assert kept.keeper.left == pytest.approx(70, abs=5)
        assert kept.keeper.left + kept.keeper.slack < 80 <= min(store.lives) + 1e-6


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_sign_that_stands_still_is_that_of_a_dead_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(watch, "clock", clock)
    seen = Liveness()

    def facts() -> tuple[bool, object]:
        return seen.is_over, seen.dead

    assert facts() == (True, None), "nobody was seen"
    seen.look("a:1", ttl=10.0, left=4.0)
    clock.now = 3.9
    seen.look("a:1", ttl=10.0, left=900.0)
    assert facts() == (False, None)
    clock.now = 4.0
    assert facts() == (True, "a:1"), "the store said how old the first sign was"
    seen.look("a:2", ttl=10.0, left=0.0)
    clock.now = 13.9
    assert facts() == (False, None), "of a later one this machine's clock decides"
    clock.now = 14.0
    assert facts() == (True, "a:2")


def test_what_the_option_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    assert isinstance(store, Lease)
    assert lease_for(None, "x") is None
    assert lease_for(store, "x") is store
    assert isinstance(lease_for("redis://h/0", "x"), RedisLease)
    with pytest.raises(ConfigurationError, match="redis://"):
        lease_for("memcached://h", "x")
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'datastream-ws\[redis\]'"):
        lease_for("redis://h/0", "x")


def test_no_text_shows_the_url() -> None:
    secret = "hunter2"
    lease = RedisLease(f"redis://:{secret}@127.0.0.1:1/0", "x")
    with pytest.raises(LeaseError) as failure:
        lease.acquire(1.0)
    with pytest.raises(ConfigurationError) as refusal:
        RedisLease(f"redis://:{secret}@host:port/0", "x")
    assert secret not in f"{lease!r} {failure.value} {refusal.value}"
    assert failure.value.__suppress_context__
    assert refusal.value.__suppress_context__
    lease.release()
