"""The health of the streams of a process, and the file that holds it for other processes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from .events import State
from .stats import Stats

__all__ = [
    "DEAD",
    "HEALTHY",
    "HEALTHY_SHARE",
    "MAX_AGE",
    "Described",
    "StreamHealth",
    "describe",
    "health_from",
    "is_fresh",
    "is_healthy",
    "read_health_file",
    "state_of_many",
    "write_health_file",
]

# Values of State, as in health files and status rows.
HEALTHY = frozenset(state.value for state in (State.READY, State.STANDBY, State.PAUSED))
DEAD = frozenset(state.value for state in State if state.is_final)
MAX_AGE = 30.0  # seconds after which a report is stale; a runner writes one every 5 seconds
HEALTHY_SHARE = 0.95  # the share of a fleet's streams that must be healthy
LARGEST_NUMBER = 2.0**63  # for counters and UNIX times
LARGEST_FILE = 16 * 2**20  # bytes of a health file that are read

# The types that JSON values may have, by the type of the field of StreamHealth.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "int | None": (int, type(None)),
    "dict[str, int] | None": (dict, type(None)),
}


class Described(Protocol):
    """A client or a fleet. A fleet has ``counts()``, and a client has ``state``."""

    @property
    def name(self) -> str: ...

    def stats(self) -> Stats: ...


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """
    The health of a stream or fleet at one moment. It holds no URL, no header and no payload.

    Attributes:
        state: The value of a :class:`~datastream_ws.State`. For a fleet, it's the most frequent
            healthy state if enough streams are healthy, otherwise the most frequent other state.
        messages_handled: The handled messages, without the ``messages_unrouted``.
        messages_unrouted: The messages that matched no handler.
        at: The UNIX time of that moment.
        last_message_at: The UNIX time of the last message. ``None`` before the first one.
        connected_since: The UNIX time at which the connection was opened. ``None`` without a
            connection.
        last_error: The last error on one line, escaped. ``None`` if there was none.
        streams: The number of a fleet's streams in this process by state. ``None`` for a client.
        source_size: The number of rows of a fleet's source. ``None`` before its first result.
        state_since: The UNIX time at which the connection was opened, or without one, of the event
            that ended the state before. All steps of reconnecting count as one state. ``None``
            before the first event, and for a fleet.

    """

    name: str
    state: str
    at: float
    pid: int
    messages_received: int
    messages_handled: int
    messages_failed: int
    messages_dropped: int
    messages_waiting: int
    messages_spooled: int
    reconnects: int
    connected_since: float | None
    last_message_at: float | None
    last_error: str | None
    messages_unrouted: int = 0
    streams: dict[str, int] | None = None
    source_size: int | None = None
    state_since: float | None = None


def describe(client: Described, at: float, stats: Stats | None = None) -> StreamHealth:
    """
    Return the health of a client or fleet.

    Args:
        client: The client or fleet.
        at: The UNIX time now.
        stats: The client's stats. ``None`` calls ``client.stats()``.

    """
    stats = client.stats() if stats is None else stats
    return StreamHealth(
        name=client.name,
        **_state_of(client),
        at=at,
        pid=os.getpid(),
        messages_received=stats.messages_received,
        messages_handled=stats.messages_handled - stats.messages_unrouted,
        messages_failed=stats.messages_failed,
        messages_dropped=sum(stats.messages_dropped.values()),
        messages_waiting=stats.messages_waiting,
        messages_spooled=stats.messages_spooled,
        reconnects=stats.reconnects,
        connected_since=stats.connected_since,
        last_message_at=stats.last_message_at,
        last_error=stats.last_error,
        messages_unrouted=stats.messages_unrouted,
        state_since=_state_since(client, stats),
    )


def _state_of(client: Any) -> dict[str, Any]:
    """Return the fields ``state``, ``streams`` and ``source_size``."""
    if not hasattr(client, "source_size"):
        return {"state": client.state.value}
    streams = {state.value: number for state, number in client.counts().items()}
    size = client.source_size
    state = state_of_many(streams) if size is not None else State.CONNECTING.value
    if not client.is_running:
        state = State.CLOSED.value
    return {"state": state, "streams": streams, "source_size": size}


def _state_since(client: Any, stats: Stats) -> float | None:
    if stats.connected_since is not None or hasattr(client, "source_size"):
        return stats.connected_since
    ends = (event.at for event in reversed(stats.recent_events) if event.kind != "reconnect")
    return next(ends, None)


def state_of_many(
    streams: Mapping[str, int], expected: int | None = None, share: float = HEALTHY_SHARE
) -> str:
    """
    Return the most frequent state, of the healthy streams if they are enough, or of the others.

    It's never one of ``DEAD``, because a fleet continues without its failed streams.

    Args:
        streams: The number of streams by state.
        expected: The number of streams that there should be. ``None`` uses their sum.
        share: The share of them that must be healthy, from 0 to 1.

    """
    total = sum(streams.values()) if expected is None else expected
    healthy = {state: number for state, number in streams.items() if state in HEALTHY}
    if sum(healthy.values()) >= share * total:
        return max(healthy, key=lambda state: healthy[state], default=State.STANDBY.value)
    others = {state: n for state, n in streams.items() if state not in HEALTHY | DEAD}
    return max(others, key=lambda state: others[state], default=State.WAITING.value)


def is_healthy(
    health: StreamHealth, now: float, max_age: float = MAX_AGE, share: float = HEALTHY_SHARE
) -> bool:
    """
    Return whether a stream is healthy according to a recent report.

    Args:
        health: The report.
        now: The UNIX time now.
        max_age: Seconds after which a report is stale. A stale report is not healthy.
        share: The share of a fleet's streams that must be healthy, from 0 to 1.

    """
    state = health.state
    if health.streams and state not in DEAD:
        state = state_of_many(health.streams, share=share)
    return is_fresh(health, now, max_age) and state in HEALTHY


def is_fresh(health: StreamHealth, now: float, max_age: float = MAX_AGE) -> bool:
    """Return whether this is at most *max_age* seconds old. A time in the future is stale, too."""
    return abs(now - health.at) <= max_age


def write_health_file(path: str, streams: Iterable[StreamHealth]) -> None:
    """Replace the health file in one step, so that it's always complete. Raises OSError."""
    text = json.dumps({"streams": [asdict(stream) for stream in streams]}, indent=1)
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def read_health_file(path: str) -> list[StreamHealth]:
    """
    Return the contents of a health file. It never blocks, even if *path* is a FIFO.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it isn't a health file.

    """
    with open(path, "rb", opener=_without_waiting) as file:
        text = file.read(LARGEST_FILE)
    try:
        return [health_from(stream) for stream in json.loads(text)["streams"]]
    except (TypeError, KeyError, ValueError, RecursionError):
        raise ValueError("not a health file of datastream-ws") from None


def health_from(facts: Mapping[str, Any]) -> StreamHealth:
    """
    Return the health in a decoded JSON object, and ignore the fields of a newer version.

    Raises:
        TypeError, ValueError: If a field is missing or invalid.

    """
    known = fields(StreamHealth)
    health = StreamHealth(**{f.name: facts[f.name] for f in known if f.name in facts})
    for field in known:
        value = getattr(health, field.name)
        if not isinstance(value, KINDS[str(field.type)]):
            raise TypeError(field.name)
        if isinstance(value, int | float) and not abs(value) < LARGEST_NUMBER:  # also NaN
            raise ValueError(field.name)
        if isinstance(value, dict) and not all(_is_count(number) for number in value.values()):
            raise ValueError(field.name)
    return health


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST_NUMBER


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking, because a FIFO would block a health check."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
