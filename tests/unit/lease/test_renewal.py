"""The renewal of a lease, with a store that answers as it is told; and what the option may be."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from datastream_ws.exceptions import ConfigurationError, LeaseError
from datastream_ws.lease import Lease, LeaseRenewal, RedisLease, lease_for, liveness
from datastream_ws.lease import renewal as module
from datastream_ws.lease.liveness import Liveness
from kit.seen import eventually


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


class Renewing:
    """A renewal that runs, and what it reports."""

    def __init__(self, store: Store, ttl: float) -> None:
        self.errors: list[BaseException] = []
        self._changed = threading.Condition()
        self.renewal = LeaseRenewal(store, ttl, on_change=self._note, report=self.errors.append)

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Renewing:
        self.renewal.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.renewal.close().result(10)

    def until(self, fact: Callable[[], object]) -> None:
        with self._changed:
            while not fact():
                self._changed.wait(0.01)


def test_a_tenure_begins_and_ends_with_the_store() -> None:
    store = Store()
    with Renewing(store, 0.3) as running:
        renewal = running.renewal
        assert renewal.tenure() == 0, "before the first: what a spool holds may be handled"
        renewal.campaign()
        running.until(lambda: renewal.is_held)
        assert renewal.tenure() == renewal.epoch == 101
        running.until(lambda: store.calls.count("renew") > 3)
        assert renewal.tenure() == 101
        store.free = False
        running.until(lambda: not renewal.is_held)
        assert renewal.tenure() is None
        assert "another process holds it" in str(running.errors[-1])
        store.free = True
        running.until(lambda: "release" in store.calls)
        assert store.calls.count("acquire") == 1, "not before it is told to"
        renewal.campaign()
        running.until(lambda: renewal.is_held)
        assert renewal.tenure() == 102
    assert store.calls[-1] == "release"
    assert list(store.lives) == [pytest.approx(0.24)], "the rest is for a successor to connect"


def test_who_campaigns_while_it_is_held_does_not_get_the_next_tenure() -> None:
    """The grant may come after the client has seen that there is none, and before it campaigns."""
    store = Store()
    with Renewing(store, 0.3) as running:
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        running.renewal.campaign()
        store.free = False
        running.until(lambda: "release" in store.calls)
        store.free = True
        time.sleep(0.1)  # several attempts, if it made any
        assert store.calls.count("acquire") == 1
        assert running.renewal.tenure() is None
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)


@pytest.mark.parametrize("releases", [1, 3])
def test_a_lease_whose_grant_was_lost_is_released_by_who_rests(releases: int) -> None:
    """The store may have granted it, and other processes would wait until it has expired."""
    store = Store()
    store.fails = ConnectionResetError()

    def respond_at_last() -> None:
        if store.calls.count("release") == releases:
            store.fails = None

    store.during = respond_at_last
    with Renewing(store, 60.0) as running:
        running.renewal.campaign()
        running.until(lambda: store.calls.count("acquire") > 1)
        running.renewal.rest()
        eventually(lambda: store.calls.count("release") == releases)
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        assert store.calls.count("release") == releases
    assert len(running.errors) == 1


def test_a_store_that_hangs_does_not_make_a_tenure_longer() -> None:
    store, hangs = Store(), threading.Event()
    with Renewing(store, 0.3) as running:
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        store.during = lambda: hangs.wait(10)
        running.until(lambda: running.renewal.tenure() is None)
        store.during = lambda: None
        hangs.set()
        running.until(lambda: "release" in store.calls)
        assert running.renewal.tenure() is None, "a late answer does not bring it back"


def test_a_grant_that_comes_too_late_is_given_back() -> None:
    store = Store()
    late = threading.Event()
    store.during = lambda: late.wait(0.4)
    with Renewing(store, 0.2) as running:
        running.renewal.campaign()
        running.until(lambda: "release" in store.calls)
        assert running.renewal.tenure() == 0
        store.during = lambda: None
        late.set()


def test_a_store_that_hangs_is_reported_once_by_who_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HANG_SECONDS", 0.05)
    store, hangs = Store(), threading.Event()
    store.during = lambda: hangs.wait(10)
    with Renewing(store, 30.0) as running:
        running.renewal.look_for_hang()
        running.renewal.campaign()

        def is_reported() -> bool:
            running.renewal.look_for_hang()
            return bool(running.errors)

        running.until(is_reported)
        assert running.renewal.is_refused
        running.renewal.look_for_hang()
        assert list(map(str, running.errors)) == ["lease: the store has not responded for 0 s"]
        store.during = lambda: None
        hangs.set()
        running.until(lambda: running.renewal.is_held)
        running.renewal.look_for_hang()
        assert len(running.errors) == 1


def test_who_has_the_lease_is_not_told_of_a_hang() -> None:
    """The look and the answer may come at once."""
    with Renewing(Store(), 30.0) as running:
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        running.renewal._calls._called_at = float("-inf")  # as a look saw it just before the answer
        running.renewal.look_for_hang()
        assert (running.renewal.is_refused, running.errors) == (False, [])


def test_a_store_that_fails_is_reported_once() -> None:
    store = Store()
    store.fails = OSError("refused")
    with Renewing(store, 1.0) as running:
        running.renewal.campaign()
        running.until(lambda: store.calls.count("acquire") >= 3)
        assert running.renewal.is_refused
        (error,) = running.errors
        assert isinstance(error, LeaseError)
        assert "does not respond (OSError: refused)" in str(error)
        store.fails = None
        running.until(lambda: running.renewal.is_held)


def test_rest_stops_the_campaign_and_keeps_what_is_held() -> None:
    store = Store()
    with Renewing(store, 5.0) as running:
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        running.renewal.rest()
        assert running.renewal.tenure() == 101


def test_a_tenure_ends_before_the_store_lets_somebody_else_in() -> None:
    store = Store()
    with Renewing(store, 100.0) as running:
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        assert running.renewal.left == pytest.approx(70, abs=5)
        assert running.renewal.left + running.renewal.slack < 80 <= min(store.lives) + 1e-6


class Odd(Store):
    """Answers what it is told, of whatever type."""

    answer: Any = None
    renewed: Any = True

    def acquire(self, ttl: float) -> int | None:
        self._call("acquire")
        answer: int | None = self.answer
        return answer

    def renew(self, ttl: float) -> bool:
        self._call("renew")
        renewed: bool = self.renewed
        return renewed


@pytest.mark.parametrize("answer", ["7", 7.0, True, b"7"])
def test_an_epoch_that_is_no_number_is_an_error_and_a_refusal(answer: object) -> None:
    """A store that answers with text: standing by, not silence (b12)."""
    store = Odd()
    store.answer = answer
    with Renewing(store, 1.0) as running:
        running.renewal.campaign()
        running.until(lambda: store.calls.count("acquire") >= 3)
        assert running.renewal.is_refused
        assert list(map(str, running.errors)) == [
            f"lease: acquire() must return an int or None, not {type(answer).__name__}"
        ]
        store.answer = 12
        running.until(lambda: running.renewal.is_held)
        assert running.renewal.tenure() == 12


@pytest.mark.parametrize("renewed", [None, 1, "OK"])
def test_a_renewal_that_is_no_bool_is_an_error_and_no_renewal(renewed: object) -> None:
    store = Odd()
    store.answer, store.renewed = 12, renewed
    with Renewing(store, 0.3) as running:
        running.renewal.campaign()
        running.until(lambda: running.renewal.is_held)
        running.until(lambda: running.renewal.tenure() is None)
        running.until(lambda: len(running.errors) == 2)
        assert list(map(str, running.errors)) == [
            f"lease: renew() must return a bool, not {type(renewed).__name__}",
            "lease lost: it could not be renewed in time; standing by",
        ]


def test_a_store_may_raise_whatever_it_likes() -> None:
    store = Store()
    store.fails = SystemExit()  # type: ignore[assignment]
    with Renewing(store, 1.0) as running:
        running.renewal.campaign()
        running.until(lambda: store.calls.count("acquire") >= 3)
        assert "does not respond (SystemExit" in str(running.errors[0])
        store.fails = None
        running.until(lambda: running.renewal.is_held)


def test_a_fault_of_ours_is_reported_and_survived() -> None:
    store = Store()
    running = Renewing(store, 1.0)
    faults = 3

    def broken() -> None:
        nonlocal faults
        faults -= 1
        if faults >= 0:
            raise ZeroDivisionError

    running.renewal._on_change = broken
    store.free = False
    with running:
        running.renewal.campaign()
        running.until(lambda: faults < 0)
        assert "internal error, please report it" in str(running.errors[0])
        assert isinstance(running.errors[0].__cause__, ZeroDivisionError)
        store.free = True
        running.until(lambda: running.renewal.is_held)


def test_a_report_that_fails_does_not_keep_the_store_from_being_released() -> None:
    """An object that takes itself for the holder would never acquire it again."""
    store = Store()

    def broken(error: BaseException) -> None:
        raise ZeroDivisionError

    renewal = LeaseRenewal(store, 0.3, on_change=lambda: None, report=broken)
    renewal.start()
    renewal.campaign()
    eventually(lambda: renewal.is_held, 10)
    store.free = False
    eventually(lambda: "release" in store.calls, 10)
    renewal.close().result(10)


def test_the_end_of_the_thread_is_told_even_if_the_last_report_fails() -> None:
    store = Store()

    def broken(error: BaseException) -> None:
        raise ZeroDivisionError

    renewal = LeaseRenewal(store, 1.0, on_change=lambda: None, report=broken)
    store.fails = OSError("refused")
    renewal.start()
    renewal.campaign()
    while "acquire" not in store.calls:
        pass
    renewal.close().result(10)


def test_what_comes_while_it_closes_is_not_begun() -> None:
    """Granted, but the client is about to end: the lease is released."""
    store = Store()
    running = Renewing(store, 5.0)
    store.during = lambda: running.renewal.close()
    with running:
        running.renewal.campaign()
        running.renewal._closed.result(10)
    assert store.calls == ["acquire", "release", "release"]
    assert running.renewal.tenure() == 0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_sign_that_stands_still_is_that_of_a_dead_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(liveness, "clock", clock)
    seen = Liveness()

    def facts() -> tuple[bool, object]:
        return seen.has_expired, seen.dead

    assert facts() == (True, None), "nobody was seen"
    seen.observe("a:1", ttl=10.0, left=4.0)
    clock.now = 3.9
    seen.observe("a:1", ttl=10.0, left=900.0)
    assert facts() == (False, None)
    clock.now = 4.0
    assert facts() == (True, "a:1"), "the store said how old the first sign was"
    seen.observe("a:2", ttl=10.0, left=0.0)
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
    with pytest.raises(LeaseError) as last:  # Redis may have granted it
        lease.release()
    with pytest.raises(ConfigurationError) as refusal:
        RedisLease(f"redis://:{secret}@host:port/0", "x")
    assert secret not in f"{lease!r} {failure.value} {last.value} {refusal.value}"
    assert failure.value.__suppress_context__
    assert refusal.value.__suppress_context__
