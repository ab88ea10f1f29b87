"""Report streams that run in no process because ``limit`` is reached, once per period."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..events import RecentEvent

__all__ = ["LimitMonitor"]

MOST_EVENTS = 50


class LimitMonitor:
    """
    Logs a warning for each period in which streams run nowhere, and a line when it ends.

    Args:
        delay: Seconds before the warning, because a rolling deploy ends such a period soon.
        say: Logs a text at a level.
        is_shared: Whether other processes can take streams.

    Attributes:
        events: The logged events, from old to new. Reading them is thread-safe.
        streams: How many streams run nowhere now.

    """

    def __init__(self, delay: float, say: Callable[[str, str], None], *, is_shared: bool) -> None:
        self.events: tuple[RecentEvent, ...] = ()
        self.streams = 0
        self._delay = delay
        self._say = say
        self._is_shared = is_shared
        self._since: float | None = None
        self._is_told = False

    def update(self, streams: int, limits: Sequence[int]) -> None:
        """
        Record that *streams* streams run nowhere now.

        Args:
            limits: The limits of all processes that share the fleet, or of this process if it is
                not shared.

        """
        self.streams = streams
        if not streams:
            if self._is_told:
                self._tell("info", "every stream has room in a process again")
            self._since, self._is_told = None, False
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if not self._is_told and now - self._since >= self._delay:
            self._is_told = True
            self._tell("warning", _warning(streams, limits, is_shared=self._is_shared))

    def _tell(self, level: str, text: str) -> None:
        event = RecentEvent(time.time(), "limit", text)
        self.events = (*self.events, event)[-MOST_EVENTS:]
        self._say(level, text)


def _warning(streams: int, limits: Sequence[int], *, is_shared: bool) -> str:
    subject = "1 stream runs" if streams == 1 else f"{streams:,} streams run"
    if len(limits) == 1:
        full = f"the limit of this process is reached (limit={limits[0]})"
    else:
        least, most = min(limits), max(limits)
        each = f"limit={least}" if least == most else f"limit={least} to {most}"
        full = f"{len(limits)} processes have reached their limits ({each}, {sum(limits):,} in all)"
    advice = "start another process, or raise limit" if is_shared else "raise limit, or set lease"
    return f"{subject} in no process, because {full}; {advice}"
