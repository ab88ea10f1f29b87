"""The data of the admin pages: a card for each stream, and the points of charts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Aggregate, F, Max, Q, Sum
from django.utils import timezone

from datastream_ws.embedding import DEAD, HEALTHY, MAX_AGE

from .health import fleet_report
from .models import StreamLease, StreamMinute, StreamStatus

__all__ = ["RANGES", "Card", "cards", "history"]

# For each name, the minutes shown and the minutes of one point.
RANGES = {"1h": (60, 1), "24h": (1440, 5), "7d": (10080, 30)}
PATIENCE = timedelta(seconds=30)  # of reconnecting, after which the stream counts as unwell
MOST_GONE = 20  # ended processes that a page lists
WELL, WARNING, UNWELL = "well", "warning", "unwell"
WORDS = {WELL: "healthy", WARNING: "reconnecting", UNWELL: "not running"}


@dataclass(frozen=True, slots=True)
class Card:
    """
    The summary of a stream, over all processes that run it.

    Attributes:
        state: The best state that a process reports, or ``"never started"`` or ``"stale"``.
        tone: ``"well"``, ``"warning"`` or ``"unwell"``.
        since: Time of the last change of state. ``None`` if no process has reported one.
        rate: Messages handled per second.
        lag: Seconds for which the oldest message has waited. ``None`` if no message waits.
        points: Points of the last hour's sparkline, for an SVG polyline in a box of 100 × 30.
        living: Rows of processes with a fresh heartbeat.
        gone: Rows of processes that have ended or no longer report.
        counts: For a fleet, the number of streams in each state. ``None`` for a single stream.
        size: For a fleet, the number of rows in its source.

    """

    alias: str
    state: str
    tone: str
    since: datetime | None
    rate: float
    lag: float | None
    error: str
    error_at: datetime | None
    holder: str
    epoch: int | None
    points: str
    living: Sequence[StreamStatus]
    gone: Sequence[StreamStatus]
    counts: dict[str, int] | None = None
    size: int | None = None

    @property
    def word(self) -> str:
        """The tone as a word, for readers who can't see its color."""
        if self.living and self.counts is not None and self.tone == UNWELL:
            return "too few streams are ready"
        return WORDS[self.tone] if self.living else WORDS[UNWELL]

    @property
    def waiting(self) -> int:
        return sum(row.messages_waiting for row in self.living)

    @property
    def reconnects(self) -> int:
        return sum(row.reconnects for row in self.living)

    @property
    def handlers(self) -> list[tuple[str, dict[str, Any]]]:
        """The statistics of each handler, from the process with the most calls."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.living:
            for name, figures in row.handlers.items():
                if name not in found or figures["calls"] > found[name]["calls"]:
                    found[name] = figures
        return sorted(found.items())


def cards(aliases: Sequence[str]) -> list[Card]:
    """Return a card for each stream. This takes three queries for any number of streams."""
    rows: dict[str, list[StreamStatus]] = {alias: [] for alias in aliases}
    for row in StreamStatus.objects.filter(stream__in=aliases).order_by("-beat_at"):
        rows[row.stream].append(row)
    leases = {row.stream: row for row in StreamLease.objects.filter(stream__in=aliases)}
    lines = sparklines(aliases)
    found = [card(alias, rows[alias], leases.get(alias), lines[alias]) for alias in aliases]
    return [with_streams(each) if is_fleet(each) else each for each in found]


def is_fleet(card: Card) -> bool:
    return any(row.streams is not None for row in (*card.living, *card.gone))


def with_streams(card: Card) -> Card:
    """Return the card of a fleet, with the counts of its streams."""
    parts = [(row.streams or {}, row.source_size) for row in card.living]
    found = fleet_report(card.alias, parts, [*card.living, *card.gone])
    unwell = [row for row in card.living if row.state not in HEALTHY]
    is_new = bool(unwell) and all(is_recent(row.state_since) for row in unwell)
    tone = WELL if found.is_healthy else WARNING if is_new else UNWELL
    return replace(
        card,
        state=found.state if found.is_live else card.state,
        tone=tone if found.is_live else card.tone,
        counts=found.streams,
        size=found.source_size,
        holder="",
        epoch=None,  # its row in the leases' table only counts: processes share a fleet
    )


def card(alias: str, rows: Sequence[StreamStatus], lease: StreamLease | None, points: str) -> Card:
    oldest = timezone.now() - timedelta(seconds=MAX_AGE)
    living = [row for row in rows if row.beat_at >= oldest and row.state not in DEAD]
    gone = [row for row in rows if row not in living]
    best = min(living, key=goodness, default=None) or next(iter(gone), None)
    failing = max(
        (row for row in rows if row.last_error),
        key=lambda row: (row in living, row.last_error_at or row.beat_at),
        default=None,
    )
    return Card(
        alias=alias,
        state=state_of(best, is_living=bool(living)),
        tone=tone_of(best) if best and living else UNWELL,
        since=(best.state_since if living else best.beat_at) if best else None,
        rate=sum(row.rate for row in living),
        lag=max(
            (row.oldest_waiting for row in living if row.oldest_waiting is not None), default=None
        ),
        error=failing.last_error if failing else "",
        error_at=failing.last_error_at if failing else None,
        holder=holder_of(lease),
        epoch=lease.epoch if lease else None,
        points=points,
        living=living,
        gone=gone[:MOST_GONE],
    )


def running() -> Q:
    """Return the condition for rows of processes that run the stream."""
    oldest = timezone.now() - timedelta(seconds=MAX_AGE)
    return Q(beat_at__gte=oldest) & ~Q(state__in=DEAD)


def goodness(row: StreamStatus) -> tuple[bool, bool, float]:
    """Return a sort key: ready rows first, then healthy ones, then the newest heartbeat."""
    return row.state != "ready", row.state not in HEALTHY, -row.beat_at.timestamp()


def state_of(best: StreamStatus | None, *, is_living: bool) -> str:
    if best is None:
        return "never started"
    return best.state if is_living or best.state in DEAD else "stale"


def tone_of(row: StreamStatus) -> str:
    if row.state in HEALTHY:
        return WELL
    return WARNING if is_recent(row.state_since) else UNWELL


def is_recent(since: datetime | None) -> bool:
    return since is not None and timezone.now() - since < PATIENCE


def holder_of(lease: StreamLease | None) -> str:
    """Return host and process from the token of a lease's holder."""
    if lease is None or not lease.holder:
        return ""
    host, _, rest = lease.holder.partition(":")
    return f"{host}, process {rest.partition(':')[0]}"


