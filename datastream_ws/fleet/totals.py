"""Add up the stats of a fleet's streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..stats import Stats

__all__ = ["FleetStats", "total"]

# Of these, a total has the largest value. Counters are added up.
LARGEST = ("last_message_at", "oldest_waiting", "round_trip_time", "inbox_share", "spool_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats(Stats):
    """
    The sum over all streams of a fleet in this process, including those that have ended.

    ``round_trip_time``, ``oldest_waiting`` and the shares are the worst values. Values that cannot
    be added up, such as ``connected_since`` or ``handlers``, are in the stats of each stream only.

    Attributes:
        streams: The stats of each stream that runs here, by its key.
        streams_beyond_limit: Streams of the source that run in no process, because every process
            has reached its ``limit``.
        recent_events: The last 50 events of the kind ``"limit"``. One is added when streams run in
            no process because of ``limit``, and one when every stream can run again.

    """

    streams: Mapping[Any, Stats] = field(default_factory=dict)
    streams_beyond_limit: int = 0


def total(parts: Iterable[Stats]) -> dict[str, Any]:
    """Return the stats of several streams added up, by name."""
    every = list(parts)
    dropped: Counter[str] = Counter()
    for part in every:
        dropped.update(part.messages_dropped)
    found: dict[str, Any] = {
        each.name: sum(getattr(part, each.name) for part in every)
        for each in fields(Stats)
        # a field without a number as default is not a counter
        if isinstance(each.default, int | float)
    }
    for name in LARGEST:
        known = [value for part in every if (value := getattr(part, name)) is not None]
        found[name] = max(known, default=None)
    errors = [part.last_error for part in every if part.last_error is not None]
    found["last_error"] = errors[-1] if errors else None
    return {**found, "messages_dropped": dict(dropped)}
