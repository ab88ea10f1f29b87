"""The event loop's side of a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..lease.renewal import Renewal

__all__ = ["MakeRenewal", "Tenure"]

LOOK_SECONDS = 1.0  # between two looks at whether the store answers


class MakeRenewal(Protocol):
    """Makes what acquires and renews a lease, on a thread; it calls both functions from there."""

    def __call__(
        self, *, on_change: Callable[[], None], report: Callable[[BaseException], None]
    ) -> Renewal: ...


class Tenure:
    """
    Tells one client whether the stream is its own; on the loop, but for :meth:`tenure`.

    It does not wait for the keeper's thread to say that a tenure is over: a store that hangs
    may be holding that up.

    Args:
        on_lost: Called when a tenure has ended. The client then ends what it does and calls
            :meth:`give_up`; before, there is no next tenure.

    Attributes:
        is_ours: From the moment :meth:`acquire` has returned until :meth:`give_up`.

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
        self._renewal = make_renewal(on_change=self._tell, report=report)
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.tenure = self._renewal.tenure
        self._renewal.start()

    @property
    def epoch(self) -> int:
        return self._renewal.epoch

    @property
    def is_lost(self) -> bool:
        """The tenure has ended, and the client has not given it up yet."""
        return self.is_ours and not self._renewal.is_held

    @property
    def left(self) -> float:
        """Seconds until the store lets somebody else in; not above 0: it may have."""
        return self._renewal.left + self._renewal.slack

    async def acquire(self, on_standby: Callable[[], None]) -> None:
        """Wait until the lease is held; *on_standby* is called when that takes long."""
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
        """The client has ended what it did in this tenure."""
        self.is_ours = False
        if self._timer is not None:
            self._timer.cancel()

    async def release(self, timeout: float) -> None:
        """Let the next one have it; *timeout* seconds are given to the store."""
        self.give_up()
        closed = asyncio.wrap_future(self._renewal.close())
        await asyncio.wait([closed], timeout=timeout)

    def _watch(self) -> None:
        """Look when the tenure would end; a renewal has moved that meanwhile, or not."""
        if self.is_lost:
            self._on_lost()
        elif self.is_ours:
            self._timer = self._loop.call_later(max(0.001, self._renewal.left), self._watch)

    def _tell(self) -> None:
        """From the keeper's thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        self._news.set()
        if self.is_lost:
            self._on_lost()
