"""The part of a fleet's admin page that counts and lists its streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Case, Exists, OuterRef, Q, QuerySet, Value, When
from django.db.models.functions import Lower, Substr
from django.utils import timezone

from datastream_ws.embedding import DEAD, HEALTHY, MAX_AGE

from .health import summed
from .models import StreamStatus

__all__ = ["FleetView", "fleet_view"]

MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class FleetView:
    """
    The streams of a fleet.

    Attributes:
        counts: Pairs of a state and the number of streams in it. ``"not running"`` counts rows of
            the source without a running stream.
        size: Number of rows in the source. ``None`` means that no process has reported it.
        search: The text that the keys of the listed streams contain.
        streams: At most 100 streams, unhealthy ones first.
        found: Number of streams that match the search.

    """

    counts: Sequence[tuple[str, int]]
    size: int | None
    search: str
    streams: Sequence[Line]
    found: int


@dataclass(frozen=True, slots=True)
class Line:
    """A stream in the list. Its state is ``"stale"`` if its process no longer reports."""

    key: str
    row: StreamStatus
    state: str

    @property
    def tone(self) -> str:
        return "well" if self.state in HEALTHY else "unwell"


def fleet_view(alias: str, living: Sequence[StreamStatus], search: str = "") -> FleetView:
    """
    Return the list of a fleet's streams.

    Args:
        alias: Name of the fleet.
        living: The fleet's own rows, of processes with a fresh heartbeat.
        search: Text that the keys must contain.

    """
    oldest = timezone.now() - timedelta(seconds=MAX_AGE)
    rows = streams_of(alias, search, oldest=oldest).order_by("order", "state_since", "stream")
    shown = list(rows[: MOST_SHOWN + 1])
    found = len(shown) if len(shown) <= MOST_SHOWN else rows.count()
    lines = [
        Line(row.key, row, row.state if row.beat_at >= oldest else "stale")  # type: ignore[attr-defined]
        for row in shown[:MOST_SHOWN]
    ]
    size = max((row.source_size for row in living if row.source_size is not None), default=None)
    return FleetView(counts_of(living, size), size, search, lines, found)


def streams_of(alias: str, search: str, *, oldest: object) -> QuerySet[StreamStatus]:
    """Return a row for each stream. If a stream has moved, its row in the old process is hidden."""
    mine = StreamStatus.objects.filter(fleet=alias)
    now = mine.filter(stream=OuterRef("stream"), beat_at__gte=oldest)
    worst_first = Case(
        When(Q(beat_at__lt=oldest) | Q(state__in=DEAD), then=0),
        When(state__in=HEALTHY, then=2),
        default=1,
    )
    rows = mine.filter(Q(beat_at__gte=oldest) | ~Exists(now))
    rows = rows.annotate(key=Substr("stream", len(alias) + 2), order=worst_first)
    if not search:
        return rows
    # Both are lowered by the database, because the column is case-sensitive in MySQL.
    wanted = Lower(Value(search.replace("\0", "")))
    return rows.annotate(lowered=Lower("key")).filter(lowered__contains=wanted)


def counts_of(living: Sequence[StreamStatus], size: int | None) -> list[tuple[str, int]]:
    total = summed([row.streams or {} for row in living], size)
    missing = (size or 0) - total.total()
    if missing > 0:
        total["not running"] = missing
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))
