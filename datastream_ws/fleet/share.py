"""The loop's side of a shared fleet: what this process holds runs here, and nothing else does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from ..lease.shared import SharedStore
from ..lifecycle.assembly import Place
from ..lifecycle.turns import Turns
from .holding import Holding
from .membership import IN_FLIGHT
from .sharing import Sharing
from .source import Changes, Row, Rows
from .streams import Streams

__all__ = ["Share"]

DIAL_SECONDS = 0.5  # of dials; no more streams are taken than can be dialled in this time
STEP_SECONDS = 0.1  # between two looks while streams are handed over
CLOSING_SHARE = 0.2  # of the time for close(); what was not handed over is closed in it


class Share:
    """
    This process's share of a fleet; used on the loop's thread.

    Args:
        streams: What runs here.
        rate: Dials per second that the fleet makes.
        on_news: Called on the loop when :meth:`follow` should be.
        on_error: Called on the loop with every LeaseError.

    """

    def __init__(
        self,
        store: SharedStore,
        ttl: float,
        limit: int | None,
        *,
        streams: Streams,
        turns: Turns,
        rate: float,
        on_news: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams = streams
        self._turns = turns
        self._at_once = max(1, int(rate * DIAL_SECONDS))
        self._is_started = False
        self._is_closing = False
        self._told: object = None
        self._rows: Rows = {}  # these two are what follow() has followed
        self._shared: tuple[dict[str, Holding], set[str]] = ({}, set())
        self.sharing = Sharing(
            store,
            ttl,
            limit=limit,
            room=lambda: self._at_once - turns.waiting,
            on_change=lambda: self._soon(on_news),
            report=lambda error: self._soon(on_error, error),
            in_flight=min(IN_FLIGHT, self._at_once),
        )

    def _soon(self, function: Callable[..., None], *arguments: BaseException) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def place(self, row: Row) -> Place | None:
        """Return a row's place, or ``None`` if no running client can hold its stream here."""
        holding = self.sharing.held().get(str(row.key))
        if holding is None or holding.is_used:
            return None
        return Place(key=row.key, turns=self._turns, make_renewal=holding)

    def ended(self, key: str) -> None:
        """A client has ended: let go of its stream, or begin another tenure for the next one."""
        holding = self.sharing.held().get(key)
        if holding is None or not holding.is_used:
            return
        if self._is_closing or key not in self._streams.rows:
            self.sharing.release(key, holding)
        else:
            self.sharing.take_again(key, holding)

    def want(self, rows: Rows) -> None:
        """Share these rows; the first call joins the other processes."""
        self.sharing.want(rows)
        if not self._is_started:
            self._is_started = True
            self.sharing.start()

    def follow(self, rows: Rows, changed: Collection[str] = ()) -> None:
        """Have what is held run, and close what is not."""
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
        """Return how many processes and streams there are, once both stand and are news."""
        if not self.sharing.is_settled:
            return None
        found = (len(self.sharing.processes), len(self._streams.running))
        is_news, self._told = found != self._told, found
        return found if is_news else None

    # --- the end ---

    async def hand_over(self, until: Callable[[], float], step: Callable[[], None]) -> None:
        """
        Have others take what runs here, as many at once as they can dial.

        Args:
            until: The moment by which all must have ended, of ``time.monotonic()``.
            step: Called again and again.

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
        """Let go of everything; *timeout* seconds are given to the store."""
        self._is_closing = True
        if self._is_started:
            closed = asyncio.wrap_future(self.sharing.close())
            await asyncio.wait([closed], timeout=timeout)
