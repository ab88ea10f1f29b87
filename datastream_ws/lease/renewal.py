"""Acquire, renew and release a lease on a thread."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from ..exceptions import LeaseError
from ..protocols import Lease
from .clock import clock
from .store_calls import HANG_SECONDS, StoreCalls, lease_error

__all__ = ["LeaseRenewal", "Renewal"]

# Shares of lease_ttl. Within lease_ttl after a holder's death, its successor is connected. The
# shorter LIFE leaves the successor time to notice the death and to connect.
LIFE = 0.8  # the time to live in the store, counted from each renewal
# A holder stops this long after its last renewal. The difference to LIFE leaves time to close the
# connection, and for clocks that run at different speeds.
TENURE = 0.7
RENEWAL_SHARE = 0.2  # between two renewals
LOOK = 1 / 30  # most between two attempts of a process that stands by, and
LOOK_SECONDS = 0.5  # most in seconds, so that it takes over a released lease within a second


class Renewal(Protocol):
    """A client's view of its lease. One thread may renew the leases of many clients."""

    epoch: int
    is_refused: bool

    def tenure(self) -> int | None: ...
    @property
    def left(self) -> float: ...
    @property
    def is_held(self) -> bool: ...
    @property
    def slack(self) -> float: ...
    def start(self) -> None: ...
    def look_for_hang(self) -> None: ...
    def campaign(self) -> None: ...
    def rest(self) -> None: ...
    def close(self) -> Future[None]: ...


