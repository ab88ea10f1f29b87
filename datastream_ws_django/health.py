"""The health of a stream, judged by the status rows of all processes that run it."""

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
    The health of one stream, over all processes that run it.

    Attributes:
        state: The best state that a process reports, or ``"never started"`` or ``"stale"``.
        is_live: Whether a process runs the stream.
        is_healthy: Whether a process reports it as READY, STANDBY or PAUSED.
        runners: A dict for each process, newest heartbeat first.
        streams: For a fleet, the number of streams in each state, over all processes.
        source_size: For a fleet, the number of rows in its source.

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
    Return the health of streams.

    Args:
        aliases: Names of the streams.
        max_age: Seconds after which a heartbeat is stale and no longer counts.
        details: Whether to list the processes. Without them, one small query is enough, which
            suits requests from anonymous users.

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
    Return *alias* if it is a stream of ``DATASTREAMS`` or has status rows.

    A Flask app that shares the database reports streams that this project's settings don't have.

    Raises:
        ImproperlyConfigured: If the stream is unknown.

    """
    if alias not in streams_settings:
        with suppress(DatabaseError, InterfaceError):  # without the table there are no rows
            if newest_row(alias) is not None:
                return alias
    return streams_settings[alias].alias


def newest_row(alias: str) -> StreamStatus | None:
    """Return the newest row of a stream or a fleet. PostgreSQL rejects a NUL in a query."""
    if "\0" in alias:
        return None
    return StreamStatus.objects.filter(stream=alias, fleet="").order_by("-beat_at").first()


def is_fleet(alias: str) -> bool:
    """Return whether a name is that of a fleet, by the settings or by the newest status row."""
    if alias in streams_settings:
        return streams_settings[alias].is_fleet
    row = newest_row(alias)
    return row is not None and row.streams is not None


def share_of(alias: str) -> float:
    """Return HEALTHY_SHARE, or its default if the fleet is not in the settings."""
    return streams_settings[alias].healthy_share if alias in streams_settings else HEALTHY_SHARE


def fleet_reports(
    aliases: Sequence[str],
    beating: QuerySet[StreamStatus],
    rows: Mapping[str, Sequence[StreamStatus]],
) -> dict[str, StreamReport]:
    """Judge fleets by the rows of all processes, each of which runs a part of the streams."""
    if not aliases:
        return {}
    parts: dict[str, list[tuple[dict[str, int], int | None]]] = {alias: [] for alias in aliases}
    alive = beating.filter(stream__in=aliases).exclude(state__in=DEAD).order_by("-beat_at")
    for alias, streams, size in alive.values_list("stream", "streams", "source_size"):
        parts[alias].append((streams or {}, size))
    return {alias: fleet_report(alias, parts[alias], rows[alias]) for alias in aliases}


def summed(parts: Iterable[Mapping[str, int]], size: int | None) -> Counter[str]:
    """
    Return the number of streams in each state, over all processes.

    Args:
        parts: The numbers of each process, newest heartbeat first. Older parts are left out once
            the sum reaches *size*. The row of a killed process stays fresh for half a minute, while
            other processes already run its streams.
        size: Number of rows in the source. ``None`` means that no process has reported it.

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
    """Return the health of the client in this process, for a stream with AUTOSTART."""
    now = time.time()
    here = describe(datastreams[alias].client, now)
    well = is_healthy(here, now, share=streams_settings[alias].healthy_share)
    live = here.state not in DEAD
    return StreamReport(alias, here.state, live, well, (), here.streams, here.source_size)


def rows_as_json(rows: Iterable[StreamStatus]) -> list[dict[str, Any]]:
    """Return every column of the rows, with times in ISO format."""
    names = [field.name for field in StreamStatus._meta.fields if field.name != "id"]
    return [{name: plain(getattr(row, name)) for name in names} for row in rows]


def plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
