"""What a process says of its streams, and the judgement on it; pure but for the file."""

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
    "is_fresh",
    "is_healthy",
    "read_health_file",
    "state_of_many",
    "write_health_file",
]

# Values of State: as health files, status rows and views have them.
HEALTHY = frozenset(state.value for state in (State.READY, State.STANDBY, State.PAUSED))
DEAD = frozenset(state.value for state in State if state.is_final)
MAX_AGE = 30.0  # seconds after which a runner's word is stale; it beats every 5
HEALTHY_SHARE = 0.95  # of a fleet's streams; fewer healthy ones make an unhealthy fleet
LARGEST_NUMBER = 2.0**63  # of counters and UNIX times; what is larger cannot be reckoned with
LARGEST_FILE = 16 * 2**20  # bytes that are read of a health file

# What JSON may give for the fields of StreamHealth, by their types.
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
    """A client, or a fleet, which has ``counts()`` where a client has a state."""

    @property
    def name(self) -> str: ...

    def stats(self) -> Stats: ...


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """
    One stream, or a fleet, at one moment. Holds no URL, no header and no payload.

    Attributes:
        state: Value of :class:`State`; a fleet's is that of most of its streams here.
        messages_handled: Without those that no handler took, which are ``messages_unrouted``.
        at: UNIX time of the moment.
        last_message_at, connected_since: UNIX times; ``None``: none yet, not connected.
        last_error: One line, escaped; ``None``: none yet.
        streams: Of a fleet: how many streams in this process are in each state.
        source_size: Of a fleet: how many rows its source has; ``None``: it has not returned yet.

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


def describe(client: Described, at: float, stats: Stats | None = None) -> StreamHealth:
    """
    Return how a client or a fleet is.

    Args:
        at: The UNIX time now.
        stats: The client's, if they are known already.

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
    )


def _state_of(client: Any) -> dict[str, Any]:
    """Return the fields about the state."""
    if not hasattr(client, "source_size"):
        return {"state": client.state.value}
    streams = {state.value: number for state, number in client.counts().items()}
    size = client.source_size
    state = state_of_many(streams) if size is not None else State.CONNECTING.value
    if not client.is_running:
        state = State.CLOSED.value
    return {"state": state, "streams": streams, "source_size": size}


def state_of_many(
    streams: Mapping[str, int], expected: int | None = None, share: float = HEALTHY_SHARE
) -> str:
    """
    Return the state of most streams: of the healthy ones if enough are, else of the others.

    Never one of ``DEAD``, because a fleet goes on without its failed streams.

    Args:
        streams: How many are in each state.
        expected: How many there should be; ``None``: those there are.
        share: How many of them have to be healthy, from 0 to 1.

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
    """Whether a stream, or so much of a fleet, was well, at most *max_age* seconds ago."""
    state = health.state
    if health.streams and state not in DEAD:
        state = state_of_many(health.streams, share=share)
    return is_fresh(health, now, max_age) and state in HEALTHY


def is_fresh(health: StreamHealth, now: float, max_age: float = MAX_AGE) -> bool:
    """Whether this was said at most *max_age* seconds ago; a time to come is no more to be had."""
    return abs(now - health.at) <= max_age


def write_health_file(path: str, streams: Iterable[StreamHealth]) -> None:
    """
    Replace the file in one step, so that a reader never sees half of it. Raises OSError.
    """
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
    Return what the last writer said; never blocks, whatever *path* names.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no health file.

    """
    with open(path, "rb", opener=_without_waiting) as file:
        text = file.read(LARGEST_FILE)
    try:
        return [_checked(StreamHealth(**stream)) for stream in json.loads(text)["streams"]]
    except (TypeError, KeyError, ValueError, RecursionError):
        raise ValueError("not a health file of datastream-ws") from None


def _checked(health: StreamHealth) -> StreamHealth:
    for field in fields(StreamHealth):
        value = getattr(health, field.name)
        if not isinstance(value, KINDS[str(field.type)]):
            raise TypeError(field.name)
        if isinstance(value, int | float) and not abs(value) < LARGEST_NUMBER:  # NaN, too
            raise ValueError(field.name)
        if isinstance(value, dict) and not all(_is_count(number) for number in value.values()):
            raise ValueError(field.name)
    return health


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST_NUMBER


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a FIFO in its place must not hold up a health view."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
