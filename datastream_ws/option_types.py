"""The type and the description of every option."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

from .codecs import Codec
from .handlers import Handlers
from .messages import Message
from .option_checks import CodecName, Overflow
from .protocols import Lease, Logger

__all__ = [
    "ConnectionReadyHandler",
    "Headers",
    "MessageHandler",
    "Options",
    "StreamOptions",
    "Subprotocols",
    "Url",
]

Url = str | Sequence[str] | Callable[[], str | Awaitable[str]]

Headers = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

Subprotocols = Sequence[str] | Callable[[], Sequence[str] | Awaitable[Sequence[str]]]


@runtime_checkable
class MessageHandler(Protocol):
    """An object that handles messages (``MessageHandlerFunc`` in Schematic's Go client)."""

    def handle_message(self, message: Message) -> Any:
        """Handle a message. It's called like a synchronous or coroutine handler."""


@runtime_checkable
class ConnectionReadyHandler(Protocol):
    """An object with an ``on_ready`` hook (``ConnectionReadyHandlerFunc`` in the Go client)."""

    def on_connection_ready(self) -> Any:
        """Prepare a new connection. It's called like an ``on_ready`` hook."""


class StreamOptions(TypedDict, total=False):
    """Every option except ``url``, for annotations such as ``**options: Unpack[StreamOptions]``."""

    headers: Headers
    """Headers of the opening handshake. A callable, sync or async, returns them and is called
    before every attempt. A ``Host`` header replaces the client's own. Headers that the
    client sets itself, such as ``Upgrade``, raise ``ConfigurationError``."""
    message_handler: MessageHandler | Callable[[Message], object] | None
    """A handler of every message. It's a callable, or an object with ``handle_message(message)``.
    ``None`` registers none."""
    connection_ready_handler: ConnectionReadyHandler | Callable[[], object] | None
    """An ``on_ready`` hook. It's a callable, or an object with ``on_connection_ready()``. ``None``
    registers none."""
    logger: Logger
    """Any object with the methods ``debug``, ``info``, ``warning`` and ``error``."""
    max_reconnect_attempts: int | None
    """The number of consecutive failed attempts after which the client fails, including the first
    one. ``None`` means no limit."""
    min_reconnect_delay: float
    """The shortest backoff, in seconds."""
    max_reconnect_delay: float
    """The longest backoff, in seconds."""
    write_timeout: float
    """Seconds without a written byte after which a connection with unsent messages is replaced."""
    pong_timeout: float | None
    """Seconds without a received byte after which the connection is replaced. ``None`` means no
    limit."""
    ping_interval: float | None
    """Seconds between pings. ``None`` disables pings."""
    name: str
    """The stream's name in logs, errors and metrics."""
    handlers: Handlers | None
    """A ``Handlers`` registry, which several clients may share. ``None`` creates one."""
    stable_after: float
    """Seconds for which a connection must be ready to reset the failed attempts and the backoff."""
    fatal_delay: float | None
    """Seconds between attempts after a fatal error, varied at random by up to half. ``None`` makes
    the client fail instead."""
    retry: Callable[[BaseException], bool | None] | None
    """A callable ``error -> bool or None`` that decides whether to retry. If it returns ``None``,
    the client decides. If a hook raises an exception, the callable gets it. ``None`` lets the
    client always decide."""
    open_timeout: float | None
    """Seconds for DNS, TCP, TLS and the opening handshake. ``None`` means no limit."""
    ready_timeout: float | None
    """Seconds that the ``on_connect`` and ``on_ready`` hooks of one connection may take. The time
    to send the subscriptions doesn't count. ``None`` means no limit."""
    close_timeout: float
    """Seconds for ``close()`` as a whole. It runs ``on_closing``, handles the received messages,
    sends the queued ones and closes the connection."""
    idle_timeout: float | None
    """Seconds without a message after which a ready connection is replaced. Pongs don't count as
    messages. ``None`` means no limit."""
    send_rate: tuple[int, float] | None
    """The largest number of messages to send within a number of seconds, such as ``(5, 1.0)``. The
    limit holds for any period of that length. Subscriptions count, and ``send()`` waits if the
    limit is reached. ``None`` means no limit."""
    heartbeat: Any
    """A message to send regularly while the client is ready, or a callable that returns one.
    ``None`` sends none."""
    heartbeat_interval: float
    """Seconds between two heartbeats."""
    max_size: int | None
    """The size of the largest message to receive, in bytes. ``None`` means no limit."""
    compression: Literal["deflate"] | None
    """``"deflate"`` offers compression to the server, and ``None`` offers none."""
    proxy: str | Literal[True] | None
    """The URL of an HTTP or SOCKS proxy. ``True`` uses the environment's proxy, and ``None``
    connects directly."""
    proxy_ssl: ssl_module.SSLContext | None
    """The TLS context that verifies an ``https://`` proxy. ``None`` uses the system's
    certificates."""
    ssl: ssl_module.SSLContext | Literal[True] | None
    """The TLS context for ``wss://``. ``None`` and ``True`` verify the server with the system's
    certificates."""
    subprotocols: Subprotocols | None
    """The subprotocols to offer, in order of preference. A callable, sync or async, returns them
    and is called before every attempt. ``None`` offers none."""
    origin: str | None
    """The ``Origin`` header. ``None`` sends none."""
    lease: str | Lease | None
    """A ``redis://`` URL (extra ``redis``) or any ``Lease``, so that one of many processes holds
    the stream. ``None`` means that every process connects."""
    lease_ttl: float
    """Seconds within which another process connects if the holder was killed."""
    inbox_size: int | None
    """The number of messages that may wait for handlers. ``None`` means no limit."""
    inbox_bytes: int | None
    """The memory that messages waiting for handlers may take, in bytes. Each message counts as its
    payload plus 200 bytes. ``None`` means no limit."""
    overflow: Overflow
    """The reaction to a full inbox, which is ``"block"``, ``"drop_oldest"``, ``"drop_newest"`` or
    ``"disconnect"``."""
    spool: str | None
    """The path of an SQLite file in which the inbox continues. The client replaces ``{name}``,
    ``{host}`` and ``{pid}`` in the path. Unhandled messages stay in the file until the next start.
    ``None`` keeps messages in memory only."""
    spool_bytes: int | None
    """The largest total size of the messages in the spool, in bytes. ``None`` means no limit."""
    journal: bool
    """``True`` writes each message to the spool before it counts as received."""
    conflate: Callable[[Message], object] | None
    """A callable ``message -> key``. A newer message replaces a waiting one with the same key.
    ``None`` keeps all messages."""
    concurrency: int
    """The number of messages handled at the same time. ``1`` keeps the order of arrival."""
    ordering_key: Callable[[Message], object] | None
    """A callable ``message -> key``. With ``concurrency`` above 1, messages with the same key keep
    their order. ``None`` keeps no order."""
    handler_timeout: float | None
    """Seconds after which a running handler is reported, with its stack. ``None`` disables the
    report."""
    retry_message: Callable[[BaseException], bool] | None
    """A callable ``error -> bool``. If it returns true, the message is passed to the failed handler
    a second time. ``None`` never retries."""
    codec: CodecName | Codec
    """The codec for ``message.json()`` and ``send()``. It's ``"json"``, ``"orjson"``, ``"msgspec"``
    (extra ``fast``) or an object with ``decode()`` and ``encode()``. An object may also have
    ``unpacker()``. See performance."""
    route: str | Callable[[Message], str | int | None]
    """The JSON field that holds a message's route, a string or a whole number. Alternatively, a
    callable ``message -> route`` returns the route."""


class Options(StreamOptions, total=False):
    """Every option, for annotations such as ``**options: Unpack[Options]``."""

    url: Url
    """A ``ws://``, ``wss://`` or ``ws+unix:///path.sock:/resource`` URL. With a list of URLs, a
    failed attempt moves on to the next one. A connection that ends before ``stable_after`` is a
    failed attempt. A callable, sync or async, returns a URL and is called before every attempt."""
