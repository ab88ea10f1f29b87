"""Start, replace and close the clients of a fleet's streams, on the loop's thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from ..client import Client
from ..events import State
from ..lifecycle.assembly import Place
from ..lifecycle.commands import CloseFrame
from ..stats import Stats
from .source import Changes, Row, Rows
from .totals import total

__all__ = ["Streams"]

CLOSES = 20  # streams that close at the same time while the fleet runs


class Streams:
    """
    The clients of the rows that run in this process, at most one per row.

    When a row changes, its client closes before the next one starts, so a
    stream never has two connections.

    Args:
        make: Returns a client for a valid row and its place.
        place: Returns a row's place in the fleet. ``None`` means that it must not start yet.
        on_ended: Called with the key of each client that has closed.
        on_refused: Called with the key and the error of a client that could not start. It stays
            idle until its row changes.
        limit: Maximum number of streams. ``None`` means no limit.

    Attributes:
        running: The clients by the texts of their keys. The mapping is replaced and never modified,
            so any thread may read it.

    """

    def __init__(
        self,
        make: Callable[[Row, Place], Client],
        place: Callable[[Row], Place | None],
        on_ended: Callable[[str], None],
        on_refused: Callable[[str, Exception], None],
        limit: int | None = None,
    ) -> None:
        self.rows: Rows = {}
        self.running: dict[str, Client] = {}
        self._changed = asyncio.Event()  # a client has ended
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._place = place
        self._on_ended = on_ended
        self._on_refused = on_refused
        self._limit = limit
        self._past = Stats()  # of the clients that have ended
        self._lock = threading.Lock()  # held while a client moves from running to _past
        self._ending: dict[str, Client] = {}
        self._waiting: dict[str, None] = {}  # keys of streams to close, in this order
        self._closing = False
        self._paused = False

    @property
    def beyond_limit(self) -> int:
        """How many rows have no client because of the limit."""
        return 0 if self._limit is None else max(0, len(self.rows) - self._limit)

    def apply(self, rows: Rows, changes: Changes) -> None:
        """Start and close clients so that they match *rows*."""
        self.rows = rows
        if self._closing:
            return
        for key in (*changes.changed, *changes.gone):
            if key in self.running and key not in self._ending:
                self._waiting[key] = None
        self._close_some()
        self._start_missing()

    def drop(self, keys: Collection[str]) -> None:
        """
        Close streams immediately, because their leases have expired and nothing may be handled.
        """
        for key in keys:
            if key in self.running and key not in self._ending:
                self._close(key)

    def pause(self, code: int, reason: str) -> None:
        """Pause all clients, including those that start later."""
        self._paused = True
        for client in self.running.values():
            if not client.state.is_final:
                client.pause(code, reason)

    def resume(self) -> None:
        """Resume all clients."""
        self._paused = False
        for client in self.running.values():
            if not client.state.is_final:
                client.resume()

    def reconnect(self, code: int, reason: str) -> None:
        """Let all clients connect again."""
        for client in self.running.values():
            if not client.state.is_final:
                client.reconnect(code, reason)

    async def close(self, deadline: float, code: int, reason: str) -> None:
        """
        Close all clients by *deadline*, of ``time.monotonic()``, and wait until they have ended.
        """
        self._closing = True
        self._waiting.clear()
        self.hasten(deadline, code, reason)
        for key in self.running:
            self._watch(key)
        while self.running:
            self._changed.clear()
            await self._changed.wait()

    def hasten(self, deadline: float, code: int = 1000, reason: str = "") -> None:
        """Request that all clients close by *deadline*."""
        for client in list(self.running.values()):
            client.aio._ask_close(max(0.0, deadline - time.monotonic()), CloseFrame(code, reason))

    # --- one stream ---

    def _start_missing(self) -> None:
        missing = [key for key in self.rows if key not in self.running]
        if self._limit is not None:
            missing = missing[: max(0, self._limit - len(self.running))]
        if not missing:
            return
        places = {key: self._place(self.rows[key]) for key in missing}
        clients = {
            key: self._make(self.rows[key], place)
            for key, place in places.items()
            if place is not None
        }
        self.running = self.running | clients
        for key, client in clients.items():
            self._start(key, client)

    def _start(self, key: str, client: Client) -> None:
        try:
            client.start()
        except Exception as error:  # for example, a spool that is in use, or a missing library
            self._on_refused(key, error)
            return
        if self._paused:
            client.pause()

    def _close_some(self) -> None:
        while self._waiting and len(self._ending) < CLOSES:
            self._close(next(iter(self._waiting)))

    def _close(self, key: str) -> None:
        self._waiting.pop(key, None)
        client = self._ending[key] = self.running[key]
        if not client.state.is_final:
            client.request_close()
        self._watch(key)

    def _watch(self, key: str) -> None:
        """
        Call :meth:`_ended` once the client has ended.

        That begins when the client is closed, because user code may start it again before. A client
        that nothing has closed, such as a failed one, stays as it is until its row changes.
        """
        client = self.running[key]

        def tell(_: object) -> None:
            # A client ends on another thread if user code blocks the loop.
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._ended, key, client)

        if client._finished is None:  # it could not start
            tell(None)
        else:
            client._finished.add_done_callback(tell)

    def _ended(self, key: str, client: Client) -> None:
        if self.running.get(key) is not client:
            return
        self._ending.pop(key, None)
        self._changed.set()
        with self._lock:
            self._past = Stats(**total([self._past, client.stats()]))
            self.running = {name: other for name, other in self.running.items() if name != key}
        self._on_ended(key)
        if not self._closing:
            self._close_some()
            self._start_missing()

    # --- facts ---

    def counts(self) -> dict[State, int]:
        """Return how many streams are in each state. It's thread-safe."""
        found: dict[State, int] = {}
        for client in self.running.values():
            state = client.state
            found[state] = found.get(state, 0) + 1
        return found

    def stats(self) -> tuple[Stats, dict[Any, Stats]]:
        """
        Return the sum over the clients that have ended, and the stats of the others by key.

        It's thread-safe. No client is missing or counted twice if it ends at this moment.
        """
        with self._lock:
            past, clients = self._past, self.by_key()
        return past, {key: client.stats() for key, client in clients.items()}

    def by_key(self) -> dict[Any, Client]:
        """Return the clients by their original keys. It's thread-safe."""
        rows = self.rows
        return {rows[key].key if key in rows else key: c for key, c in self.running.items()}
