"""The counters of a stream, and the snapshot that ``stats()`` returns."""

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

    Slow calls are always timed, and fast calls are sampled. The percentiles cover about the last
    10 minutes, with an error of up to 10 %.

    Attributes:
        calls: The number of calls. A batch counts as one call, and so does a retry.
        failures: The number of calls that raised an exception and weren't retried or postponed.
        p50: Seconds that half of the calls did not exceed. ``None`` before the first timed call.
        p95: Seconds that 95 % of the calls did not exceed. ``None`` before the first timed call.
        max: Seconds of the longest call. ``None`` before the first timed call.

    """

    calls: int
    failures: int
    p50: float | None
    p95: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    The number of values in each of several ranges.

    Attributes:
        bounds: The upper bounds of the ranges in seconds. One more range has no upper bound.
        counts: The number of values in each range.
        total: The sum of all values in seconds.

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
        messages_received: Messages that were received.
        messages_handled: Messages that were handled, including the ``messages_unrouted``.
        messages_failed: Messages for which a handler failed.
        messages_unrouted: Handled messages that matched no handler.
        messages_dropped: A mapping from the cause to the number. The causes are overflow,
            conflated, shutdown, lease_lost, spool and untaken.
        messages_waiting: Messages that wait now, including those that are being handled.
        messages_spooled: Messages that are only in the spool file now.
        messages_sent: Messages that were written.
        bytes_received: Bytes of received payloads.
        bytes_sent: Bytes of sent payloads.
        connections: Connections that were open.
        reconnects: Connections after the first one.
        attempts: Attempts to connect.
        blocked_seconds: Seconds for which a full inbox stopped reading.
        round_trip_time: The round-trip time of the last ping, in seconds. ``None`` before the first
            pong.
        connected_since: The UNIX time at which the connection was opened. ``None`` without a
            connection.
        last_message_at: The UNIX time of the last message. ``None`` before the first one.
        last_error: Type and text of the last reported error. ``None`` before the first one.
        reports_dropped: Calls of hooks such as ``on_state`` that were dropped, because too many
            calls waited for a slow hook.
        oldest_waiting: Seconds that the oldest waiting message has waited. ``None`` if there is
            none.
        errors_dropped: Errors that were removed before ``errors()`` returned them.
        handlers: The calls of each message handler, by its qualified name.
        recent_events: The last 50 events of the stream, from old to new.
        inbox_share: How full the inbox is, from 0 to 1, by messages or bytes, whichever is more.
            ``None`` without a limit.
        spool_share: How full the spool is, from 0 to 1. ``None`` without a spool or a limit.
        round_trips: The round-trip times of all pings. ``None`` before the first pong.

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
    """The counters of the connections since ``start()``, written only on the loop's thread."""

    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connections: int = 0
    attempts: int = 0
    blocked_seconds: float = 0.0
    round_trip_time: float | None = None
    connected_since: float | None = None
    last_message_at: float | None = None
    last_error: str | None = None
    _round_trips: list[int] | None = None  # created at the first pong, to save memory
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
        Return these counters and those of the inbox as one snapshot.

        Args:
            counts: The counters of the inbox.
            blocked_seconds: Seconds for which a full inbox stopped reading.
            **others: More fields of :class:`Stats`.

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
            reconnects=max(0, self.connections - 1),
            attempts=self.attempts,
            blocked_seconds=blocked_seconds,
            round_trip_time=self.round_trip_time,
            connected_since=self.connected_since,
            last_message_at=self.last_message_at,
            last_error=self.last_error,
            round_trips=self._round_trip_histogram(),
            **others,
        )
