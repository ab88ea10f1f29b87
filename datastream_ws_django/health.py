"""What the rows of all runners say of a stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.db.models import QuerySet
from django.utils import timezone

from datastream_ws.embedding import (
    DEAD,
    HEALTHY,
    HEALTHY_SHARE,
    MAX_AGE,
    describe,
    is_healthy,
    state_of_many,
)

from .conf import streams_settings
from .models import StreamStatus
from .streams import datastreams

__all__ = [
    "MAX_AGE",
    "StreamReport",
    "is_fleet",
    "known",
    "report",
    "report_here",
    "rows_as_json",
    "summed",
]


@dataclass(frozen=True)
class StreamReport:
    """
    One stream, over all processes that run it.

    Attributes:
        state: Of the process that is best off; ``"never started"``, ``"stale"``.
        is_live: Some process runs it.
        is_healthy: Some process has it READY, STANDBY or PAUSED.
        runners: A dict for each process, newest heartbeat first.
        streams: Of a fleet: how many streams are in each state, over all processes.
        source_size: Of a fleet: how many streams there should be.

    """

    stream: str
    state: str
    is_live: bool
    is_healthy: bool
    runners: Sequence[dict[str, Any]]
    streams: dict[str, int] | None = None
    source_size: int | None = None


def report(
    aliases: Iterable[str], max_age: float = MAX_AGE, *, details: bool = True
) -> list[StreamReport]:
    """
    Return how runners' streams are; a heartbeat older than *max_age* seconds does not count.

    Args:
        details: Whether the runners are listed; without, one query of a few values is all, for
            those who may ask without saying who they are.

    """
    aliases = list(aliases)
    oldest = timezone.now() - timedelta(seconds=max_age)
    rows: dict[str, list[StreamStatus]] = {alias: [] for alias in aliases}
    fresh: dict[str, list[str]] = {alias: [] for alias in aliases}
    found = StreamStatus.objects.filter(stream__in=aliases).order_by("-beat_at")
    if details:
        for row in found:
            rows[row.stream].append(row)
    beating = found.filter(beat_at__gte=oldest).order_by("stream", "state")
    for alias, state in beating.values_list("stream", "state").distinct():
        fresh[alias].append(state)
    fleets = fleet_reports([alias for alias in aliases if is_fleet(alias)], beating, rows)
    return [fleets.get(alias) or judged(alias, fresh[alias], rows[alias]) for alias in aliases]


def known(alias: str) -> str:
    """
    Return the name of a stream of ``DATASTREAMS``, or of one that a process has reported.

    A Flask app that shares the database has streams which are not in this project's settings.

    Raises:
        ImproperlyConfigured: If it is neither.

    """
    if alias not in streams_settings:
        with suppress(DatabaseError, InterfaceError):  # without tables nothing was reported
            if newest_row(alias) is not None:
                return alias
    return streams_settings[alias].alias


def newest_row(alias: str) -> StreamStatus | None:
    """Return what a process has reported last of a stream or fleet; PostgreSQL refuses NUL."""
    if "\0" in alias:
        return None
    return StreamStatus.objects.filter(stream=alias, fleet="").order_by("-beat_at").first()


def is_fleet(alias: str) -> bool:
    """Whether a stream has a SOURCE, by the settings, else by what a process has reported."""
    if alias in streams_settings:
        return streams_settings[alias].is_fleet
    row = newest_row(alias)
    return row is not None and row.streams is not None


def share_of(alias: str) -> float:
    """Return HEALTHY_SHARE; its default for a fleet that is not in the settings any more."""
    return streams_settings[alias].healthy_share if alias in streams_settings else HEALTHY_SHARE


def fleet_reports(
    aliases: Sequence[str],
    beating: QuerySet[StreamStatus],
    rows: Mapping[str, Sequence[StreamStatus]],
) -> dict[str, StreamReport]:
    """Judge fleets by the rows of processes, each of which has a part of the streams."""
    if not aliases:
        return {}
    parts: dict[str, list[tuple[dict[str, int], int | None]]] = {alias: [] for alias in aliases}
    alive = beating.filter(stream__in=aliases).exclude(state__in=DEAD).order_by("-beat_at")
    for alias, streams, size in alive.values_list("stream", "streams", "source_size"):
        parts[alias].append((streams or {}, size))
    return {alias: fleet_report(alias, parts[alias], rows[alias]) for alias in aliases}


def summed(parts: Iterable[Mapping[str, int]], size: int | None) -> Counter[str]:
    """
    Return how many streams are in each state, over processes.

    Args:
        parts: Of each process, that with the newest heartbeat first. Once there are as many streams
            as rows, older ones are left out: a process that was killed reports for half a minute
            more what others have taken over.
        size: Rows of the source; ``None``: no process knows.

    """
    counts = Counter[str]()
    for streams in parts:
        if size is None or counts.total() < size:
            counts.update(streams)
    return counts


def fleet_report(
    alias: str,
    parts: Sequence[tuple[dict[str, int], int | None]],
    rows: Sequence[StreamStatus],
) -> StreamReport:
    size = max((size for _, size in parts if size is not None), default=None)
    counts = summed([streams for streams, _ in parts], size)
    if not parts:
        state = "stale" if rows else "never started"
    elif size is None:
        state = "connecting"
    else:
        state = state_of_many(counts, size, share_of(alias))
    return StreamReport(
        alias,
        state,
        is_live=bool(parts),
        is_healthy=state in HEALTHY,
        runners=rows_as_json(rows),
        streams=dict(counts),
        source_size=size,
    )


def judged(alias: str, states: Sequence[str], rows: Sequence[StreamStatus]) -> StreamReport:
    healthy = [state for state in states if state in HEALTHY]
    live = [state for state in states if state not in DEAD]
    state = next(iter([*healthy, *live, *states]), "stale" if rows else "never started")
    return StreamReport(alias, state, bool(live), bool(healthy), rows_as_json(rows))


def report_here(alias: str) -> StreamReport:
    """With AUTOSTART each serving process has a client, and speaks for itself alone."""
    now = time.time()
    here = describe(datastreams[alias].client, now)
    well = is_healthy(here, now, share=streams_settings[alias].healthy_share)
    live = here.state not in DEAD
    return StreamReport(alias, here.state, live, well, (), here.streams, here.source_size)


def rows_as_json(rows: Iterable[StreamStatus]) -> list[dict[str, Any]]:
    """Return every column of the rows, times in ISO format."""
    names = [field.name for field in StreamStatus._meta.fields if field.name != "id"]
    return [{name: plain(getattr(row, name)) for name in names} for row in rows]


def plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
