"""Report events that may occur at full speed, such as dropped messages, once per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["Throttle"]

REPORT_SECONDS = 1.0  # minimum time between two reports


class Throttle:
    """
    Counts events, and reports them at once or when the last report is REPORT_SECONDS old.

    Call it on the loop's thread.

    Args:
        report: Called with the number of events since the last report.

    """

    __slots__ = ("_count", "_report", "_reported_at", "_timer")

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._count = 0
        self._reported_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def note(self, count: int = 1) -> None:
        self._count += count
        wait = self._reported_at + REPORT_SECONDS - time.monotonic()
        if wait <= 0:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self.flush)

    def flush(self) -> None:
        """Report the events that are not reported yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        count, self._count = self._count, 0
        if count:
            self._reported_at = time.monotonic()
            self._report(count)
