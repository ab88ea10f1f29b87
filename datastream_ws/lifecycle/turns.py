"""Whose turn it is to dial, where many streams of one process share a rate."""

from __future__ import annotations

import asyncio
from collections import deque

from ..connection.pacing import Pacing

__all__ = ["Turns"]


class Turns:
    """
    Lets so many dials begin in so many seconds, first come, first served; on one loop's thread.

    Every dial counts, reconnects included: a server that restarts meets a storm of this size.
    """

    def __init__(self, dials: int, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pacing = Pacing(dials, seconds)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def next(self) -> asyncio.Future[None]:
        """Return a future that is done when it is the caller's turn. Canceled, it takes none."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        if self._timer is None:
            self._grant()
        return turn

    @property
    def waiting(self) -> int:
        """How many wait, including those that were just canceled. From any thread."""
        return len(self._waiting)

    def _grant(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting and (self._waiting[0].done() or self._pacing.due(now) <= now):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._pacing.sent(1, now)
        if self._waiting:
            self._timer = self._loop.call_at(self._pacing.due(now), self._grant)
