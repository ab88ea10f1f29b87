"""Counters of a stream, and the frozen snapshot that ``stats()`` returns."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .events import RecentEvent

__all__ = ["Counts", "HandlerStats", "Histogram", "Stats", "Traffic"]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Counts:
    """The message counters of one moment."""

    received: int
    handled: int
    failed: int
    unrouted: int
    dropped: dict[str, int]
    waiting: int
    spooled: int = 0


@dataclass(frozen=True, slots=True)
class HandlerStats:
    """
    The calls of one message handler since ``start()``.

    Slow calls are all timed, quick ones now and then. The percentiles are those of about the last
    ten minutes and right to 10 %.

    Attributes:
        calls: Batches count as one call, a retry as another.
        failures: Calls that raised, and were not retried or postponed.
        p50: Seconds that half of the calls did not exceed; ``None``: none was timed yet.
        p95: Seconds that 95 % of the calls did not exceed; ``None``: none was timed yet.
        max: Seconds of the longest call; ``None``: none was timed yet.

    """

    calls: int
    failures: int
    p50: float | None
    p95: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    How many values are in which range.

    Attributes:
        bounds: The upper bounds of the ranges, in seconds; one more range has no bound.
        counts: One for each range.
        total: The sum of all values, in seconds.

    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """
    A consistent snapshot since the last ``start()``.

    The counters always add up: received = handled + failed + dropped + waiting + spooled. Messages
    that an earlier process left in the spool count as received.

    Attributes:
        messages_unrouted: Handled messages that no handler took.
        messages_dropped: A mapping from the cause to the number. The causes are overflow,
            conflated, shutdown, lease_lost, spool and untaken.
        messages_waiting: Messages that wait now, including those that handlers are working on.
        messages_spooled: Messages that are only in the file now.
        bytes_received: Bytes of received payloads.
        bytes_sent: Bytes of sent payloads.
        blocked_seconds: Seconds for which a full inbox stopped reading.
        round_trip_time: Seconds of the last ping. ``None`` before the first pong.
        connected_since: UNIX time. ``None`` without a connection.
        last_message_at: UNIX time. ``None`` before the first message.
        last_error: Type and text of the last reported error. ``None`` before the first one.
        reports_dropped: Calls of ``on_state``, ``on_error`` and the like that did not fit into the
            queue behind a slow one.
        oldest_waiting: Seconds that the oldest waiting message has waited; ``None``: none waits.
        errors_dropped: Errors that left the bounded buffer before ``errors()`` read them.
        handlers: The calls of each message handler, by its qualified name.
        recent_events: The last 50 events of the stream, from old to new.
        inbox_share: How full the inbox is, from 0 to 1, by messages or bytes, whichever is more;
            ``None``: it has no limit.
        spool_share: How full the spool is, from 0 to 1; ``None``: there is none, or no limit.
        round_trips: The times of all pings so far; ``None`` before the first pong.

    """

    messages_received: int = 0
    messages_handled: int = 0
    messages_failed: int = 0
    messages_unrouted: int = 0
    messages_dropped: Mapping[str, int] = field(default_factory=_nothing)
    messages_waiting: int = 0
    messages_spooled: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connections: int = 0
    reconnects: int = 0
    attempts: int = 0
    blocked_seconds: float = 0.0
    round_trip_time: float | None = None
    connected_since: float | None = None
    last_message_at: float | None = None
    last_error: str | None = None
    errors_dropped: int = 0
    reports_dropped: int = 0
    oldest_waiting: float | None = None
    handlers: Mapping[str, HandlerStats] = field(default_factory=_nothing)
    recent_events: tuple[RecentEvent, ...] = ()
    inbox_share: float | None = None
    spool_share: float | None = None
    round_trips: Histogram | None = None


@dataclass(slots=True)
class Traffic:
    """The counters of one ``start()``'s connections, written on the loop's thread only."""

    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connections: int = 0
    reconnects: int = 0
    attempts: int = 0
    blocked_seconds: float = 0.0
    round_trip_time: float | None = None
    connected_since: float | None = None
    last_message_at: float | None = None
    last_error: str | None = None
    _round_trips: list[int] | None = None  # made at need: most idle clients have none
    _round_trip_total: float = 0.0

    def note_round_trip(self, seconds: float) -> None:
        self.round_trip_time = seconds
        if self._round_trips is None:
            self._round_trips = [0] * (len(BOUNDS) + 1)
        self._round_trips[bisect_left(BOUNDS, seconds)] += 1
        self._round_trip_total += seconds

    def note_sent(self, messages: int, size: int) -> None:
        self.messages_sent += messages
        self.bytes_sent += size

    def _round_trip_histogram(self) -> Histogram | None:
        if self._round_trips is None:
            return None
        return Histogram(BOUNDS, tuple(self._round_trips), self._round_trip_total)

    def snapshot(self, counts: Counts, *, blocked_seconds: float, **others: Any) -> Stats:
        """
        Return these counters and the inbox's as one.

        Args:
            others: Fields of :class:`Stats` that are counted elsewhere.

        """
        return Stats(
            messages_received=counts.received,
            messages_handled=counts.handled,
            messages_failed=counts.failed,
            messages_unrouted=counts.unrouted,
            messages_dropped=counts.dropped,
            messages_waiting=counts.waiting,
            messages_spooled=counts.spooled,
            messages_sent=self.messages_sent,
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            connections=self.connections,
            reconnects=self.reconnects,
            attempts=self.attempts,
            blocked_seconds=blocked_seconds,
            round_trip_time=self.round_trip_time,
            connected_since=self.connected_since,
            last_message_at=self.last_message_at,
            last_error=self.last_error,
            round_trips=self._round_trip_histogram(),
            **others,
        )
