"""What a process says of its streams, and the judgement on it; pure but for the file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

from .events import State
from .stats import Stats

__all__ = [
    "DEAD",
    "HEALTHY",
    "MAX_AGE",
    "StreamHealth",
    "describe",
    "is_fresh",
    "is_healthy",
    "read_health_file",
    "write_health_file",
]

# Values of State: as health files, status rows and views have them.
HEALTHY = frozenset(state.value for state in (State.READY, State.STANDBY, State.PAUSED))
DEAD = frozenset(state.value for state in State if state.is_final)
MAX_AGE = 30.0  # seconds after which a runner's word is stale; it beats every 5
LARGEST_NUMBER = 2.0**63  # of counters and UNIX times; what is larger cannot be reckoned with
LARGEST_FILE = 16 * 2**20  # bytes that are read of a health file

# What JSON may give for the fields of StreamHealth, by their types.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}


class Described(Protocol):
    """A client, as far as its health is concerned."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> State: ...

    def stats(self) -> Stats: ...


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """
    One stream at one moment. Holds no URL, no header and no payload.

    Attributes:
        state: Value of :class:`State`.
        messages_handled: Without those that no handler took, which are ``messages_unrouted``.
        at: UNIX time of the moment.
        last_message_at, connected_since: UNIX times; ``None``: none yet, not connected.
        last_error: One line, escaped; ``None``: none yet.

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


def describe(client: Described, at: float) -> StreamHealth:
    """Return how *client* is; *at* is the UNIX time now."""
    stats = client.stats()
    return StreamHealth(
        name=client.name,
        state=client.state.value,
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


def is_healthy(health: StreamHealth, now: float, max_age: float = MAX_AGE) -> bool:
    """Whether a stream was well, at most *max_age* seconds ago."""
    return is_fresh(health, now, max_age) and health.state in HEALTHY


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
    return health


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a FIFO in its place must not hold up a health view."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
