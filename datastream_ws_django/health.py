"""What the rows of all runners say of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from datastream_ws.embedding import DEAD, HEALTHY, MAX_AGE

from .models import StreamStatus
from .streams import datastreams

__all__ = ["MAX_AGE", "StreamReport", "report", "report_here", "rows_as_json"]


@dataclass(frozen=True)
class StreamReport:
    """
    One stream, over all processes that run it.

    Attributes:
        state: Of the process that is best off; ``"never started"``, ``"stale"``.
        is_live: Some process runs it.
        is_healthy: Some process has it READY, STANDBY or PAUSED.
        runners: A dict for each process, newest heartbeat first.

    """

    stream: str
    state: str
    is_live: bool
    is_healthy: bool
    runners: Sequence[dict[str, Any]]


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
    return [judged(alias, fresh[alias], rows[alias]) for alias in aliases]


def judged(alias: str, states: Sequence[str], rows: Sequence[StreamStatus]) -> StreamReport:
    healthy = [state for state in states if state in HEALTHY]
    live = [state for state in states if state not in DEAD]
    state = next(iter([*healthy, *live, *states]), "stale" if rows else "never started")
    return StreamReport(alias, state, bool(live), bool(healthy), rows_as_json(rows))


def report_here(alias: str) -> StreamReport:
    """With AUTOSTART each serving process has a client, and speaks for itself alone."""
    state = datastreams[alias].client.state.value
    return StreamReport(alias, state, state not in DEAD, state in HEALTHY, ())


def rows_as_json(rows: Iterable[StreamStatus]) -> list[dict[str, Any]]:
    """Return every column of the rows, times in ISO format."""
    names = [field.name for field in StreamStatus._meta.fields if field.name != "id"]
    return [{name: plain(getattr(row, name)) for name in names} for row in rows]


def plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
