"""The steps of a RawServer's scripts, and their records. Durations are in seconds."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import responses
from typing import Protocol

from datastream_ws.testing.connection import RESET_ON_CLOSE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Ended(Exception):
    """The connection, or the server, ended before the script did."""


@dataclass(frozen=True)
class ReceivedFrame:
    """A frame from the client, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def close_code(self) -> int | None:
        """The code in a close frame, or ``None``."""
        if self.opcode != CLOSE or len(self.payload) < 2:
            return None
        return int.from_bytes(self.payload[:2], "big")


@dataclass
class RawConnection:
    """
    A connection and the data that was received.

    Attributes:
        number: The number of the connection in order of arrival, from 1.
        opened_at: The monotonic time at which it was accepted.
        request: The handshake request. It's empty until a step has read it.
        frames: The frames that the steps have read, in order.
        ended_at: The monotonic time at which both sides had ended. ``None`` before.
        done: An event that is set when the connection has ended.
        error: The exception that ended the script early, or ``None``.

    """

    number: int
    opened_at: float
    sock: socket.socket
    stopping: threading.Event
    request: bytes = b""
    frames: list[ReceivedFrame] = field(default_factory=list)
    ended_at: float | None = None
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    unread: bytearray = field(default_factory=bytearray)

    def header(self, name: str) -> str | None:
        """Return a header of the handshake request."""
        for line in self.request.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def read_more(self) -> None:
        """Wait for more bytes. Raises Ended if the client has ended the connection."""
        data = self.sock.recv(65536)
        if not data:
            raise Ended("the client ended the connection")
        self.unread += data

    def read_exactly(self, size: int) -> bytes:
        while len(self.unread) < size:
            self.read_more()
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data

    def read_until(self, end: bytes) -> bytes:
        while (at := self.unread.find(end)) < 0:
            self.read_more()
        return self.read_exactly(at + len(end))

    def read_request(self) -> None:
        """Read the handshake request, unless a previous step has read it."""
        if not self.request:
            self.request = self.read_until(b"\r\n\r\n")

    def read_frame(self) -> ReceivedFrame:
        """Read and unmask a frame of the client."""
        first, second = self.read_exactly(2)
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(self.read_exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(self.read_exactly(8), "big")
        mask = self.read_exactly(4) if second & 0x80 else b"\0\0\0\0"
        payload = masked(self.read_exactly(size), mask)
        frame = ReceivedFrame(first & 0x0F, payload, bool(first & 0x80), (first >> 4) & 7)
        self.frames.append(frame)
        return frame

    def drain(self) -> None:
        """Read and discard until the client ends the connection."""
        with suppress(OSError):
            while self.sock.recv(65536):
                pass

    def wait(self, seconds: float) -> None:
        """Wait. Raises Ended if the server stops meanwhile."""
        if self.stopping.wait(seconds):
            raise Ended("the server stops")


class Step(Protocol):
    """A step on a connection. It blocks until it has finished."""

    def run(self, connection: RawConnection) -> None: ...


Script = Sequence[Step]


@dataclass(frozen=True)
class Expect:
    """Read up to and including these bytes, by default the handshake request."""

    end: bytes = b"\r\n\r\n"

    def run(self, connection: RawConnection) -> None:
        if self.end == b"\r\n\r\n":
            connection.read_request()
        else:
            connection.read_until(self.end)


@dataclass(frozen=True)
class ExpectFrame:
    """Read frames of the client until one has this opcode. ``None`` means any opcode."""

    opcode: int | None = None

    def run(self, connection: RawConnection) -> None:
        while connection.read_frame().opcode != self.opcode and self.opcode is not None:
            pass


@dataclass(frozen=True)
class Converse:
    """Respond to pings, and then to the client's close frame, as a correct server does."""

    def run(self, connection: RawConnection) -> None:
        while (frame := connection.read_frame()).opcode != CLOSE:
            if frame.opcode == PING:
                Frame(PONG, frame.payload).run(connection)
        Frame(CLOSE, frame.payload).run(connection)


@dataclass(frozen=True)
class Upgrade:
    """
    Read the handshake request and accept it.

    Args:
        headers: More header lines, "Name: value".
        accept: The value of ``Sec-WebSocket-Accept``. ``None`` means the correct one.
        status_line: The first line.
        then: Frames in the same write, which the client receives before it is ready.

    """

    headers: Sequence[str] = ()
    accept: str | None = None
    status_line: str = "HTTP/1.1 101 Switching Protocols"
    then: bytes = b""

    def run(self, connection: RawConnection) -> None:
        connection.read_request()
        key = (connection.header("Sec-WebSocket-Key") or "").encode()
        accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
        lines = [
            self.status_line,
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {self.accept or accept.decode()}",
            *self.headers,
        ]
        response = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        connection.sock.sendall(response + self.then)


@dataclass(frozen=True)
class Respond:
    """Read the handshake request, and refuse it with this HTTP response."""

    status: int
    headers: Sequence[str] = ()
    body: bytes = b""

    def run(self, connection: RawConnection) -> None:
        connection.read_request()
        phrase = responses.get(self.status, "Unknown")
        lines = [
            f"HTTP/1.1 {self.status} {phrase}",
            f"Content-Length: {len(self.body)}",
            *self.headers,
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        connection.sock.sendall(head + self.body)


@dataclass(frozen=True)
class Send:
    """Send bytes. With *piece*, send pieces of that size, with *pause* seconds after each."""

    data: bytes
    piece: int | None = None
    pause: float = 0.0

    def run(self, connection: RawConnection) -> None:
        size = self.piece or max(1, len(self.data))
        for start in range(0, len(self.data), size):
            connection.sock.sendall(self.data[start : start + size])
            if self.pause:
                connection.wait(self.pause)


@dataclass(frozen=True)
class Frame:
    """
    Send one frame, valid or not.

    Args:
        opcode: The opcode, 0 to 15.
        payload: The payload. A str is encoded as UTF-8.
        fin: Whether it is the last frame of its message.
        rsv: The three reserved bits. 4 is the bit for compression.
        masked: Whether to mask the payload, which only clients may.
        size: The size in the header. ``None`` means the correct one.

    """

    opcode: int = TEXT
    payload: bytes | str = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = False
    size: int | None = None

    @property
    def data(self) -> bytes:
        """The frame's bytes."""
        payload = self.payload.encode() if isinstance(self.payload, str) else self.payload
        first = (0x80 if self.fin else 0) | self.rsv << 4 | self.opcode
        head = bytes([first]) + self._length(len(payload) if self.size is None else self.size)
        if not self.masked:
            return head + payload
        mask = os.urandom(4)
        return head + mask + masked(payload, mask)

    def _length(self, size: int) -> bytes:
        bit = 0x80 if self.masked else 0
        if size < 126:
            return bytes([bit | size])
        if size < 65536:
            return bytes([bit | 126]) + size.to_bytes(2, "big")
        return bytes([bit | 127]) + size.to_bytes(8, "big")

    def run(self, connection: RawConnection) -> None:
        connection.sock.sendall(self.data)


def Close(code: int | None = 1000, reason: bytes | str = b"") -> Frame:
    """Send a close frame, also with an invalid code or reason. ``None`` sends an empty one."""
    text = reason.encode() if isinstance(reason, str) else reason
    return Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + text)


@dataclass(frozen=True)
class Sleep:
    """Wait this number of seconds."""

    seconds: float

    def run(self, connection: RawConnection) -> None:
        connection.wait(self.seconds)


@dataclass(frozen=True)
class WaitFor:
    """Wait until the test sets this event, or the server stops."""

    event: threading.Event

    def run(self, connection: RawConnection) -> None:
        while not self.event.wait(0.02):
            connection.wait(0)


@dataclass(frozen=True)
class Stall:
    """Keep the connection open, and neither read nor send until the server stops."""

    def run(self, connection: RawConnection) -> None:
        connection.stopping.wait()


@dataclass(frozen=True)
class Drain:
    """Read without responding until the client ends the connection."""

    def run(self, connection: RawConnection) -> None:
        connection.drain()


@dataclass(frozen=True)
class Fin:
    """Send FIN, and read until the client ends the connection."""

    def run(self, connection: RawConnection) -> None:
        # Closing with unread bytes in the socket would send RST instead of FIN.
        connection.sock.shutdown(socket.SHUT_WR)
        connection.drain()


@dataclass(frozen=True)
class Rst:
    """Reset the connection."""

    def run(self, connection: RawConnection) -> None:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.sock.close()
        raise Ended("reset")


def masked(payload: bytes, mask: bytes) -> bytes:
    """Mask or unmask (RFC 6455 section 5.3)."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
