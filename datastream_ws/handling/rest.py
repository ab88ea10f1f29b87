"""Let a worker's task wait for its next work, because a new task would cost more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Rest"]

REST_SECONDS = 1.0  # a rest ends after this time, and before twice this time


class Rest:
    """
    The place where one task waits for work. Use it on the loop, except for :attr:`is_taken`.

    Attributes:
        is_taken: Whether a task rests. It's thread-safe.

    """

    __slots__ = ("_loop", "_number", "_timer", "_waiter", "is_taken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self.is_taken = False

    async def take(self, must_leave: Callable[[], bool]) -> bool:
        """
        Wait until :meth:`end`, and return True. Return False if that takes too long.

        Args:
            must_leave: Checked once the rest is visible to other threads. If true, the result is
                False at once.

        """
        self.is_taken = True
        try:
            if must_leave():
                return False
            self._number += 1
            self._timer = self._timer or self._look_later()
            self._waiter = self._loop.create_future()
            return await self._waiter
        finally:
            self.is_taken = False
            self._waiter = None

    def end(self, is_for_work: bool = True) -> None:
        """Wake the task, if one rests; :meth:`take` returns *is_for_work*."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(is_for_work)

    # One timer serves many short rests, because setting one for each would cost more than the rest.

    def _look_later(self) -> asyncio.TimerHandle:
        return self._loop.call_later(REST_SECONDS, self._look, self._number)

    def _look(self, number: int) -> None:
        self._timer = None
        if self._number == number:
            self.end(False)
        elif self._waiter is not None:
            self._timer = self._look_later()

    def stop(self) -> None:
        """Cancel the timer. No task may rest anymore."""
        if self._timer is not None:
            self._timer.cancel()
