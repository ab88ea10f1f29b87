"""What a process says of its streams, and the judgement on it; pure but for the file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from .events import State
from .stats import Stats

__all__ = ["StreamHealth", "describe", "is_healthy", "read_health_file", "write_health_file"]

HEALTHY = (State.READY, State.STANDBY, State.PAUSED)


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


def describe(client: Described, at: float) -> StreamHealth:
    """Return how *client* is; *at* is the UNIX time now."""
    stats = client.stats()
    return StreamHealth(
        name=client.name,
        state=client.state.value,
        at=at,
        pid=os.getpid(),
        messages_received=stats.messages_received,
        messages_handled=stats.messages_handled,
        messages_failed=stats.messages_failed,
        messages_dropped=sum(stats.messages_dropped.values()),
        messages_waiting=stats.messages_waiting,
        messages_spooled=stats.messages_spooled,
        reconnects=stats.reconnects,
        connected_since=stats.connected_since,
        last_message_at=stats.last_message_at,
        last_error=stats.last_error,
    )


def is_healthy(health: StreamHealth, now: float, max_age: float) -> bool:
    """Whether a stream was well, at most *max_age* seconds ago."""
    fresh = now - health.at <= max_age
    return fresh and health.state in {state.value for state in HEALTHY}


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
    Return what the last writer said.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no health file.

    """
    content: Any = json.loads(Path(path).read_text())
    try:
        return [StreamHealth(**stream) for stream in content["streams"]]
    except (TypeError, KeyError):
        raise ValueError("not a health file of datastream-ws") from None
