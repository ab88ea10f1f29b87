"""
The event loop's side of a lease.

A tenure is a period in which this process holds the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..lease.renewal import Renewal

__all__ = ["MakeRenewal", "Tenure"]

LOOK_SECONDS = 1.0  # between two checks whether the store responds


class MakeRenewal(Protocol):
    """Makes a renewal, which holds the lease on a thread and calls both functions there."""

    def __call__(
        self, *, on_change: Callable[[], None], report: Callable[[BaseException], None]
    ) -> Renewal: ...


class Tenure:
    """
    The lease as one client sees it.

    Call it on the loop's thread. ``tenure()`` may be called from any thread. A timer of the loop
    detects the end of a tenure, because a store that hangs may block the renewal's thread.

    Args:
        make_renewal: Makes the renewal of the lease.
        on_lost: Called when a tenure has ended. The client then stops its work and calls
            :meth:`give_up`. There is no next tenure before that.
        report: Called with the errors of the store.

    Attributes:
        is_ours: Whether the client uses the lease, from :meth:`acquire` until :meth:`give_up`.
        tenure: Returns the number of the current tenure. ``None`` means that there is none.

    """

    def __init__(
        self,
        make_renewal: MakeRenewal,
        *,
        on_lost: Callable[[], None],
        report: Callable[[BaseException], None],
    ) -> None:
        self.is_ours = False
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._renewal = make_renewal(on_change=self._notify, report=report)
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.tenure = self._renewal.tenure
        self._renewal.start()

    @property
    def epoch(self) -> int:
        return self._renewal.epoch

    @property
    def is_lost(self) -> bool:
        """Whether the tenure has ended and the client still uses it."""
        return self.is_ours and not self._renewal.is_held

    @property
    def left(self) -> float:
        """Seconds until another process may get the lease. It may have it at 0 or below."""
        return self._renewal.left + self._renewal.slack

    async def acquire(self, on_standby: Callable[[], None]) -> None:
        """
        Wait until this process holds the lease.

        Args:
            on_standby: Called each second while another process holds it.

        """
        try:
            while not self._renewal.is_held:
                self._news.clear()
                self._renewal.campaign()
                if self._renewal.is_refused:
                    on_standby()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._news.wait()
                self._renewal.look_for_hang()
        except asyncio.CancelledError:
            self._renewal.rest()
            raise
        self.is_ours = True
        self._watch()

    def give_up(self) -> None:
        """End the use of this tenure. Calling it again has no effect."""
        self.is_ours = False
        if self._timer is not None:
            self._timer.cancel()

    async def release(self, timeout: float) -> None:
        """Release the lease, waiting at most *timeout* seconds for the store."""
        self.give_up()
        closed = asyncio.wrap_future(self._renewal.close())
        await asyncio.wait([closed], timeout=timeout)

    def end_without_loop(self) -> None:
        """Release the lease without waiting, because the loop is closed. It's thread-safe."""
        self._renewal.close()

    def _watch(self) -> None:
        """Check for the end of the tenure, again whenever it would end without a renewal."""
        if self.is_lost:
            self._on_lost()
        elif self.is_ours:
            self._timer = self._loop.call_later(max(0.001, self._renewal.left), self._watch)

    def _notify(self) -> None:
        """Pass a change to the loop, from the renewal's thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._note_change)

    def _note_change(self) -> None:
        self._news.set()
        if self.is_lost:
            self._on_lost()
