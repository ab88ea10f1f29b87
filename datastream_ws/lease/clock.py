"""Provide the clock that measures leases."""

from __future__ import annotations

import time

__all__ = ["clock"]

if hasattr(time, "CLOCK_BOOTTIME"):

    def clock() -> float:
        """Return seconds that continue while the machine sleeps, as they do for the store."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    clock = time.monotonic
