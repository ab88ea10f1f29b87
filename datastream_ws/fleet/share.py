"""
Run the streams that this process holds in a shared fleet, and no others.

It connects the event loop with the thread in ``sharing``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from ..lease.shared import SharedStore
from ..lifecycle.assembly import Place
from ..lifecycle.rate_limiter import RateLimiter
from .holding import Holding
from .membership import IN_FLIGHT
from .sharing import Sharing
from .source import Changes, Row, Rows
from .streams import Streams

__all__ = ["Share"]

DIAL_SECONDS = 0.5  # at most as many streams are taken as can be dialed in this time
STEP_SECONDS = 0.1  # between two checks while streams are handed over
CLOSING_SHARE = 0.2  # share of the time for close() that closing the remaining streams may use


class Share:
    """
    This process's share of a fleet; used on the loop's thread.

    Args:
        ttl: The option ``lease_ttl``, in seconds.
        limit: Maximum number of streams in this process. ``None`` means no limit.
        streams: The streams that run in this process.
        rate_limiter: Limits the rate of dials.
        rate: Dials per second that the fleet makes.
        on_news: Called on the loop when :meth:`follow` must be called.
        on_error: Called on the loop with every LeaseError.

    """

    def __init__(
        self,
        store: SharedStore,
        ttl: float,
        limit: int | None,
        *,
        streams: Streams,
        rate_limiter: RateLimiter,
        rate: float,
        on_news: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams = streams
        self._rate_limiter = rate_limiter
        self._at_once = max(1, int(rate * DIAL_SECONDS))
        self._is_started = False
        self._is_closing = False
        self._told: object = None
        self._rows: Rows = {}  # the arguments of the last follow()
        self._shared: tuple[dict[str, Holding], set[str]] = ({}, set())
        self.sharing = Sharing(
            store,
            ttl,
            limit=limit,
            room=lambda: self._at_once - rate_limiter.waiting,
            on_change=lambda: self._soon(on_news),
            report=lambda error: self._soon(on_error, error),
            in_flight=min(IN_FLIGHT, self._at_once),
        )

    def _soon(self, function: Callable[..., None], *arguments: BaseException) -> None:
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def place(self, row: Row) -> Place | None:
        """Return a row's place. ``None`` means that this process cannot start the stream now."""
        holding = self.sharing.held().get(str(row.key))
        if holding is None or holding.is_used:
            return None
        return Place(key=row.key, rate_limiter=self._rate_limiter, make_renewal=holding)

    def ended(self, key: str) -> None:
        """Release the stream of a client that has ended, or take it again for the next client."""
        holding = self.sharing.held().get(key)
        if holding is None or not holding.is_used:
            return
        if self._is_closing or key not in self._streams.rows:
            self.sharing.release(key, holding)
        else:
            self.sharing.take_again(key, holding)

    def want(self, rows: Rows) -> None:
        """Share these rows. The first call joins the other processes."""
        self.sharing.want(rows)
        if not self._is_started:
            self.sharing.start()
            self._is_started = True

    def follow(self, rows: Rows, changed: Collection[str] = ()) -> None:
        """
        Start the clients of held streams, and close all others.

        Args:
            changed: Keys whose options have changed.

        """
        held, giving = self.sharing.held(), self.sharing.giving()
        if not changed and rows is self._rows and (held, giving) == self._shared:
            return
        self._rows, self._shared = rows, (held, giving)
        mine = {key: row for key, row in rows.items() if key in held and key not in giving}
        running = self._streams.running
        gone = [key for key in running if key in held and key not in mine]
        self._streams.drop([key for key in running if key not in held])
        self._streams.apply(mine, Changes(changed=tuple(changed), gone=tuple(gone)))
        for key in held.keys() - mine.keys() - self._streams.running.keys():
            self.sharing.release(key, held[key])

    def summary(self) -> tuple[int, int] | None:
        """
        Return the numbers of processes and of streams here, if both are stable and have changed.
        """
        if not self.sharing.is_settled:
            return None
        found = (len(self.sharing.processes), len(self._streams.running))
        is_news, self._told = found != self._told, found
        return found if is_news else None

    # --- the end ---

    async def hand_over(self, until: Callable[[], float], step: Callable[[], None]) -> None:
        """
        Wait until other processes have taken the streams of this one.

        Args:
            until: Returns the deadline, of ``time.monotonic()``, which may change.
            step: Called repeatedly.

        """
        self.sharing.leave()
        began = time.monotonic()
        while self.sharing.is_handing_over:
            if time.monotonic() >= until() - CLOSING_SHARE * (until() - began):
                break
            step()
            await asyncio.sleep(STEP_SECONDS)
        self._is_closing = True

    async def close(self, timeout: float) -> None:
        """Release everything, and wait at most *timeout* seconds for the store."""
        self._is_closing = True
        if self._is_started:
            closed = asyncio.wrap_future(self.sharing.close())
            await asyncio.wait([closed], timeout=timeout)
