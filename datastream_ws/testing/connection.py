"""A connection of a StreamServer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ProtocolError
from websockets.frames import Close
from websockets.http11 import Request
from websockets.protocol import State

from .loop import LoopOnThread

__all__ = ["GRACE", "StreamConnection", "check_close", "encoded"]

# Seconds to wait for the other side when a connection is ended.
GRACE = 0.5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


class StreamConnection:
    """
    An accepted connection. You can call its methods from any thread.

    Attributes:
        number: The number of the connection in order of arrival, from 1.
        path: The path of the request, including the query.
        headers: The headers of the request. Their names are case-insensitive.
        opened_at: The monotonic time at which the handshake ended.
        received: The messages that were received, as str or bytes.
        closed: A threading.Event that is set when the connection has ended and all messages are
            in ``received``.
        close_code: The close code from the client. It's 1005 for a close frame without a code, and
            1006 without a close frame. ``None`` while the connection is open.
        close_reason: The close reason from the client.
        websocket: The connection of ``websockets``. Use it only on the server's loop.

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
        """Whether neither side has begun to close the connection."""
        leaving = self._dropped or self._closing is not None
        return not leaving and self.websocket.state is State.OPEN

    def send(self, obj: Any) -> None:
        """
        Send a str as a text frame, bytes as a binary frame, and any other object as JSON.

        The frame is written when this returns. It doesn't wait for a client that doesn't read.

        Raises:
            ConnectionError: If the connection isn't open.

        """
        if not self._loop.is_running or not self._loop.call(self.write, encoded(obj)):
            raise ConnectionError(f"connection {self.number} of the test server is not open")

    def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Send a close frame. ``closed`` is set when the client has responded.

        It has no effect if the connection isn't open.

        Raises:
            ValueError: If a close frame can't have this code or reason.

        """
        check_close(code, reason)
        self._end(self.begin_close, code, reason)

    def abort(self) -> None:
        """Reset the TCP connection (RST). Data that wasn't sent yet is lost."""
        self._end(self.reset)
        if not self._loop.is_current:
            self.closed.wait(GRACE)

    def drop(self) -> None:
        """End the TCP connection (FIN) without a close frame, as if the server was killed."""
        self._end(self.hang_up)

    def _end(self, how: Callable[..., None], *args: Any) -> None:
        if self._loop.is_running:
            self._loop.call(how, *args)

    # --- on the loop ---

    def write(self, data: str | bytes) -> bool:
        """Send a frame, and return whether the connection was open. Call it only on the loop."""
        if self.is_open:
            broadcast([self.websocket], data)
            return True
        return False

    def take(self, data: str | bytes) -> bool:
        """Record a message unless the connection was dropped. Call it only on the loop."""
        if not self._dropped:  # a server that was killed would not receive it
            self.received.append(data)
        return not self._dropped

    def begin_close(self, code: int, reason: str) -> None:
        """Start the closing handshake. Call it only on the loop."""
        if self.is_open:
            self._closing = asyncio.ensure_future(self.websocket.close(code, reason))

    def reset(self) -> None:
        """Reset the TCP connection. Call it only on the loop."""
        transport = self.websocket.transport
        with suppress(OSError):  # it may already be closed
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
            )
        transport.abort()

    def hang_up(self) -> None:
        """Send FIN, and discard what the client still sends. Call it only on the loop."""
        if not self.is_open:
            return
        self._dropped = True
        transport = self.websocket.transport
        if not transport.can_write_eof():  # TLS
            transport.close()
            return
        # Read the remaining bytes, because closing a socket with unread bytes sends RST.
        transport.write_eof()
        transport.resume_reading()
        self.websocket.loop.call_later(GRACE, transport.abort)

    def finish(self) -> None:
        """Record the end of the connection. Call it only on the loop."""
        self.close_code = self.websocket.close_code
        self.close_reason = self.websocket.close_reason or ""
        self.closed.set()


def encoded(obj: Any) -> str | bytes:
    """Return the payload for *obj*, which is a str, bytes or JSON."""
    if isinstance(obj, str | bytes):
        return obj
    if isinstance(obj, bytearray | memoryview):
        return bytes(obj)
    return json.dumps(obj)


def check_close(code: int, reason: str) -> None:
    """
    Raise ValueError if a close frame can't have this code or reason (RFC 6455 section 7.4).

    Raises:
        ValueError: If the code is reserved, or the reason is longer than 123 bytes.

    """
    try:
        size = len(Close(code, reason).serialize())
    except ProtocolError as error:
        raise ValueError(f"{code} cannot be sent in a close frame: {error}") from None
    if size > 125:
        raise ValueError("a close reason must have at most 123 bytes")
