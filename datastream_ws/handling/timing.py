"""
How often each handler was called, how often it failed, and how long it takes.

A look at the clock costs as much as a quick handler does. So a run notes every call, but the time
of a few: of a slow call always, and of one quick call in about a hundred, which stands for the
others. What a run has noted is added up at its end, or when a handler has raised.
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

QUICK_SECONDS = 0.001  # a call that takes longer is noted by itself
STEPS = 4  # buckets for each doubling: a percentile is right to 10 %
SHORTEST = 1e-7  # seconds; what is shorter is in the first bucket
FADE_SECONDS = 300.0  # after so long, what was seen before counts half: percentiles are recent ones


class Times:
    """The times of one handler, as weights of buckets whose width grows with the time."""

    __slots__ = ("calls", "failures", "longest", "typical", "weights")

    def __init__(self) -> None:
        self.calls = self.failures = 0
        self.longest = 0.0
        self.typical: int | None = None  # the bucket of the quick call that was timed last
        self.weights: dict[int, float] = {}

    def add(self, seconds: float, weight: float = 1.0) -> None:
        bucket = round(math.log2(seconds if seconds > SHORTEST else SHORTEST) * STEPS)
        self.weights[bucket] = self.weights.get(bucket, 0.0) + weight
        if seconds > self.longest:
            self.longest = seconds
        if seconds < QUICK_SECONDS:
            self.typical = bucket

    def count(self, calls: int, untimed: int) -> None:
        """Count calls; so many of them were quick: as long as the one that was timed last."""
        self.calls += calls
        if self.typical is not None and untimed > 0:
            self.weights[self.typical] = self.weights.get(self.typical, 0.0) + untimed

    def fade(self) -> None:
        # Weights below a tenth of a call would never be gone.
        self.weights = {at: weight / 2 for at, weight in self.weights.items() if weight > 0.1}

    def percentile(self, share: float) -> float | None:
        """Return the time that *share* of the calls do not exceed; ``None``: none is known."""
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
    The times of the handlers of one ``start()``; from any thread.

    Args:
        clock: Seconds; for fading only.

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
        Add up what a run has noted.

        Args:
            called: How often each handler was called.
            timed: Calls among these, and how many seconds they took.

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
        """Add calls of one handler that were quick."""
        with self._lock:
            self._of(handler).count(calls, calls)

    def failed(self, handler: Handler) -> None:
        """A call has raised for good."""
        with self._lock:
            self._of(handler).failures += 1

    def _fade(self) -> None:
        now = self._clock()
        if now - self._faded_at >= FADE_SECONDS:
            self._faded_at = now
            for times in self._times.values():
                times.fade()

    def stats(self) -> dict[str, HandlerStats]:
        """Return the figures of each handler that was called, by its name."""
        with self._lock:
            return {name: times.stats() for name, times in self._times.items()}

    def abandon(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()


class Notes:
    """
    What one run notes of its calls; in its own thread or task, without a lock.

    Attributes:
        called: A handler for each call whose number is not given to :meth:`add_up_only`.
        timed: Calls and their seconds.

    """

    __slots__ = ("_seen", "_timings", "called", "timed")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._seen: set[Handler] = set()
        self.called: list[Handler] = []
        self.timed: list[tuple[Handler, float]] = []

    def call(self, handler: Handler, seconds: float) -> None:
        """Note a call; its time if it was slow, or the first of this handler here."""
        if seconds > QUICK_SECONDS or handler not in self._seen:
            self._seen.add(handler)
            self.note(handler, seconds)
        self.called.append(handler)

    def note(self, handler: Handler, seconds: float) -> None:
        """Note how long a call took; the call itself is noted elsewhere."""
        self.timed.append((handler, seconds))

    def add_up_only(self, handler: Handler, calls: int) -> None:
        """Hand over what was noted, where only *handler* was called; begin anew."""
        if self.timed:
            self._timings.add({handler: calls}, self.timed)
            self.timed.clear()
        elif calls:
            self._timings.count(handler, calls)

    def add_up(self) -> None:
        """Hand over what was noted so far, and begin anew."""
        if self.called:
            self._timings.add(Counter(self.called), self.timed)
            for noted in (self.called, self.timed, self._seen):
                noted.clear()
