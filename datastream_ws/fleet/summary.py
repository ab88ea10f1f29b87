"""A fleet's log: lines of its streams as they are while they are few, summed up when many come."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..forks import in_child
from ..log_fields import fields, write
from ..protocols import Logger

__all__ = ["Summary"]

LINES = 10  # that streams may log within a window before they are summed up
WINDOW = 5.0  # seconds
KINDS = 4  # kinds of lines that a sum names

TROUBLE = ("warning", "error")
LEVELS = ("debug", "info", "warning", "error")


class Summary:
    """
    The logger of all streams of a fleet; from any thread.

    A window begins with a line. What exceeds its limit is counted, and told in one line at its end
    by :meth:`flush`, which the fleet calls regularly. Tracebacks of handlers count like lines: ten
    of a kind say what a thousand would. The first warning or error of its kind is never counted
    away, because the sum holds no text that would explain it.

    Args:
        logger: Where the lines go.
        name: Of the fleet.
        states: Returns how many streams are in each state, as a text.

    """

    takes_fields = True

    def __init__(self, logger: Logger, name: str, states: Callable[[], str]) -> None:
        self.logger = logger
        self._name = name
        self._states = states
        self._began = float("-inf")
        self._lines = 0
        self._shown: set[tuple[str, str]] = set()  # kinds of this window of which there was a line
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        in_child(self.renew_lock)

    def renew_lock(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
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
        self._write(level, msg, *args, exc_info=more.get("exc_info"), extra=extra)

    def flush(self, *, now: bool = False) -> None:
        """Tell what was left out, if the window is over; *now*: even if it is not."""
        with self._lock:
            if not self._left_out or (not now and time.monotonic() - self._began < WINDOW):
                return
            counted, self._left_out = self._left_out, Counter()
            self._begin()
        level = max((level for level, _ in counted), key=LEVELS.index)
        by_kind: Counter[str] = Counter()
        for (_, kind), count in counted.items():
            by_kind[kind] += count
        kinds = ", ".join(f"{kind}: {n:,}" for kind, n in by_kind.most_common(KINDS))
        self.say(
            level,
            "%s; %s more lines of its streams (%s)",
            self._states(),
            f"{counted.total():,}",
            kinds,
        )

    def _begin(self) -> None:
        self._began, self._lines, self._shown = time.monotonic(), 0, set()

    def say(self, level: str, text: str, *args: Any) -> None:
        """Log a line of the fleet's own."""
        extra = fields(self._name)
        self._write(level, "fleet %s: " + text, self._name, *args, exc_info=None, extra=extra)

    def _write(self, level: str, text: str, *args: Any, exc_info: Any, extra: Any) -> None:
        with suppress(Exception):  # a logger is the user's code
            write(self.logger, level, text, *args, exc_info=exc_info, extra=extra)
