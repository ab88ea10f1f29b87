"""Measure how late the timers of this machine are, so that tests can use exact time limits."""

from __future__ import annotations

import threading
import time
from typing import Self

__all__ = ["Lag"]

TICK = 0.01  # seconds


class Lag:
    """
    A timer on its own thread, which ``with`` starts and stops.

    Attributes:
        seconds: The sum of the delays of all ticks. Other threads of this process were delayed by
            about the same time.

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