class LeaseRenewal:
    """
    Acquires and renews a lease for one client. The facts may be read from any thread.

    A tenure ends at a deadline on this machine's clock, counted from before the last renewal was
    sent. That also holds if the process was suspended, or if the store hangs. An ended tenure never
    resumes. A new one begins only after :meth:`campaign`.

    Args:
        ttl: Seconds within which the successor of a dead holder connects.
        on_change: Called on the thread when the lease was acquired, refused or lost.
        report: Receives each LeaseError, on the thread. A lasting error is reported once.

    Attributes:
        epoch: The epoch of the current or the last tenure. 0 means that there was none.
        is_refused: Whether another process holds the lease, or the store does not respond.

    """

    def __init__(
        self,
        lease: Lease,
        ttl: float,
        *,
        on_change: Callable[[], None],
        report: Callable[[BaseException], None],
    ) -> None:
        self.epoch = 0
        self.is_refused = False
        self._lease = lease
        self._ttl = ttl
        self._life = ttl * LIFE
        self._on_change = on_change
        self._report = report
        self._deadline = float("-inf")
        self._renew_at = 0.0
        self._may_hold_until = float("-inf")  # while a response to acquire() is lost
        self._wanted = False
        self._closing = False
        self._calls = StoreCalls(report)
        self._changed = threading.Condition()
        self._closed: Future[None] = Future()

    # --- facts ---

    def tenure(self) -> int | None:
        """
        Return the epoch while the lease is held, 0 before the first tenure, and otherwise ``None``.
        """
        if clock() < self._deadline:
            return self.epoch
        return None if self.epoch else 0

    @property
    def left(self) -> float:
        """Seconds until the tenure ends. It has ended if the value is not positive."""
        return self._deadline - clock()

    @property
    def is_held(self) -> bool:
        return self.left > 0

    @property
    def slack(self) -> float:
        """Seconds between the end of a tenure and the expiry of the lease in the store."""
        return self._ttl * (LIFE - TENURE)

    def look_for_hang(self) -> None:
        """Report a store that blocks the thread; call it from any other thread."""
        waited = self._calls.waited
        if waited < HANG_SECONDS:
            return
        with self._changed:  # the response, and with it the lease, may arrive at this moment
            if self.is_held:
                return
            self.is_refused = True
        self._calls.report_hang(waited)

    # --- requests of the client ---

    def start(self) -> None:
        threading.Thread(target=self._run, name="datastream-lease", daemon=True).start()

    def campaign(self) -> None:
        """
        Try to acquire the lease until it is held, or until :meth:`rest` is called.

        It has no effect while the lease is held. Otherwise the next tenure could begin unnoticed.
        """
        self._want(True)

    def rest(self) -> None:
        """Stop trying to acquire the lease. A held lease is still renewed."""
        self._want(False)

    def close(self) -> Future[None]:
        """
        Request the release of the lease; the returned future is done when the thread has ended.
        """
        self._want(False, closing=True)
        return self._closed

    def _want(self, wanted: bool, *, closing: bool = False) -> None:
        with self._changed:
            self._wanted = wanted and not self.is_held
            self._closing |= closing
            self._changed.notify_all()

    # --- the thread ---

    def _run(self) -> None:
        while not self._closing:
            try:
                self._step()
            except BaseException as death:  # the thread must not end unnoticed
                self._survive(death)
        self._deadline = float("-inf")
        try:
            self._release()
        finally:
            self._closed.set_result(None)

    def _step(self) -> None:
        if self._deadline > float("-inf"):
            self._wait_to_renew()
        elif self._wanted:
            self._acquire()
        elif clock() < self._may_hold_until:
            self._release_in_doubt()
        else:
            self._sleep(lambda: self._wanted)

    def _survive(self, death: BaseException) -> None:
        """Report an internal error, and continue after a pause."""
        with suppress(BaseException):
            self._calls.report_once(lease_error("internal error, please report it", death))
        self._sleep(lambda: False, self._pause())

    def _sleep(self, until: Callable[[], bool], seconds: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or until(), seconds)

    def _acquire(self) -> None:
        asked = clock()
        epoch = self._calls.ask(lambda: _epoch(self._lease.acquire(self._life)))
        self._may_hold_until = asked + self._life if self._calls.is_failing else float("-inf")
        if epoch is not None and clock() < self._end_of(asked) and not self._closing:
            self._begin_tenure(epoch, asked)
            return
        if epoch is not None:  # granted too late to be used
            self._release()
        self.is_refused = True
        self._on_change()
        self._sleep(lambda: not self._wanted, self._pause())

    def _pause(self) -> float:
        """Return the seconds until the next attempt, with jitter."""
        return random.uniform(0.4, 1.0) * min(LOOK_SECONDS, self._ttl * LOOK)

    def _begin_tenure(self, epoch: int, asked: float) -> None:
        with self._changed:
            self._wanted = False
            self.is_refused = False
            self.epoch = max(epoch, self.epoch + 1)
            self._extend(asked)
        self._on_change()

    def _extend(self, asked: float) -> None:
        self._deadline = self._end_of(asked)
        self._renew_at = asked + self._ttl * RENEWAL_SHARE

    def _end_of(self, asked: float) -> float:
        return asked + self._ttl * TENURE

    def _wait_to_renew(self) -> None:
        """Wait until the next renewal is due and renew, or end an expired tenure."""
        self._sleep(lambda: False, max(0.0, min(self._renew_at - clock(), self.left)))
        if self._closing:
            return
        if not self.is_held:
            self._end_tenure("it could not be renewed in time")
        elif clock() >= self._renew_at:
            self._renew()

    def _renew(self) -> None:
        asked = clock()
        renewed = self._calls.ask(lambda: _is_renewed(self._lease.renew(self._life)))
        if renewed is None:  # no response: retry while there is time
            self._renew_at = clock() + min(0.5, self._ttl / 20)
        elif not renewed:
            self._end_tenure("another process holds it")
        elif self.is_held:  # a response after the deadline does not count
            self._extend(asked)

    def _end_tenure(self, why: str) -> None:
        self._deadline = float("-inf")
        try:
            self._report(LeaseError(f"lease lost: {why}; standing by"))
            self._on_change()
        finally:  # an object that is never released may refuse the next acquire()
            self._release()

    def _release_in_doubt(self) -> None:
        """Release a lease that the store may have granted, or try it again after a pause."""
        self._release()
        if self._calls.is_failing:
            self._sleep(lambda: self._wanted, self._pause())
        else:
            self._may_hold_until = float("-inf")

    def _release(self) -> None:
        self._calls.ask(self._lease.release)


def _epoch(answer: object) -> int | None:
    if answer is None or (isinstance(answer, int) and not isinstance(answer, bool)):
        return answer
    raise _wrong("acquire", "an int or None", answer)


def _is_renewed(answer: object) -> bool:
    if isinstance(answer, bool):
        return answer
    raise _wrong("renew", "a bool", answer)


def _wrong(method: str, expected: str, answer: object) -> LeaseError:
    return LeaseError(f"lease: {method}() must return {expected}, not {type(answer).__name__}")
