"""The client that keeps a WebSocket stream alive inside a Python application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .async_client import AsyncClient
from .client import Client
from .codecs import Codec
from .events import DisconnectEvent, GapEvent, Handshake, RecentEvent, State, StateEvent
from .exceptions import (
    ConfigurationError,
    DataStreamError,
    DecodeError,
    EncodeError,
    HandlerError,
    HandshakeError,
    InboxOverflowError,
    LeaseError,
    NotConnectedError,
    Postponed,
    ReconnectError,
    SendTimeoutError,
    SpoolError,
    StreamClosedError,
    UnauthorizedError,
)
from .handlers import Handlers
from .messages import Message
from .option_checks import Logger
from .options import ClientOptions, ConnectionReadyHandler, MessageHandler
from .stats import HandlerStats, Histogram, Stats
from .version import __version__

if TYPE_CHECKING:
    from .fleet.fleet import Fleet

__all__ = [
    "AsyncClient",
    "Client",
    "ClientOptions",
    "Codec",
    "ConfigurationError",
    "ConnectionReadyHandler",
    "DataStreamError",
    "DecodeError",
    "DisconnectEvent",
    "EncodeError",
    "Fleet",
    "GapEvent",
    "HandlerError",
    "HandlerStats",
    "Handlers",
    "Handshake",
    "HandshakeError",
    "Histogram",
    "InboxOverflowError",
    "LeaseError",
    "Logger",
    "Message",
    "MessageHandler",
    "NotConnectedError",
    "Postponed",
    "RecentEvent",
    "ReconnectError",
    "SendTimeoutError",
    "SpoolError",
    "State",
    "StateEvent",
    "Stats",
    "StreamClosedError",
    "UnauthorizedError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import :class:`Fleet` when it is asked for: most programs have a handful of streams."""
    if name == "Fleet":
        from .fleet.fleet import Fleet

        return Fleet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
