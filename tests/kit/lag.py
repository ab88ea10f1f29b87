"""Measure how late the timers of this machine are, so that tests can use exact time limits."""

from __future__ import annotations

import threading
import time
from typing import Self

__all__ = ["Lag"]

TICK = 0.01  # seconds


class Lag:
    """
    A timer on a thread of its own; ``with`` starts and stops it.

    Attributes:
        seconds: By which all ticks so far were late. Whoever shares the machine, and the
            interpreter's lock, was held up by about as much.

    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(TICK):
            now = time.monotonic()
            self.seconds += max(0.0, now - before - TICK)
            before = now
