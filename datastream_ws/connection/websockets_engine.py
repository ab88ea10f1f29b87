"""
The engine, over the ``websockets`` library.

A subclass of its connection, put in place by the ``create_connection`` argument, takes messages
before ``recv()``: a :class:`FrameCutter` cuts most of them out of the received bytes; every other
frame goes through the library's parser and is taken in ``process_event``. That method is not
documented: should a release lack it, :data:`HOOKED` is False and messages come from a ``recv()``
loop instead.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidHeader,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    SecurityError,
)
from websockets.frames import CloseCode, Opcode
from websockets.protocol import OPEN
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from ..exceptions import ConfigurationError, HandshakeError
from ..options import ClientOptions
from ..version import __version__
from .answers import (
    MOST_FRAGMENTS,
    closed_by_peer,
    cut_by_peer,
    default_ssl_context,
    peer_fault,
    quiet_logger,
    same_origin,
    status_error,
)
from .deflate import DeflateFactory
from .dialling import dialled
from .engine import Ended, Frame, Receiver
from .frames import FrameCutter, read_in_pieces

__all__ = ["HOOKED", "WebsocketsEngine", "proxy_for"]

_TEXT, _BINARY, _CONT, _PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PONG

HOOKED = (
    "process_event" in ClientConnection.data_received.__code__.co_names
    and "response" in ClientConnection.process_event.__code__.co_names
)


class HookedConnection(ClientConnection):
    """The library's connection, with received messages going straight to the receiver."""

    # A dict with these, too, would be no shared one any more: 1.2 KiB more for each connection.
    __slots__ = (
        "_closing",
        "_cutter",
        "_fragments",
        "_fragments_are_text",
        "_hooked",
        "_receiver",
        "_seen",
        "_splits",
        "broken",
        "open",
    )

    def __init__(self, receiver: Receiver, hooked: bool, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiver = receiver
        self._hooked = hooked
        self._cutter = FrameCutter(self.protocol.max_message_size, self._parse)
        self._fragments: list[bytes] = []
        self._fragments_are_text = False
        self._seen = b""  # the end of the HTTP response, as far as it has come
        self._splits = False
        self._closing = False
        self.open = False
        self.broken: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        read_in_pieces(transport)
        super().connection_made(transport)

    # --- received ---

    def data_received(self, data: bytes) -> None:
        self._receiver.bytes_received()
        if self._splits:
            self._cutter.feed(data)
        elif self.response is None:
            self._read_response(data)
        else:
            super().data_received(data)
        self._hand_over()

    def _read_response(self, data: bytes) -> None:
        """
        Give the library the HTTP response and not a byte more.

        What comes right behind it may be the beginning of a frame, and the library's parser must
        not stand within one when frames are split off here.
        """
        seen = self._seen + data
        end = seen.find(b"\r\n\r\n") + 4 - len(self._seen)
        if end < 4 - len(self._seen):
            self._seen = seen[-3:]
            super().data_received(data)
            return
        super().data_received(data[:end])
        self._splits = self._hooked and self.protocol.state is OPEN
        if self._splits:
            self._cutter.feed(data[end:])
        elif end < len(data):
            super().data_received(data[end:])

    def _parse(self, data: bytes) -> None:
        """Have the library look at what the splitter does not take."""
        super().data_received(data)
        self._cutter.takes = not self._fragments
        self._cutter.is_over |= self.protocol.state is not OPEN

    def _hand_over(self) -> None:
        messages, size = self._cutter.handed_over()
        if messages:
            self._receiver.messages_received(messages, size)
        if self.open and not self._closing and self.protocol.close_expected():
            self._closing = True
            self._receiver.closing()

    def process_event(self, event: Any) -> None:
        if self.response is None or not self._hooked:
            super().process_event(event)
            return
        opcode = event.opcode
        if opcode is _TEXT or opcode is _BINARY or opcode is _CONT:
            self._data_frame(event, opcode)
        elif opcode is _PONG:
            self._receiver.pong_received(bytes(event.data))

    def _data_frame(self, event: Any, opcode: Opcode) -> None:
        if self.broken is not None:
            return
        data, is_text = event.data, opcode is _TEXT
        if opcode is _CONT or not event.fin:
            if opcode is not _CONT:
                self._fragments_are_text = is_text
            self._fragments.append(data)
            if len(self._fragments) > MOST_FRAGMENTS:
                self._break_off(CloseCode.MESSAGE_TOO_BIG, ValueError("too many fragments"))
                return
            if not event.fin:
                return
            data, is_text = b"".join(self._fragments), self._fragments_are_text
            self._fragments.clear()
        try:
            self._cutter.messages.append(data.decode() if is_text else bytes(data))
            self._cutter.size += len(data)
        except UnicodeDecodeError as error:
            # RFC 6455 section 8.1: fail the connection.
            self._break_off(CloseCode.INVALID_DATA, error)

    def _break_off(self, code: CloseCode, error: Exception) -> None:
        """Fail the connection over what the library's parser has let through."""
        self.broken = error
        self._fragments.clear()
        invalid = code is CloseCode.INVALID_DATA
        self.protocol.fail(code, "invalid UTF-8" if invalid else str(error))
        self.send_data()

    # --- flow control and the end ---

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.open:  # TLS may say so before there is anything of ours to write
            self._receiver.writing_paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.open:
            self._receiver.writing_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.open:
            self.open = False
            self._receiver.ended(self._why(exc))

    def _why(self, exc: Exception | None) -> Ended:
        protocol = self.protocol
        fault = self.broken or protocol.parser_exc
        sent = protocol.close_sent
        if fault is not None and sent is not None and protocol.close_rcvd is None:
            return Ended(sent.code, "", peer_fault(sent.code, sent.reason), peer_fault=True)
        if protocol.close_rcvd is not None:
            code, reason = protocol.close_rcvd.code, protocol.close_rcvd.reason
            began = protocol.close_rcvd_then_sent is False
            return Ended(code, reason, None if began else closed_by_peer(code, reason))
        return Ended(1006, "", cut_by_peer(exc))


class Connect(connect):
    """One attempt; a new object each time, because it keeps the URL it was redirected to."""

    async def open_tcp_connection(self) -> ClientConnection:
        """Without a proxy, dial by ourselves. Should a release not call this, it dials itself."""
        proxy = get_proxy(self.ws_uri) if self.proxy is True else self.proxy
        if proxy is not None:
            return await super().open_tcp_connection()
        arguments = self.create_connection_kwargs
        arguments["sock"] = await dialled(self.ws_uri.host, self.ws_uri.port)
        try:
            return await super().open_tcp_connection()
        finally:
            del arguments["sock"]  # no redirect is followed with one

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow redirects within the origin only: any header may be a credential."""
        if not isinstance(exc, InvalidStatus) or "Location" not in exc.response.headers:
            return exc
        try:
            target = urljoin(self.uri, exc.response.headers["Location"])
            if not same_origin(target, self.uri):
                return exc
            return super().process_redirect(exc)
        except (ValueError, InvalidURI, LookupError):
            return exc


class WebsocketsEngine:
    """See :class:`datastream_ws.connection.engine.Engine`."""

    def __init__(self, options: ClientOptions, *, hooked: bool = HOOKED) -> None:
        self._options = options
        self._hooked = hooked
        self._connection: HookedConnection
        self._pump: asyncio.Task[None] | None = None
        self.descriptor = -1

    async def open(self, url: str, headers: Mapping[str, str], receiver: Receiver) -> None:
        try:
            connection = await self._connect(url, headers, receiver)
        except InvalidHandshake as error:
            raise _handshake_error(error) from None
        except InvalidURI:
            raise ConfigurationError("url: is not a WebSocket URL") from None
        except InvalidProxy:
            raise ConfigurationError("proxy: is not a proxy URL that can be used") from None
        except ImportError:
            raise ConfigurationError(
                "proxy: a SOCKS proxy needs python-socks: pip install python-socks"
            ) from None
        except (EOFError, ConnectionClosed) as error:
            raise HandshakeError("the server hung up during the handshake") from error
        self._connection = connection
        self.descriptor = connection.transport.get_extra_info("socket").fileno()
        self._start(connection, receiver)

    async def _connect(
        self, url: str, headers: Mapping[str, str], receiver: Receiver
    ) -> HookedConnection:
        options = self._options
        extra: dict[str, Any] = {}
        if url.startswith("wss:"):
            extra["ssl"] = default_ssl_context(options)
        connection = await Connect(
            url,
            origin=options.origin,  # type: ignore[arg-type]  # a NewType of theirs
            subprotocols=options.subprotocols,  # type: ignore[arg-type]
            compression=None,  # not the library's own
            extensions=None if options.compression is None else [DeflateFactory()],
            additional_headers=headers,
            user_agent_header=f"datastream-ws/{__version__}",
            proxy=options.proxy,  # type: ignore[arg-type]  # False is refused by the options
            # Time limits, keepalive and the close deadline are ours.
            open_timeout=None,
            ping_interval=None,
            close_timeout=None,
            max_size=options.max_size,
            max_queue=None,
            write_limit=0,  # tells us of every byte that waits
            logger=quiet_logger(),
            create_connection=functools.partial(HookedConnection, receiver, self._hooked),  # type: ignore[arg-type]
            **extra,
        )
        assert isinstance(connection, HookedConnection)
        return connection

    def _start(self, connection: HookedConnection, receiver: Receiver) -> None:
        connection.open = True
        if connection.connection_lost_waiter.done():
            connection.open = False
            receiver.ended(connection._why(None))
        elif not self._hooked:
            self._pump = asyncio.create_task(self._receive(connection, receiver))
        else:
            connection._hand_over()  # a close frame may have come with the handshake

    async def _receive(self, connection: HookedConnection, receiver: Receiver) -> None:
        """The slow way in, for a release of the library without our hook."""
        with suppress(ConnectionClosed):
            async for data in connection:
                size = len(data) if isinstance(data, bytes) else len(data.encode())
                receiver.messages_received([data], size)

    def write(self, frames: Sequence[Frame]) -> None:
        protocol = self._connection.protocol
        if protocol.state is not OPEN:
            return
        for is_text, payload in frames:
            if is_text:
                protocol.send_text(payload)
            else:
                protocol.send_binary(payload)
        # One system call for the lot.
        self._connection.transport.write(b"".join(protocol.data_to_send()))

    def ping(self, payload: bytes) -> None:
        protocol = self._connection.protocol
        if protocol.state is OPEN:
            protocol.send_ping(payload)
            self._connection.send_data()

    def close(self, code: int, reason: str) -> None:
        protocol = self._connection.protocol
        if protocol.state is OPEN:
            protocol.send_close(code, reason)
            self._connection.send_data()

    def abort(self) -> None:
        self._connection.transport.abort()

    def pause(self) -> None:
        self._connection.transport.pause_reading()

    def resume(self) -> None:
        self._connection.transport.resume_reading()

    @property
    def unsent(self) -> int:
        return self._connection.transport.get_write_buffer_size()


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a stream's URL; it may hold a password."""
    return get_proxy(parse_uri(url))


def _handshake_error(error: InvalidHandshake) -> Exception:
    """Say it in our words: theirs may show a header's value or a proxy's password."""
    if isinstance(error, InvalidStatus):
        headers = error.response.headers
        waits = headers.get_all("Retry-After")
        wait = waits[0] if len(waits) == 1 else None
        return status_error(error.response.status_code, wait, datetime.now(UTC))
    if isinstance(error, InvalidProxyStatus):
        status = error.response.status_code
        return HandshakeError(f"the proxy answered HTTP {status}", status=status)
    if isinstance(error, InvalidUpgrade):
        return HandshakeError("the answer is no WebSocket upgrade")
    if isinstance(error, NegotiationError | InvalidHeader):
        what = error.name if isinstance(error, InvalidHeader) else "a subprotocol or extension"
        return HandshakeError(f"the server broke the handshake: {what}", status=101)
    if isinstance(error, SecurityError):
        return HandshakeError("the answer to the handshake exceeds what is safe to read")
    return HandshakeError("there was no valid HTTP answer to the handshake")
