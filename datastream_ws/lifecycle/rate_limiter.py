"""The rate limit for connection attempts that many streams of one process share."""

from __future__ import annotations

import asyncio
from collections import deque

from ..connection.pacing import Pacing

__all__ = ["RateLimiter"]


class RateLimiter:
    """
    Lets at most *dials* connection attempts begin in any *seconds*, in order of request.

    Reconnects count toward this limit, which protects a restarting server. Call it on one
    loop's thread.
    """

    def __init__(self, dials: int, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pacing = Pacing(dials, seconds)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def acquire(self) -> asyncio.Future[None]:
        """
        Return a future that resolves when the caller may connect.

        Cancel the future to withdraw the request.
        """
        permit: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(permit)
        if self._timer is None:
            self._grant()
        return permit

    @property
    def waiting(self) -> int:
        """The number of waiting requests. Any thread may read it. It may include canceled ones."""
        return len(self._waiting)

    def _grant(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting and (self._waiting[0].done() or self._pacing.due(now) <= now):
            permit = self._waiting.popleft()
            if not permit.done():
                permit.set_result(None)
                self._pacing.sent(1, now)
        if self._waiting:
            self._timer = self._loop.call_at(self._pacing.due(now), self._grant)
