"""
The engine, built on the ``websockets`` library.

A subclass of the library's connection passes messages on without ``recv()``. The argument
``create_connection`` installs it. A :class:`FrameCutter` parses most messages out of the received
bytes. Every other frame goes through the library's parser to ``process_event``.

The library does not document that method. If a release lacks it, :data:`HOOKED` is false and a
``recv()`` loop reads the messages instead.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidURI,
)
from websockets.frames import CloseCode, Opcode
from websockets.protocol import CLOSING, OPEN

from ..events import Handshake
from ..options import ClientOptions
from .answers import MOST_FRAGMENTS, ResponseHeaders, closed_by_peer, cut_by_peer, peer_fault
from .deflate import Deflate
from .endpoint import Endpoint
from .engine import Ended, Frame, Receiver
from .frames import READ_BYTES, FrameCutter, payload_at, set_read_size
from .opening import Connect, attempt_error, request_for

__all__ = ["HOOKED", "WebsocketsEngine"]

_TEXT, _BINARY, _CONT, _PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PONG
PING = 0x89  # the first byte of a ping
LONGEST_PING = 125  # bytes, RFC 6455 section 5.5
MOST_PINGS = 16  # per read; only the latest are answered

# Reasons that the client sends with these close codes. With 1009 it sends the error's text.
CLOSE_REASONS = {1002: "decompression failed", 1007: "invalid UTF-8"}

HOOKED = (
    "process_event" in ClientConnection.data_received.__code__.co_names
    and "response" in ClientConnection.process_event.__code__.co_names
)

# The errors of an attempt to connect.
EXPECTED = (
    OSError,
    EOFError,
    ImportError,
    InvalidHandshake,
    InvalidProxy,
    InvalidURI,
    ConnectionClosed,
)


class HookedConnection(ClientConnection):
    """
    The library's connection, which passes received messages to the receiver.

    Attributes:
        open: Whether the receiver gets the end of the connection.
        broken: The server's violation of the protocol that the library did not detect. ``None``
            means that there is none.
        lost_with: The error that ended the connection. ``None`` means that there is none.

    """

    # Slots save 1.2 KiB per connection. With so many more attributes CPython could no longer share
    # the keys of the instances' dicts.
    __slots__ = (
        "_closing",
        "_cutter",
        "_fragments",
        "_fragments_are_text",
        "_given",
        "_hooked",
        "_pings",
        "_read_size",
        "_receiver",
        "_seen",
        "_splits",
        "_written",
        "broken",
        "lost_with",
        "open",
    )

    def __init__(
        self,
        receiver: Receiver,
        hooked: bool,
        endpoint: Endpoint,
        protocol: ClientProtocol,
        **settings: Any,
    ) -> None:
        super().__init__(protocol, **settings)
        protocol.connect = functools.partial(request_for, protocol, endpoint)  # type: ignore[method-assign]
        self._receiver = receiver
        self._hooked = hooked
        self._cutter = FrameCutter(protocol.max_message_size, self._parse, self._break_off)
        self._fragments: list[bytes] = []
        self._fragments_are_text = False
        self._seen = b""  # the last bytes of the HTTP response so far
        self._splits = False
        self._pings: list[bytes] = []  # payloads of the latest unanswered pings
        self._read_size = READ_BYTES
        self._given = self._written = 0  # bytes that the transport got, and that the kernel has
        self._closing = False
        self.open = False
        self.broken: Exception | None = None
        self.lost_with: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        set_read_size(transport, READ_BYTES)
        super().connection_made(transport)

    # --- received ---

    def data_received(self, data: bytes) -> None:
        self._receiver.bytes_received()
        if self._splits:
            self._cutter.feed(data)
            size = self._cutter.next_read(len(data))
            if size != self._read_size:
                self._read_size = size
                set_read_size(self.transport, size)
        elif self.response is None:
            self._read_response(data)
        else:
            super().data_received(data)
        self._hand_over()
        if self._pings:
            self._answer_pings()

    def _read_response(self, data: bytes) -> None:
        """
        Pass the HTTP response to the library, and not a byte more.

        The next bytes may be the beginning of a frame. The library's parser must be between two
        frames when the frame cutter begins.
        """
        seen = self._seen + data
        end = seen.find(b"\r\n\r\n") + 4 - len(self._seen)
        if end < 4 - len(self._seen):
            self._seen = seen[-3:]
            super().data_received(data)
            self._stop_reading_refused()
            return
        super().data_received(data[:end])
        self._stop_reading_refused()
        self._splits = self._hooked and self.protocol.state is OPEN
        if self._splits:
            self._cut_frames(data[end:])
        elif end < len(data):
            super().data_received(data[end:])

    def _stop_reading_refused(self) -> None:
        """Abort after an invalid response, which the library would go on reading indefinitely."""
        if self.protocol.handshake_exc is not None and self.response is None:
            self.transport.abort()

    def _cut_frames(self, data: bytes) -> None:
        """Begin to parse frames, with the extensions that the handshake negotiated."""
        for extension in self.protocol.extensions:
            assert isinstance(extension, Deflate)  # the only one that is offered
            self._cutter.inflates(extension.inflate)
        self._cutter.feed(data)

    def _parse(self, data: bytes) -> None:
        """Pass a frame from the cutter to the library. Pings are collected here instead."""
        if data[0] == PING and not self._cutter.is_over:
            start, length = payload_at(data, 0)
            if length <= LONGEST_PING:
                self._pings.append(data[start:])
                del self._pings[:-MOST_PINGS]
                return
        super().data_received(data)
        self._cutter.takes = not self._fragments
        self._cutter.is_over |= self.protocol.state is not OPEN

    def _answer_pings(self) -> None:
        """
        Send the pongs for this read, once the kernel has everything written before.

        While bytes are unsent only the latest ping is kept. Otherwise pongs would pile up for a
        server that reads nothing. One pong may answer several pings (RFC 6455 section 5.5.3).
        """
        protocol = self.protocol
        if self.transport.get_write_buffer_size():
            del self._pings[:-1]
        else:
            pings, self._pings = self._pings, []
            if protocol.close_rcvd is None and protocol.state in (OPEN, CLOSING):
                for payload in pings:
                    protocol.send_pong(payload)
                self.write(b"".join(protocol.data_to_send()))

    def _hand_over(self) -> None:
        messages, size = self._cutter.handed_over()
        if messages:
            self._receiver.messages_received(messages, size)
        if self.protocol.state is OPEN:
            return
        if self.open and not self._closing and self.protocol.close_expected():
            self._closing = True
            code, reason = self._closed_by_peer()
            self._receiver.closing(code, reason)

    def _closed_by_peer(self) -> tuple[int | None, str]:
        received = self.protocol.close_rcvd
        if received is None or not self.protocol.close_rcvd_then_sent:
            return None, ""
        return int(received.code), received.reason

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
            # RFC 6455 section 8.1 requires to fail the connection.
            self._break_off(CloseCode.INVALID_DATA, error)

    def _break_off(self, code: int, error: Exception) -> None:
        """Fail the connection because of data that the library's parser did not reject."""
        self.broken = error
        self._fragments.clear()
        self.protocol.fail(code, CLOSE_REASONS.get(code, str(error)))
        self.send_data()

    # --- flow control and the end ---

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.open:  # TLS may call this during its own handshake
            self._receiver.writing_paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pings:
            self._answer_pings()
        if self.open:
            self._receiver.writing_resumed()

    def send_data(self) -> None:
        """Write the library's output, unless the connection is lost."""
        for data in self.protocol.data_to_send():
            if data:
                self.write(data)
            elif self.transport.can_write_eof():
                with suppress(OSError, RuntimeError):  # uvloop raises RuntimeError
                    self.transport.write_eof()
            else:
                self.transport.close()

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():  # otherwise asyncio logs a warning for each write
            self._given += len(data)
            self.transport.write(data)

    @property
    def written(self) -> int:
        if not self.transport.is_closing():
            self._written = max(self._written, self._given - self.unsent)
        return self._written

    @property
    def unsent(self) -> int:
        transport = self.transport
        if transport.is_closing():  # asyncio's TLS transport may then have no buffer to measure
            return 0
        return transport.get_write_buffer_size() + _below_tls(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost_with = exc
        super().connection_lost(exc)
        if self.open:
            self.open = False
            self._receiver.ended(self._why(exc))

    def _why(self, exc: Exception | None) -> Ended:
        protocol = self.protocol
        fault = self.broken or protocol.parser_exc
        sent = protocol.close_sent
        if fault is not None and sent is not None and protocol.close_rcvd is None:
            code = int(sent.code)  # the library's code may be an enum
            return Ended(code, "", peer_fault(code, sent.reason), peer_fault=True)
        if protocol.close_rcvd is not None:
            code, reason = int(protocol.close_rcvd.code), protocol.close_rcvd.reason
            began = protocol.close_rcvd_then_sent is False
            return Ended(code, reason, None if began else closed_by_peer(code, reason))
        return Ended(1006, "", cut_by_peer(exc))


def _below_tls(transport: asyncio.Transport) -> int:
    """
    Return the unsent bytes of the transport below asyncio's TLS.

    The TLS transport does not count the encrypted bytes that it has passed down.
    """
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return 0 if below is None else below.get_write_buffer_size()


class WebsocketsEngine:
    """
    An :class:`~datastream_ws.connection.engine.Engine` on the ``websockets`` library.

    Args:
        options: The client's options.
        hooked: Whether messages bypass ``recv()``. Tests pass false.

    """

    def __init__(self, options: ClientOptions, *, hooked: bool = HOOKED) -> None:
        self._options = options
        self._hooked = hooked
        self._connection: HookedConnection
        self._pump: asyncio.Task[None] | None = None

    async def open(self, endpoint: Endpoint, receiver: Receiver) -> None:
        connecting: Connect | None = None
        try:
            connecting = Connect(
                endpoint,
                self._options,
                functools.partial(HookedConnection, receiver, self._hooked, endpoint),
            )
            connection = await connecting
        except EXPECTED as error:
            made: Any = connecting and connecting.reached
            failure = attempt_error(error, made and made.lost_with)
        else:
            self._start(connection, receiver)
            return
        # Raise it without the library's traceback, whose frames hold headers and proxy passwords.
        failure.__cause__ = failure.__context__ = None
        raise failure.with_traceback(None)

    def _start(self, connection: Any, receiver: Receiver) -> None:
        self._connection = connection
        connection.request = None  # it takes 1 KiB, and its headers may hold secrets
        connection.open = True
        if connection.connection_lost_waiter.done():
            connection.open = False
            receiver.ended(connection._why(None))
        elif not self._hooked:
            self._pump = asyncio.create_task(self._receive(connection, receiver))
        else:
            connection._hand_over()  # a close frame may have arrived with the handshake

    async def _receive(self, connection: HookedConnection, receiver: Receiver) -> None:
        """Read messages with ``recv()``, for a release of the library without the hook."""
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
        self._connection.write(b"".join(protocol.data_to_send()))  # one system call for all frames

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

    @property
    def descriptor(self) -> int:
        connection = vars(self).get("_connection")
        if connection is None or connection.connection_lost_waiter.done():
            return -1  # the number may be that of another file now
        return int(connection.transport.get_extra_info("socket").fileno())

    def abort(self) -> None:
        self._connection.transport.abort()

    def pause(self) -> None:
        self._connection.transport.pause_reading()

    def resume(self) -> None:
        self._connection.transport.resume_reading()

    @property
    def handshake(self) -> Handshake:
        response = self._connection.response
        assert response is not None
        headers = ResponseHeaders(response.headers.raw_items())
        return Handshake(self._connection.subprotocol, headers)

    @property
    def written(self) -> int:
        return self._connection.written

    @property
    def unsent(self) -> int:
        return self._connection.unsent
