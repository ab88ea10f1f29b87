"""Counters of a stream, and the frozen snapshot that ``stats()`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

__all__ = ["Counts", "Stats", "Traffic"]


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


def _nothing() -> Mapping[str, int]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """
    A consistent snapshot since the last ``start()``.

    Always: received = handled + failed + dropped (in sum) + waiting + spooled; what an earlier
    process left in the spool counts as received.

    Attributes:
        messages_unrouted: Handled ones that no handler took.
        messages_dropped: By cause: overflow, conflated, shutdown, lease_lost, spool, untaken.
        messages_waiting: Now, the ones in hand included.
        messages_spooled: Now, in the file only.
        bytes_received: Of payloads.
        bytes_sent: Of payloads.
        blocked_seconds: Time that reading was stopped because the inbox was full.
        round_trip_time: Of the last ping, in seconds; ``None`` before the first pong.
        connected_since: UNIX time; ``None``: not connected.
        last_message_at: UNIX time; ``None``: none yet.
        last_error: Type and text of the last reported error; ``None``: none yet.
        reports_dropped: Calls of ``on_state``, ``on_error`` and the like that did not fit into the
            queue behind a slow one.
        oldest_waiting: Seconds that the oldest waiting message has waited; ``None``: none waits.
        errors_dropped: Errors that left the bounded buffer before ``errors()`` read them.

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


@dataclass(slots=True)
class Traffic:
    """What the connections of one ``start()`` count; written on the loop's thread only."""

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

    def note_round_trip(self, seconds: float) -> None:
        self.round_trip_time = seconds

    def note_sent(self, messages: int, size: int) -> None:
        self.messages_sent += messages
        self.bytes_sent += size

    def snapshot(
        self,
        counts: Counts,
        *,
        blocked_seconds: float,
        errors_dropped: int,
        reports_dropped: int,
        oldest_waiting: float | None,
    ) -> Stats:
        """Return these figures and the inbox's as one."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blocked_seconds"}
        return Stats(
            messages_received=counts.received,
            messages_handled=counts.handled,
            messages_failed=counts.failed,
            messages_unrouted=counts.unrouted,
            messages_dropped=counts.dropped,
            messages_waiting=counts.waiting,
            messages_spooled=counts.spooled,
            blocked_seconds=blocked_seconds,
            errors_dropped=errors_dropped,
            reports_dropped=reports_dropped,
            oldest_waiting=oldest_waiting,
            **own,
        )
