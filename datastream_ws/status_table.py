"""How streams are, as a table for a terminal: ages instead of times, as wide as there is room."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from .health import DEAD, HEALTHY_SHARE, StreamHealth, is_fresh, is_healthy
from .redaction import escaped

__all__ = [
    "StatusRow",
    "age",
    "counts_of",
    "fleet_note",
    "row_of",
    "share_note",
    "show",
    "shown_age",
    "table",
    "watch",
]

WATCH_SECONDS = 2.0
GAP = "  "
LONGEST = 40  # characters of a name
GREEN, RED, BOLD, PLAIN = "\x1b[32m", "\x1b[1;31m", "\x1b[1m", "\x1b[0m"
CLEAR, HOME, TO_END_OF_LINE, TO_END = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"
UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))
SHORT = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """
    One stream in one process.

    Attributes:
        runner: Which process: its host and number, or a worker's name; empty: none is known.
        seen: Seconds since the process last said so; ``None``: it never has.
        since: Seconds in this state, or connected; ``None``: unknown.
        message: Seconds since the last message; ``None``: there was none.
        error: What went wrong last, and its age in seconds as *error_age*; empty: nothing.
        note: More about it, on a line of its own; empty: nothing.
        counts: By the title of their column.

    """

    stream: str
    state: str
    is_healthy: bool
    runner: str = ""
    seen: float | None = None
    since: float | None = None
    message: float | None = None
    error: str = ""
    error_age: float | None = None
    note: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def cells(self, titles: Iterable[str]) -> list[str]:
        shown = {
            "STREAM": _cut(self.stream),
            "STATE": _cut(self.state),
            "FOR": shown_age(self.since),
            "RUNNER": _cut(self.runner) or "-",
            "SEEN": shown_age(self.seen),
            "MESSAGE": shown_age(self.message),
        }
        return [shown.get(title) or _count(self.counts.get(title)) for title in titles]


# From left to right, and which is left out first where there is too little room.
TITLES = (
    *("STREAM", "STATE", "FOR", "RUNNER", "SEEN", "MESSAGE"),
    *("RECEIVED", "HANDLED", "FAILED", "WAITING", "RECONNECTS"),
)
LEFT_OUT_FIRST = (
    "HANDLED", "RECONNECTS", "FOR", "WAITING", "RECEIVED", "SEEN", "MESSAGE", "RUNNER",
)  # fmt: skip
UNROUTED = "UNROUTED"  # told beneath the row where there are such messages
WORDS = {"STREAM", "STATE", "RUNNER"}  # to the left, the others to the right


def table(rows: Sequence[StatusRow], *, width: int | None = None, colored: bool = False) -> str:
    """
    Return a table of streams: ages in seconds, minutes, hours or days, errors beneath their rows.

    Args:
        width: Columns of the terminal; ``None``: as wide as need be.
        colored: Whether states have colors; their words say the same.

    """
    titles = list(TITLES)
    for title in LEFT_OUT_FIRST:
        if width is None or sum(_widths(titles, rows)) + len(GAP) * (len(titles) - 1) <= width:
            break
        titles.remove(title)
    widths = _widths(titles, rows)
    lines = [_line(titles, titles, widths, BOLD if colored else "")]
    for row in rows:
        color = (GREEN if row.is_healthy else RED) if colored else ""
        lines.append(_line(row.cells(titles), titles, widths, color, only="STATE"))
        lines.extend(_beneath(row, width))
    return "\n".join(lines)


def _widths(titles: Sequence[str], rows: Sequence[StatusRow]) -> list[int]:
    lines = [titles, *(row.cells(titles) for row in rows)]
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _line(
    cells: Sequence[str], titles: Sequence[str], widths: Sequence[int], color: str, only: str = ""
) -> str:
    shown = []
    for cell, title, width in zip(cells, titles, widths, strict=True):
        text = cell.ljust(width) if title in WORDS else cell.rjust(width)
        shown.append(f"{color}{text}{PLAIN}" if color and only in ("", title) else text)
    return GAP.join(shown).rstrip()


def _beneath(row: StatusRow, width: int | None) -> Iterable[str]:
    """Yield the lines beneath a row."""
    if unrouted := row.counts.get(UNROUTED):
        yield _fitting(f"  messages without a handler: {unrouted:,}", width)
    if row.note:
        yield _fitting(f"  {escaped(row.note)}", width)
    if row.error:
        age = "" if row.error_age is None else f", {shown_age(row.error_age)} ago"
        yield _fitting(f"  last error{age}: {escaped(row.error)}", width)


def _fitting(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def _cut(text: str) -> str:
    text = escaped(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    for size, letter in SHORT:
        if number >= 100 * size:
            return f"{number / size:.0f} {letter}"
    return str(number)


def shown_age(seconds: float | None) -> str:
    """Return an age for people, ``3 s`` or ``5 min``; ``-`` for ``None``."""
    if seconds is None:
        return "-"
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# --- rows ------------------------------------------------------------------------------------

COUNTERS = {
    "RECEIVED": "messages_received",
    "HANDLED": "messages_handled",
    "FAILED": "messages_failed",
    "WAITING": "messages_waiting",
    "RECONNECTS": "reconnects",
    UNROUTED: "messages_unrouted",
}


def counts_of(facts: Mapping[str, Any]) -> dict[str, int]:
    """Return the counts of a row, out of what health files and status rows have."""
    return {title: facts[name] for title, name in COUNTERS.items()}


def age(at: float | None, now: float) -> float | None:
    """Return how long ago a UNIX time is; ``None`` as it was given."""
    return None if at is None else max(0.0, now - at)


def row_of(
    health: StreamHealth,
    now: float,
    max_age: float,
    runner: str,
    share: float = HEALTHY_SHARE,
) -> StatusRow:
    """Return the row of a stream as its process described it; arguments as of ``is_healthy``."""
    state = health.state
    if not is_fresh(health, now, max_age) and state not in DEAD:
        state = f"stale ({state})"
    return StatusRow(
        stream=health.name,
        state=state,
        is_healthy=is_healthy(health, now, max_age, share),
        runner=runner,
        seen=age(health.at, now),
        since=age(health.connected_since, now),
        message=age(health.last_message_at, now),
        error=health.last_error or "",
        note=fleet_note(health.streams, health.source_size),
        counts=counts_of(asdict(health)),
    )


def fleet_note(streams: Mapping[str, int] | None, source_size: int | None) -> str:
    """Return how the streams of a fleet are; empty: it is none."""
    if streams is None:
        return ""
    states = share_note(streams) or "streams: none here"
    return f"{states}; rows in the source: {source_size or 0:,}"


def share_note(streams: Mapping[str, int] | None) -> str:
    """Return how the streams are that one process has of a fleet; empty: it has none."""
    counts = sorted((streams or {}).items(), key=lambda pair: -pair[1])
    states = ", ".join(f"{number:,} {state}" for state, number in counts)
    return f"streams: {states}" if states else ""


# --- on a terminal ---------------------------------------------------------------------------


class Output(Protocol):
    """Where a command writes."""

    def write(self, text: str, /) -> Any: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


def show(rows: Sequence[StatusRow], output: Output, *, colored: bool = True) -> str:
    """Return the table as *output* can have it; *colored*: unless the terminal has no colors."""
    if not output.isatty():
        return table(rows)
    has_colors = colored and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return table(rows, width=shutil.get_terminal_size().columns, colored=has_colors)


def watch(
    look: Callable[[], tuple[str, bool]], output: Output, *, redrawn: bool | None = None
) -> bool:
    """
    Print what *look* returns every two seconds until Ctrl-C.

    Args:
        look: Returns a text, and whether all is well.
        redrawn: Whether each takes the place of the one before; ``None``: on a terminal.

    Returns:
        Whether all was well at the end.

    """
    well = False
    in_place = output.isatty() if redrawn is None else redrawn
    try:
        if in_place:
            output.write(CLEAR)
        while True:
            text, well = look()
            output.write(_in_place(text) if in_place else f"{text}\n")
            output.flush()
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return well


def _in_place(text: str) -> str:
    """Return *text* as drawn over what is on the terminal, without a flicker."""
    moment = time.strftime("%H:%M:%S")
    lines = [f"{moment}, every {WATCH_SECONDS:g} s; Ctrl-C ends it", "", *text.split("\n")]
    return HOME + "".join(f"{line}{TO_END_OF_LINE}\n" for line in lines) + TO_END
