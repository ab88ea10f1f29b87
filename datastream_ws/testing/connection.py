"""One connection of a StreamServer, as a test sees it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any, cast

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ProtocolError
from websockets.frames import Close
from websockets.http11 import Request
from websockets.protocol import State

from .loop import LoopOnThread

__all__ = ["GRACE", "StreamConnection", "check_close", "encoded"]

# Seconds that the ways of ending a connection wait for the other side.
GRACE = 0.5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


class StreamConnection:
    """
    One accepted connection. Its methods may be called from any thread.

    Attributes:
        number: 1, 2, … in order of arrival.
        path: What was asked for, query included.
        headers: Those of the handshake request; names in any case.
        opened_at: When the handshake was done (monotonic).
        received: What came over this connection, str or bytes.
        closed: Set once it has ended and everything that came over it was taken.
        close_code: What the client sent: 1005 for an empty close frame, 1006 for none at all;
            ``None`` while open.
        close_reason: What the client sent.
        websocket: The connection of ``websockets`` beneath; for use on the server's loop only.

    """

    def __init__(self, loop: LoopOnThread, websocket: ServerConnection, number: int) -> None:
        request = cast(Request, websocket.request)
        self.websocket = websocket
        self.number = number
        self.path = request.path
        self.headers = request.headers
        self.opened_at = time.monotonic()
        self.received: list[str | bytes] = []
        self.closed = threading.Event()
        self.close_code: int | None = None
        self.close_reason = ""
        self._loop = loop
        self._closing: asyncio.Task[None] | None = None
        self._dropped = False

    def __repr__(self) -> str:
        state = "open" if self.close_code is None else f"closed with {self.close_code}"
        return f"<StreamConnection {self.number}, {state}>"

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to end it."""
        leaving = self._dropped or self._closing is not None
        return not leaving and self.websocket.state is State.OPEN

    def send(self, obj: Any) -> None:
        """
        Send str as a text frame, bytes as a binary one, anything else as JSON.

        It is written when this returns, without waiting for a client that does not read.

        Raises:
            ConnectionError: If the connection is not open.

        """
        if not self._loop.is_running or not self._loop.call(self.write, encoded(obj)):
            raise ConnectionError(f"connection {self.number} of the test server is not open")

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame; ``closed`` is set when it was answered. Nothing if not open."""
        check_close(code, reason)
        self._end("begin_close", code, reason)

    def abort(self) -> None:
        """Reset the TCP connection (RST); what was not sent yet is lost."""
        self._end("reset")
        if not self._loop.is_current:
            self.closed.wait(GRACE)

    def drop(self) -> None:
        """End the TCP connection (FIN) without a close frame, as a dying process does."""
        self._end("hang_up")

    def _end(self, how: str, *args: Any) -> None:
        if self._loop.is_running:
            self._loop.call(getattr(self, how), *args)

    # On the loop

    def write(self, data: str | bytes) -> bool:
        """Send a frame; return whether the connection was open. On the loop only."""
        if self.is_open:
            broadcast([self.websocket], data)
            return True
        return False

    def take(self, data: str | bytes) -> bool:
        """Record a message; return whether it counts. On the loop only."""
        if not self._dropped:  # a process that died would not have seen it
            self.received.append(data)
        return not self._dropped

    def begin_close(self, code: int, reason: str) -> None:
        """Start the closing handshake. On the loop only."""
        if self.is_open:
            self._closing = asyncio.ensure_future(self.websocket.close(code, reason))

    def reset(self) -> None:
        """Reset the TCP connection. On the loop only."""
        transport = self.websocket.transport
        with suppress(OSError):  # it may be closed by now
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
            )
        transport.abort()

    def hang_up(self) -> None:
        """End the server's half of the TCP connection, discard the other half. On the loop only."""
        if not self.is_open:
            return
        self._dropped = True
        transport = self.websocket.transport
        if not transport.can_write_eof():  # TLS
            transport.close()
            return
        # Closing the socket with unread bytes in it would send RST instead: read them out.
        transport.write_eof()
        transport.resume_reading()
        self.websocket.loop.call_later(GRACE, transport.abort)

    def finish(self) -> None:
        """Record how it ended. On the loop only."""
        self.close_code = self.websocket.close_code
        self.close_reason = self.websocket.close_reason or ""
        self.closed.set()


def encoded(obj: Any) -> str | bytes:
    """Return what goes into a frame for *obj*: str and bytes as they are, the rest as JSON."""
    if isinstance(obj, str | bytes):
        return obj
    if isinstance(obj, bytearray | memoryview):
        return bytes(obj)
    return json.dumps(obj)


def check_close(code: int, reason: str) -> None:
    """
    Refuse what no close frame may carry.

    Raises:
        ValueError: If the code is a reserved one, or the reason is longer than 123 bytes.

    """
    try:
        size = len(Close(code, reason).serialize())
    except ProtocolError as error:
        raise ValueError(f"{code} cannot be sent in a close frame: {error}") from None
    if size > 125:
        raise ValueError("a close reason must have at most 123 bytes")
