"""Build the status rows of streams and fleets in this process, and write them."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from django.db import connections, router
from django.utils import timezone

from datastream_ws import Stats
from datastream_ws.embedding import StreamHealth, describe

from .db import NAME_LENGTH, moment
from .history import Trend, handlers_of
from .models import StreamStatus

if TYPE_CHECKING:
    from datastream_ws import Fleet

__all__ = ["FleetRows", "Rows", "write"]

EVENTS = 20  # in the row of a fleet's stream
# An unchanged row of a fleet's stream is rewritten this often. It is stale after 30 seconds.
REWRITE_SECONDS = 19.0
GONE_SECONDS = 600.0  # without a heartbeat, after which the row of a fleet's stream is removed
LOOK_SECONDS = 60.0
AT_ONCE = 500  # names in one statement

COUNTERS = (
    *("messages_received", "messages_handled", "messages_unrouted", "messages_failed"),
    "messages_dropped",
    *("messages_waiting", "messages_spooled", "reconnects"),
)
# The fields whose change makes a new row necessary.
FACTS = attrgetter("state", "connected_since", "last_message_at", "last_error", *COUNTERS)
KEY = ("stream", "host", "pid")
VALUES = [f.name for f in StreamStatus._meta.fields if f.name not in ("id", *KEY)]


class Rows:
    """
    Builds the rows of this process. Only the heartbeat's thread uses it.

    Attributes:
        host: Host name in the rows.

    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._trends: defaultdict[str, Trend] = defaultdict(Trend)

    def row(self, health: StreamHealth, stats: Stats | None, **more: Any) -> StreamStatus:
        """Return the row for a health report."""
        trend = self._trends[health.name]
        trend.look(health, stats.attempts if stats else 0)
        return StreamStatus(
            stream=health.name,
            host=self.host,
            pid=health.pid,
            state=health.state,
            state_since=moment(trend.state_since),
            beat_at=moment(health.at),
            rate=trend.rate,
            connected_since=moment(health.connected_since),
            last_message_at=moment(health.last_message_at),
            last_error=health.last_error or "",
            last_error_at=moment(trend.error_at),
            oldest_waiting=stats.oldest_waiting if stats else None,
            inbox_share=stats.inbox_share if stats else None,
            handlers=handlers_of(stats),
            streams=health.streams,
            source_size=health.source_size,
            **{name: getattr(health, name) for name in COUNTERS},
            **more,
        )

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._trends.pop(name, None)


class FleetRows:
    """
    The rows of a fleet's streams in this process. Only the heartbeat's thread uses it.

    A row is written when it changes, and at least every 20 seconds. The row of a stream that no
    longer runs in this process is removed.
    """

    def __init__(self, fleet: Fleet, rows: Rows) -> None:
        self._fleet = fleet
        self._rows = rows
        self._written: dict[str, tuple[float, Any]] = {}  # time and facts, by the stream's name
        self._looked_at = float("-inf")

    def due(self, at: float) -> Iterator[StreamStatus]:
        """Yield the rows that must be written at this UNIX time."""
        here = dict(self._looked(at))
        self._remove(self._written.keys() - here.keys())
        for name, (health, stats) in here.items():
            written_at, said = self._written.get(name, (float("-inf"), None))
            if said != (facts := FACTS(health)) or at - written_at >= REWRITE_SECONDS:
                self._written[name] = (at, facts)
                yield self._row(health, stats)

    def make_all_due(self) -> None:
        """Make every row due, because it is unknown which rows the last write has stored."""
        self._written = dict.fromkeys(self._written, (float("-inf"), None))

    def _looked(self, at: float) -> Iterator[tuple[str, tuple[StreamHealth, Stats]]]:
        for key in list(self._fleet):
            try:
                client = self._fleet[key]
            except KeyError:  # it has just ended
                continue
            if len(client.name) <= NAME_LENGTH:
                stats = client.stats()
                yield client.name, (describe(client, at, stats), stats)

    def _row(self, health: StreamHealth, stats: Stats) -> StreamStatus:
        events = [[each.at, each.kind, each.text] for each in stats.recent_events[-EVENTS:]]
        return self._rows.row(health, stats, fleet=self._fleet.name, events=events)

    def _remove(self, names: Iterable[str]) -> None:
        """Remove the rows of ended streams, and once a minute those of killed processes."""
        gone = sorted(names)
        mine = StreamStatus.objects.filter(
            fleet=self._fleet.name, host=self._rows.host, pid=os.getpid()
        )
        self._rows.forget(gone)
        if gone and len(gone) == len(self._written):  # the fleet has ended, or moved away
            gone, self._written = [], {}
            mine.delete()
        for first in range(0, len(gone), AT_ONCE):
            mine.filter(stream__in=gone[first : first + AT_ONCE]).delete()
        for name in gone:
            del self._written[name]
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            oldest = timezone.now() - timedelta(seconds=GONE_SECONDS)
            StreamStatus.objects.filter(fleet=self._fleet.name, beat_at__lt=oldest).delete()


def write(rows: Sequence[StreamStatus]) -> None:
    """
    Write all rows with as few statements as the database allows.

    No row is read first, because of SQLite. It rejects a transaction that reads and then writes
    while another one writes ("database is locked"). A transaction that only writes waits instead.
    """
    features: Any = connections[router.db_for_write(StreamStatus)].features
    if features.supports_update_conflicts:
        unique = KEY if features.supports_update_conflicts_with_target else None
        StreamStatus.objects.bulk_create(
            rows, update_conflicts=True, update_fields=VALUES, unique_fields=unique
        )
        return
    for row in rows:
        mine = StreamStatus.objects.filter(stream=row.stream, host=row.host, pid=row.pid)
        if not mine.update(**{name: getattr(row, name) for name in VALUES}):
            row.save(force_insert=True)
