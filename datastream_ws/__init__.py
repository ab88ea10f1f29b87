"""
A WebSocket client that keeps a stream connected inside a Python application.

::

    from datastream_ws import Client

    client = Client("wss://api.example.com/stream")

    @client.on_message
    def handle(message):
        print(message.json())

    client.run()

``Client`` is for threads, ``AsyncClient`` is for asyncio, and ``Fleet`` is for many streams of one
kind. Every option is a keyword argument. ``ClientOptions`` holds them, and the module
``datastream_ws.option_types`` describes each one.
"""

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
from .options import ClientOptions, ConnectionReadyHandler, MessageHandler
from .protocols import Logger
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
    """Import :class:`Fleet` on first use, because most programs have only a few streams."""
    if name == "Fleet":
        from .fleet.fleet import Fleet

        return Fleet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
