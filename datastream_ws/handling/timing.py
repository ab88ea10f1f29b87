"""
Count and time the calls of each handler.

Reading the clock costs as much as a quick handler. A run therefore records every call, but times
only slow calls and about one in a hundred quick ones. A timed quick call represents the untimed
ones. Runs publish their notes at their end, and after a handler has raised.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..handlers import Handler
from ..stats import HandlerStats

__all__ = ["Notes", "Timings"]

QUICK_SECONDS = 0.001  # a longer call is recorded individually
STEPS = 4  # buckets per doubling, so percentiles are exact to 10 %
SHORTEST = 1e-7  # seconds; shorter calls count in the first bucket
FADE_SECONDS = 300.0  # half-life of the weights, so that percentiles follow recent calls


class Times:
    """A histogram of one handler's call times, with buckets that double every STEPS."""

    __slots__ = ("calls", "failures", "longest", "typical", "weights")

    def __init__(self) -> None:
        self.calls = self.failures = 0
        self.longest = 0.0
        self.typical: int | None = None  # bucket of the last timed quick call
        self.weights: dict[int, float] = {}

    def add(self, seconds: float, weight: float = 1.0) -> None:
        bucket = round(math.log2(seconds if seconds > SHORTEST else SHORTEST) * STEPS)
        self.weights[bucket] = self.weights.get(bucket, 0.0) + weight
        if seconds > self.longest:
            self.longest = seconds
        if seconds < QUICK_SECONDS:
            self.typical = bucket

    def count(self, calls: int, untimed: int) -> None:
        """Count *calls* calls; *untimed* of them were as quick as the last timed quick call."""
        self.calls += calls
        if self.typical is not None and untimed > 0:
            self.weights[self.typical] = self.weights.get(self.typical, 0.0) + untimed

    def fade(self) -> None:
        # Drop negligible weights, because halving would never remove them.
        self.weights = {at: weight / 2 for at, weight in self.weights.items() if weight > 0.1}

    def percentile(self, share: float) -> float | None:
        """
        Return the seconds that *share* of the calls do not exceed.

        ``None`` means that no call was timed.
        """
        left = share * sum(self.weights.values())
        for bucket, weight in sorted(self.weights.items()):
            left -= weight
            if left <= 1e-9:
                return float(min(2.0 ** (bucket / STEPS), self.longest))
        return None

    def stats(self) -> HandlerStats:
        return HandlerStats(
            calls=self.calls,
            failures=self.failures,
            p50=self.percentile(0.5),
            p95=self.percentile(0.95),
            max=self.longest if self.weights or self.longest else None,
        )


class Timings:
    """
    The call counts and times of all handlers during one ``start()``. The methods are thread-safe.

    Args:
        clock: Returns seconds; used for fading only.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[str, Times] = {}
        self._by_handler: dict[Handler, Times] = {}
        self._faded_at = clock()

    def _of(self, handler: Handler) -> Times:
        times = self._by_handler.get(handler)
        if times is None:
            times = self._by_handler[handler] = self._times.setdefault(handler.name, Times())
        return times

    def add(self, called: Mapping[Handler, int], timed: Sequence[tuple[Handler, float]]) -> None:
        """
        Add the notes of a run.

        Args:
            called: The number of calls of each handler.
            timed: Handlers and seconds of those calls that were timed.

        """
        with self._lock:
            untimed = dict(called)
            for handler, seconds in timed:
                self._of(handler).add(seconds)
                untimed[handler] = untimed.get(handler, 0) - 1
            for handler, calls in called.items():
                self._of(handler).count(calls, untimed[handler])
            self._fade()

    def count(self, handler: Handler, calls: int) -> None:
        """Add *calls* untimed quick calls of one handler."""
        with self._lock:
            self._of(handler).count(calls, calls)

    def failed(self, handler: Handler) -> None:
        """Count a call that failed finally, after any retry."""
        with self._lock:
            self._of(handler).failures += 1

    def _fade(self) -> None:
        now = self._clock()
        if now - self._faded_at >= FADE_SECONDS:
            self._faded_at = now
            self._by_handler.clear()  # it would keep handlers that were removed long ago
            for times in self._times.values():
                times.fade()

    def stats(self) -> dict[str, HandlerStats]:
        """Return the statistics of each handler that was called, by name."""
        with self._lock:
            return {name: times.stats() for name, times in self._times.items()}

    def abandon(self) -> None:
        """Replace the lock after a fork, because a thread of the parent may hold it."""
        self._lock = threading.Lock()


class Notes:
    """
    The calls that one run has recorded, without a lock; used by the run's thread or task only.

    Attributes:
        called: One entry per call, except calls reported to :meth:`add_up_only`.
        timed: Handlers and seconds of the timed calls.

    """

    __slots__ = ("_seen", "_timings", "called", "timed")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._seen: set[Handler] = set()
        self.called: list[Handler] = []
        self.timed: list[tuple[Handler, float]] = []

    def call(self, handler: Handler, seconds: float) -> None:
        """Record a call, and its time if it was slow or the first of this handler."""
        if seconds > QUICK_SECONDS or handler not in self._seen:
            self._seen.add(handler)
            self.note(handler, seconds)
        self.called.append(handler)

    def note(self, handler: Handler, seconds: float) -> None:
        """Record the seconds of a call that is counted elsewhere."""
        self.timed.append((handler, seconds))

    def add_up_only(self, handler: Handler, calls: int) -> None:
        """Publish and clear the notes of a run in which only *handler* was called."""
        if self.timed:
            self._timings.add({handler: calls}, self.timed)
            self.timed.clear()
        elif calls:
            self._timings.count(handler, calls)

    def add_up(self) -> None:
        """Publish and clear the notes."""
        if self.called:
            self._timings.add(Counter(self.called), self.timed)
            for noted in (self.called, self.timed, self._seen):
                noted.clear()
