"""Log the lines of a fleet's streams, and summarize them when there are many."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..forks import in_child
from ..log_fields import fields, write
from ..protocols import Logger

__all__ = ["Summary", "counted"]

LINES = 10  # lines that streams may log per window before they are summarized
WINDOW = 5.0  # seconds
KINDS = 4  # kinds of lines that a summary names

TROUBLE = ("warning", "error")
LEVELS = ("debug", "info", "warning", "error")


class Summary:
    """
    The logger of all streams of a fleet. It's thread-safe.

    A window begins with a line. Lines beyond its limit are counted, and :meth:`flush`, which the
    fleet calls regularly, summarizes them in one line. Tracebacks of handlers count as lines. The
    first warning or error of each kind is always logged, because the summary contains no text to
    explain it.

    Args:
        logger: Receives the lines.
        name: The name of the fleet.
        states: Returns a text with the number of streams in each state.

    """

    takes_fields = True

    def __init__(self, logger: Logger, name: str, states: Callable[[], str]) -> None:
        self.logger = logger
        self._name = name
        self._states = states
        self._began = float("-inf")
        self._lines = 0
        self._shown: set[tuple[str, str]] = set()  # kinds that were logged in this window
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        in_child(self.renew_lock)

    def renew_lock(self) -> None:
        """Replace the lock after a fork, because a thread of the parent may hold it."""
        self._lock = threading.Lock()

    def debug(self, msg: str, *args: Any, **more: Any) -> None:
        self._take("debug", msg, args, more)

    def info(self, msg: str, *args: Any, **more: Any) -> None:
        self._take("info", msg, args, more)

    def warning(self, msg: str, *args: Any, **more: Any) -> None:
        self._take("warning", msg, args, more)

    def error(self, msg: str, *args: Any, **more: Any) -> None:
        self._take("error", msg, args, more)

    def _take(self, level: str, msg: str, args: Any, more: dict[str, Any]) -> None:
        extra = more.get("extra") or {}
        kind = level, str(extra.get("error") or extra.get("state") or "other")
        with self._lock:
            if time.monotonic() - self._began >= WINDOW and not self._left_out:
                self._begin()
            self._lines += 1
            is_news = level in TROUBLE and kind not in self._shown
            if self._lines > LINES and not is_news:
                self._left_out[kind] += 1
                return
            self._shown.add(kind)
        write(self.logger, level, msg, *args, exc_info=more.get("exc_info"), extra=extra)

    def flush(self, *, now: bool = False) -> None:
        """
        Log a summary of the counted lines once their window has ended.

        Args:
            now: Log it even if the window has not ended.

        """
        with self._lock:
            if not self._left_out or (not now and time.monotonic() - self._began < WINDOW):
                return
            left_out, self._left_out = self._left_out, Counter()
            self._begin()
        level = max((level for level, _ in left_out), key=LEVELS.index)
        by_kind: Counter[str] = Counter()
        for (_, kind), count in left_out.items():
            by_kind[kind] += count
        kinds = ", ".join(f"{kind}: {n:,}" for kind, n in by_kind.most_common(KINDS))
        self.say(
            level,
            "%s; %s of its streams (%s)",
            self._states(),
            counted(left_out.total(), "more line"),
            kinds,
        )

    def _begin(self) -> None:
        self._began, self._lines, self._shown = time.monotonic(), 0, set()

    def say(self, level: str, text: str, *args: Any) -> None:
        """Log a line about the fleet itself."""
        extra = fields(self._name)
        write(self.logger, level, "fleet %s: " + text, self._name, *args, extra=extra)


def counted(number: int, noun: str = "stream") -> str:
    """Return a number and a noun that agrees with it, such as "1 stream" or "2,000 streams"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
