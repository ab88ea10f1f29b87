"""Let a worker's thread wait for its next work, because waking another one would cost more."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["ThreadRest"]


class ThreadRest:
    """
    The place where the threads of workers wait for work. All methods are thread-safe.

    Args:
        wait: Blocks a thread for a moment until it acquires a lock, and returns whether it did.

    """

    __slots__ = ("_places", "_wait")

    def __init__(self, wait: Callable[[threading.Lock], bool]) -> None:
        self._wait = wait
        self._places: list[threading.Lock] = []

    @property
    def is_taken(self) -> bool:
        return bool(self._places)

    def take(self, must_leave: Callable[[], bool]) -> bool:
        """
        Block until :meth:`end`, and return True. Return False if that takes too long.

        Args:
            must_leave: Checked once the rest is visible to other threads. If true, the result is
                False at once.

        """
        place = threading.Lock()
        place.acquire()
        self._places.append(place)
        if not must_leave() and self._wait(place):
            return True
        try:
            self._places.remove(place)
        except ValueError:  # end() has just chosen this thread
            return True
        return False

    def end(self, most: int) -> int:
        """Wake up to *most* threads, and return how many."""
        for woken in range(most):
            try:
                place = self._places.pop()
            except IndexError:
                return woken
            place.release()
        return most