def sparklines(aliases: Sequence[str]) -> dict[str, str]:
    """Return the points of each stream's sparkline."""
    now = int(time.time() // 60)
    found = StreamMinute.objects.filter(stream__in=aliases, minute__gte=now - 60)
    handled: dict[str, dict[int, int]] = {alias: {} for alias in aliases}
    for row in found.values("stream", "minute").annotate(handled=Sum("handled")):
        handled[row["stream"]][row["minute"]] = row["handled"]
    return {alias: points(by_minute, now) for alias, by_minute in handled.items()}


def points(by_minute: dict[int, int], now: int) -> str:
    if not by_minute:
        return ""
    highest = max(1, *by_minute.values())
    values = [by_minute.get(now - 60 + n, 0) for n in range(60)]
    return " ".join(
        f"{n * 100 / 59:.1f},{29 - 28 * value / highest:.1f}" for n, value in enumerate(values)
    )


def history(alias: str, name: str) -> dict[str, Any]:
    """
    Return the points of a chart, summed over processes.

    Args:
        alias: Name of the stream.
        name: A key of ``RANGES``.

    """
    span, step = RANGES[name]
    end = int(time.time() // 60) + 1
    start = (end - span) // step * step
    found = StreamMinute.objects.filter(stream=alias, minute__gte=start)
    sums = ("received", "handled", "failed", "reconnects", "connected")
    values: dict[str, Aggregate] = {name: Sum(name) for name in sums}
    values |= {"waiting": Max("waiting"), "p95": Max("handler_p95")}
    # The underscore, because a name must not be that of a column.
    buckets = found.values(bucket=F("minute") - F("minute") % step).annotate(
        **{f"{name}_": value for name, value in values.items()}
    )
    rows = [
        {"at": row["bucket"] * 60} | {name: row[f"{name}_"] for name in values}
        for row in buckets.order_by("bucket")
    ]
    return {"start": start * 60, "end": end * 60, "step": step * 60, "points": rows}
