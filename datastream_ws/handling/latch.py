"""A flag for threads that wait, small enough for a thousand idle clients."""

from __future__ import annotations

import threading
from contextlib import suppress

__all__ = ["Latch"]


class Latch:
    """
    A ``threading.Event`` that is set once. It takes 0.2 KiB instead of 1.2.

    A lock is held until then. Each waiting thread acquires it and releases it for the next one.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Set the flag and wake all waiting threads. Calling it again has no effect."""
        self._is_set = True
        self._release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait up to *seconds*. ``None`` means no limit. Return whether the flag is set."""
        timeout = -1 if seconds is None else max(0.0, seconds)
        if not self._is_set and self._lock.acquire(timeout=timeout):
            self._release()
        return self._is_set

    def _release(self) -> None:
        with suppress(RuntimeError):  # another thread released it at the same moment
            self._lock.release()
