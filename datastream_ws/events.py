"""The states of a client, and the events that its hooks get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import Message

__all__ = ["DisconnectEvent", "GapEvent", "Handshake", "RecentEvent", "State", "StateEvent"]


class State(Enum):
    """
    The state of a client. Every change is passed to ``on_state`` hooks.

    Attributes:
        IDLE: Never started in this process.
        CONNECTING: An attempt to connect is in progress.
        CONNECTED: Messages arrive, and the ``on_connect`` and ``on_ready`` hooks run.
        READY: The hooks have succeeded.
        WAITING: The backoff before the next attempt.
        PAUSED: Offline until ``resume()`` is called.
        STANDBY: Another process holds the lease.
        CLOSING: Received messages are handled before the connection is closed.
        CLOSED: The client was closed.
        FAILED: The client doesn't connect again. The property ``error`` has the reason.

    """

    IDLE = "idle"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    READY = "ready"
    WAITING = "waiting"
    PAUSED = "paused"
    STANDBY = "standby"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"

    @property
    def is_connected(self) -> bool:
        """Whether there is an open connection (CONNECTED or READY)."""
        return self is State.CONNECTED or self is State.READY

    @property
    def is_final(self) -> bool:
        """Whether the client does nothing until ``start()`` is called (IDLE, CLOSED or FAILED)."""
        return self in (State.IDLE, State.CLOSED, State.FAILED)


@dataclass(frozen=True, slots=True)
class StateEvent:
    """
    A change of state.

    Attributes:
        state: The new state.
        previous: The state before.
        error: The error that caused the change. ``None`` if there is none.
        attempt: The number of the attempt since the last stable connection, from 1.
        delay: Seconds until the next attempt if the state is WAITING. ``None`` otherwise.

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
        connection: The number of the connection, from 1.
        code: The close code (RFC 6455 section 7.4). It's 1006 if the server sent none.
        reason: The server's reason, escaped and shortened. It may be empty.
        error: The error that ended the connection. ``None`` if the client closed it.
        will_retry: Whether the client connects again automatically.
        delay: Seconds until the next attempt. ``None`` if there is no delay or no attempt.

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
    A period without a connection. Messages that the server sent meanwhile did not arrive.

    Attributes:
        started_at: The UNIX time at which the connection was lost.
        ended_at: The UNIX time at which the next connection was open.
        seconds: The length of the gap in seconds, by the monotonic clock.
        last_message: The last message received before the gap. ``None`` if there was none, or if
            unhandled messages were dropped because the lease was lost.

    """

    started_at: float
    ended_at: float
    seconds: float
    last_message: Message | None


@dataclass(frozen=True, slots=True)
class RecentEvent:
    """
    An event in the recent history of a stream, see ``Stats.recent_events``.

    Attributes:
        at: The UNIX time of the event.
        kind: ``"connected"``, ``"ready"``, ``"lost"``, ``"gap"``, ``"lease"``, ``"paused"``,
            ``"resumed"``, ``"reconnect"``, ``"failed"`` or ``"closed"``. A fleet also has
            ``"limit"``.
        text: A short description. It may be empty.

    """

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """
    The response of a server that accepted a connection.

    Attributes:
        subprotocol: The subprotocol that the server selected. ``None`` if it selected none.
        headers: The headers of the response. Their names are case-insensitive. The values of a
            repeated header are joined by ``", "``. They may be secrets, so ``repr`` hides them.

    """

    subprotocol: str | None
    headers: Mapping[str, str] = field(repr=False)
