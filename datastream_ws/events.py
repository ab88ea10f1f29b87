"""The states of a client, and the frozen events that its hooks are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import Message

__all__ = ["DisconnectEvent", "GapEvent", "Handshake", "RecentEvent", "State", "StateEvent"]


class State(Enum):
    """Where a client stands; changed in one place, told to ``on_state``."""

    IDLE = "idle"  # never started in this process
    CONNECTING = "connecting"
    CONNECTED = "connected"  # messages arrive, on_connect and on_ready hooks run
    READY = "ready"
    WAITING = "waiting"  # backing off before the next attempt
    PAUSED = "paused"
    STANDBY = "standby"  # another process holds the lease
    CLOSING = "closing"  # finishing what was received
    CLOSED = "closed"
    FAILED = "failed"  # gave up; .error says why

    @property
    def is_connected(self) -> bool:
        return self is State.CONNECTED or self is State.READY

    @property
    def is_final(self) -> bool:
        """Nothing happens any more before ``start()`` is called (again)."""
        return self in (State.IDLE, State.CLOSED, State.FAILED)


@dataclass(frozen=True, slots=True)
class StateEvent:
    """
    A change of state.

    Attributes:
        attempt: Number of the attempt since the last stable connection, from 1.
        delay: Seconds until the next attempt (WAITING), else ``None``.

    """

    state: State
    previous: State
    error: BaseException | None
    attempt: int
    delay: float | None


@dataclass(frozen=True, slots=True)
class DisconnectEvent:
    """
    The end of a connection that was open.

    Attributes:
        connection: Its number, from 1.
        code: Close code (1006 when the peer sent none).
        reason: The peer's reason, escaped and cut.
        error: What ended it; ``None`` when we closed it.
        will_retry: Whether another attempt follows by itself.
        delay: Seconds until then; ``None`` when there is none.

    """

    connection: int
    code: int
    reason: str
    error: BaseException | None
    will_retry: bool
    delay: float | None


@dataclass(frozen=True, slots=True)
class GapEvent:
    """
    A time without a connection: what the server sent meanwhile did not arrive.

    Attributes:
        started_at: UNIX time of the loss.
        ended_at: UNIX time of the next open connection.
        seconds: Length, by the monotonic clock.
        last_message: The last message received before it; ``None`` when there was none.

    """

    started_at: float
    ended_at: float
    seconds: float
    last_message: Message | None


@dataclass(frozen=True, slots=True)
class RecentEvent:
    """
    Something that happened to a stream, for those who look later.

    Attributes:
        at: UNIX time.
        kind: ``"connected"``, ``"ready"``, ``"lost"``, ``"gap"``, ``"lease"``, ``"paused"``,
            ``"resumed"``, ``"reconnect"``, ``"failed"`` or ``"closed"``; of a fleet ``"limit"``.
        text: What happened, in a few words; may be empty.

    """

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """
    The response of a server that accepted a connection.

    Attributes:
        subprotocol: The one that the server selected. ``None`` if it selected none.
        headers: The headers of the response. Their names are case-insensitive. The values of a
            repeated header are joined by ``", "``. They may be secrets, so ``repr`` hides them.

    """

    subprotocol: str | None
    headers: Mapping[str, str] = field(repr=False)
