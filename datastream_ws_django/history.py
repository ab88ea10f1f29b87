"""The history of streams: a row for each minute, and a row for each event."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter
from typing import Any

from django.db import connections, router
from django.db.models import Count
from django.utils import timezone

from datastream_ws import Stats
from datastream_ws.embedding import StreamHealth

from .db import moment
from .models import StreamEvent, StreamMinute

__all__ = ["KEPT_DAYS", "EventLog", "History", "Trend", "prune"]

KEPT_DAYS = 7
MOST_EVENTS = 10_000  # per stream, because an unstable stream has thousands an hour
MOST_WAITING = 5_000  # rows kept in memory while the database is unavailable
UP = ("ready", "connected")
# All steps of reconnecting count as one state, which shows how long a stream has been down.
RECONNECTING = ("connecting", "connected", "waiting")
RATE_SECONDS = 4.0  # a shorter time is not enough to compute a rate

totals_of = attrgetter("messages_received", "messages_handled", "messages_failed", "reconnects")


@dataclass(slots=True)
class Minute:
    """The current minute of a stream."""

    number: int
    at: float  # UNIX time of the last heartbeat
    base: tuple[int, int, int, int]  # totals when the minute began
    totals: tuple[int, int, int, int]  # received, handled, failed, reconnects
    state: str
    waiting: int = 0
    connected: float = 0.0
    p95: float | None = None

    def look(self, health: StreamHealth, p95: float | None) -> None:
        """Add a heartbeat of this minute."""
        self._pass_time(health.at)
        totals = totals_of(health)
        if totals[0] < self.totals[0]:  # the stream was started again, so it counts from 0
            gained = zip(self.totals, self.base, strict=True)
            self.base = tuple(before - now for now, before in gained)  # type: ignore[assignment]
        self.totals, self.state = totals, health.state
        self.waiting = max(self.waiting, health.messages_waiting)
        self.p95 = p95

    def _pass_time(self, now: float) -> None:
        if self.state in UP:
            self.connected += max(0.0, now - self.at)
        self.at = now

    def next(self, number: int) -> Minute:
        """Complete this minute and return the next one."""
        end = (self.number + 1) * 60.0
        self._pass_time(end)
        return Minute(number, max(end, number * 60.0), self.totals, self.totals, self.state)

    def row(self, stream: str, run: int) -> StreamMinute | None:
        """Return the row, or ``None`` if the process was only on standby."""
        gained = [now - before for now, before in zip(self.totals, self.base, strict=True)]
        if self.state == "standby" and not any(gained) and not self.connected:
            return None
        return StreamMinute(
            stream=stream,
            minute=self.number,
            run=run,
            received=gained[0],
            handled=gained[1],
            failed=gained[2],
            reconnects=gained[3],
            waiting=self.waiting,
            connected=min(60, round(self.connected)),
            handler_p95=self.p95,
        )


class History:
    """Counts messages per stream and minute. Only the heartbeat's thread uses it."""

    def __init__(self) -> None:
        self._run = random.getrandbits(62)
        self._open: dict[str, Minute] = {}
        self._rows: list[StreamMinute] = []

    def note(self, health: StreamHealth, stats: Stats | None) -> None:
        """Add a heartbeat. The first one of another minute completes the row of the last one."""
        number = int(health.at // 60)
        minute = self._open.get(health.name)
        if minute is None:
            zero = (0, 0, 0, 0)
            minute = self._open[health.name] = Minute(number, health.at, zero, zero, health.state)
        elif number > minute.number or number < minute.number - 1:
            if number < minute.number:  # the clock was set back, and minutes come again
                self._run = random.getrandbits(62)
            following = minute.next(number)
            self._end(health.name, minute)
            minute = self._open[health.name] = following
        minute.look(health, slowest(stats))

    def _end(self, stream: str, minute: Minute) -> None:
        row = minute.row(stream, self._run)
        if row is not None:
            self._rows.append(row)

    def end(self) -> None:
        """Complete the rows of the current minute, because the process ends."""
        for stream, minute in self._open.items():
            self._end(stream, minute)
        self._open = {}

    def write(self) -> None:
        """
        Write all completed rows. If that fails, the next call writes them.

        A commit may succeed although its response is lost. Then the rows exist already.
        """
        del self._rows[:-MOST_WAITING]
        if self._rows:
            features = connections[router.db_for_write(StreamMinute)].features
            StreamMinute.objects.bulk_create(
                self._rows, ignore_conflicts=features.supports_ignore_conflicts
            )
            self._rows = []


def slowest(stats: Stats | None) -> float | None:
    """Return the 95th percentile of the slowest handler, in seconds."""
    handlers = handlers_of(stats).values()
    return max((each["p95"] for each in handlers if each["p95"] is not None), default=None)


def handlers_of(stats: Stats | None) -> dict[str, dict[str, Any]]:
    """Return the statistics of each handler as JSON values."""
    found = stats.handlers if stats else {}
    names = ("calls", "failures", "p50", "p95", "max")
    return {name: {key: getattr(one, key) for key in names} for name, one in found.items()}


class EventLog:
    """Writes each event of the clients once, as a row."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._written: dict[str, frozenset[Any]] = {}

    def write(self, recent: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Write the new events of each stream. If that fails, the next call writes them."""
        rows: list[StreamEvent] = []
        seen = {}
        for stream, events in recent:
            known = self._written.get(stream, frozenset())
            rows += [self._row(stream, event) for event in events if event not in known]
            seen[stream] = frozenset(events)
        if rows:
            StreamEvent.objects.bulk_create(rows)
        self._written |= seen

    def _row(self, stream: str, event: Any) -> StreamEvent:
        return StreamEvent(
            stream=stream,
            at=moment(event.at),
            kind=event.kind[:40],
            text=event.text.replace("\0", "\\0"),
            process=self._process,
        )


@dataclass(slots=True)
class Trend:
    """The facts about a stream that take two heartbeats: its rate, and the times of changes."""

    state: str = ""
    state_since: float = 0.0
    error: tuple[Any, ...] = ()
    error_at: float | None = None
    rate: float = 0.0
    _handled: tuple[float, int] = field(default=(0.0, 0))

    def look(self, health: StreamHealth, attempts: int) -> None:
        state = "reconnecting" if health.state in RECONNECTING else health.state
        if state != self.state:
            self.state, self.state_since = state, health.at
        elif state == "ready" and (health.connected_since or 0.0) > self.state_since:
            self.state_since = health.connected_since or 0.0  # reconnected between two heartbeats
        # While it reconnects, each failed attempt is a new error, even if the text is the same.
        failed = attempts if health.state == "waiting" else self.error[2] if self.error else 0
        error = (health.last_error, health.messages_failed, failed)
        if health.last_error and error != self.error:
            self.error_at = health.at
        self.error = error
        self._look_at_rate(health)

    def _look_at_rate(self, health: StreamHealth) -> None:
        at, handled = self._handled
        passed = health.at - at
        if passed < RATE_SECONDS and at:
            return
        if at:
            self.rate = max(0, health.messages_handled - handled) / passed
        self._handled = (health.at, health.messages_handled)


def prune() -> None:
    """Delete rows older than a week, and the oldest events of streams that have too many."""
    oldest = timezone.now() - timedelta(days=KEPT_DAYS)
    StreamMinute.objects.filter(minute__lt=int(oldest.timestamp() // 60)).delete()
    StreamEvent.objects.filter(at__lt=oldest).delete()
    counted = StreamEvent.objects.order_by().values("stream").annotate(count=Count("pk"))
    for stream in counted.filter(count__gt=MOST_EVENTS).values_list("stream", flat=True):
        events = StreamEvent.objects.filter(stream=stream)
        first_kept = events.order_by("-at", "-pk")[MOST_EVENTS - 1]
        events.filter(at__lt=first_kept.at).delete()
