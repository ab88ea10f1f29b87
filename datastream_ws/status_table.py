"""The table that commands print to show the status of streams."""

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
    The row of one stream in one process.

    Attributes:
        stream: The name of the stream.
        state: The state, or ``stale (…)``.
        is_healthy: Whether the stream is healthy.
        runner: The process, by host and number or by the worker's name. It's empty if unknown.
        seen: Seconds since the last report. ``None`` if there was none.
        since: Seconds in this state, or since the connection opened. ``None`` if unknown.
        message: Seconds since the last message. ``None`` if there was none.
        error: The last error. It's empty if there was none.
        error_age: Seconds since the last error. ``None`` if unknown.
        note: A text for a separate line beneath the row. It may be empty.
        counts: The counters, by the titles of their columns.

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


# The columns from left to right, and the order in which a narrow terminal drops them.
TITLES = (
    *("STREAM", "STATE", "FOR", "RUNNER", "SEEN", "MESSAGE"),
    *("RECEIVED", "HANDLED", "FAILED", "WAITING", "RECONNECTS"),
)
LEFT_OUT_FIRST = (
    "HANDLED", "RECONNECTS", "FOR", "WAITING", "RECEIVED", "SEEN", "MESSAGE", "RUNNER",
)  # fmt: skip
UNROUTED = "UNROUTED"  # shown beneath the row if it isn't 0
WORDS = {"STREAM", "STATE", "RUNNER"}  # left-aligned columns


def table(rows: Sequence[StatusRow], *, width: int | None = None, colored: bool = False) -> str:
    """
    Return a table of streams, with the last error of each beneath its row.

    Args:
        rows: The rows.
        width: The width of the terminal. ``None`` means no limit.
        colored: Whether the states are colored.

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
    """Return an age such as ``3 s`` or ``5 min``, and ``-`` for ``None``."""
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
    """Return the counts of a row from the fields of a health file or a status row."""
    return {title: facts[name] for title, name in COUNTERS.items()}


def age(at: float | None, now: float) -> float | None:
    """Return how long ago a UNIX time was in seconds, or ``None`` for ``None``."""
    return None if at is None else max(0.0, now - at)


def row_of(
    health: StreamHealth,
    now: float,
    max_age: float,
    runner: str,
    share: float = HEALTHY_SHARE,
) -> StatusRow:
    """Return the row of a stream from its health. See ``is_healthy`` for the arguments."""
    state = health.state
    if not is_fresh(health, now, max_age) and state not in DEAD:
        state = f"stale ({state})"
    return StatusRow(
        stream=health.name,
        state=state,
        is_healthy=is_healthy(health, now, max_age, share),
        runner=runner,
        seen=age(health.at, now),
        since=age(health.state_since, now),
        message=age(health.last_message_at, now),
        error=health.last_error or "",
        note=fleet_note(health.streams, health.source_size),
        counts=counts_of(asdict(health)),
    )


def fleet_note(streams: Mapping[str, int] | None, source_size: int | None) -> str:
    """Return the states of a fleet's streams and the size of its source. A client has none."""
    if streams is None:
        return ""
    states = share_note(streams) or "streams: none"
    rows = "unknown" if source_size is None else f"{source_size:,}"
    return f"{states}; rows in the source: {rows}"


def share_note(streams: Mapping[str, int] | None) -> str:
    """Return the states of the fleet's streams in one process, or an empty text."""
    counts = sorted((streams or {}).items(), key=lambda pair: -pair[1])
    states = ", ".join(f"{number:,} {state}" for state, number in counts)
    return f"streams: {states}" if states else ""


# --- on a terminal ---------------------------------------------------------------------------


class Output(Protocol):
    """The output stream of a command."""

    def write(self, text: str, /) -> Any: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


def show(rows: Sequence[StatusRow], output: Output, *, colored: bool = True) -> str:
    """Return the table for *output*. It has colors if *colored* and the terminal has them."""
    if not output.isatty():
        return table(rows)
    has_colors = colored and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return table(rows, width=shutil.get_terminal_size().columns, colored=has_colors)


def watch(
    look: Callable[[], tuple[str, bool]], output: Output, *, redrawn: bool | None = None
) -> bool:
    """
    Print the text that *look* returns every 2 seconds until Ctrl-C.

    Args:
        look: A function that returns a text, and whether all streams are healthy.
        output: The output stream.
        redrawn: Whether each text replaces the one before. ``None`` does so on a terminal.

    Returns:
        Whether all streams were healthy at the end.

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
    """Return *text* with the codes that draw it over the old one, without flicker."""
    moment = time.strftime("%H:%M:%S")
    lines = [f"{moment}, every {WATCH_SECONDS:g} s (Ctrl-C to stop)", "", *text.split("\n")]
    return HOME + "".join(f"{line}{TO_END_OF_LINE}\n" for line in lines) + TO_END
