"""What the rows of all runners say of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from datastream_ws import State

from .models import StreamStatus
from .streams import datastreams

__all__ = ["MAX_AGE", "StreamReport", "report", "report_here", "report_on", "rows_as_json"]

MAX_AGE = 30.0  # seconds; a runner beats every 5
HEALTHY = {State.READY.value, State.STANDBY.value, State.PAUSED.value}
DEAD = {State.IDLE.value, State.CLOSED.value, State.FAILED.value}


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


def report(aliases: Iterable[str], max_age: float = MAX_AGE) -> list[StreamReport]:
    """Return how runners' streams are; a heartbeat older than *max_age* seconds does not count."""
    return [report_on(alias, max_age) for alias in aliases]


def report_on(alias: str, max_age: float = MAX_AGE) -> StreamReport:
    rows = list(StreamStatus.objects.filter(stream=alias).order_by("-beat_at"))
    oldest = timezone.now() - timedelta(seconds=max_age)
    states = [row.state for row in rows if row.beat_at >= oldest]
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
