"""
An engine whose server is the test, which exchanges bytes without a network or delays.

::

    with Wire(max_size=1000) as wire:
        wire.open()                        # the handshake, with the response of the test
        wire.feed(frame, other)            # two reads
        wire.end()                         # FIN
    assert wire.messages == [...]

``wire.sent`` contains the bytes that the engine writes. ``wire.escaped`` contains exceptions that
reach the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, Self

from datastream_ws import ClientOptions
from datastream_ws.connection.endpoint import Endpoint
from datastream_ws.connection.engine import Ended, Engine
from datastream_ws.connection.websockets_engine import WebsocketsEngine

from .rawsteps import GUID

__all__ = ["Wire"]

REDIRECTS = 20  # more than the engine follows
TURNS = 4  # turns of the loop, after which all effects of a read have happened


class Wire:
    """
    A connection of an engine, which the end of the ``with`` block ends.

    Args:
        url: The URL to connect to.
        make: A function that returns the engine.
        options: The options of the client.

    Attributes:
        addresses: The addresses that the engine connected to.
        dialled: The arguments of the library's connections.
        fails_with: An error that connecting raises. ``None`` lets it succeed.
        tls_fails_with: An error that the TLS handshake with the server raises, or ``None``.
        events: ``"paused"`` and ``"resumed"`` for each change of writing.
        messages: The messages from the engine.
        end_seen: The end that the engine reported. ``None`` before.
        peer_close: The code and reason of a close frame that the server sent first, or ``None``.
        is_stuck: Whether the server reads nothing, so that data waits in the transport.
        request: The handshake request.
        sent: The bytes that the engine wrote after the handshake.
        escaped: The exceptions that reached the event loop.

    """

    def __init__(
        self,
        url: str = "ws://192.0.2.1/",
        *,
        make: Callable[[ClientOptions], Engine] = WebsocketsEngine,
        **options: Any,
    ) -> None:
        self._make = make
        self.addresses: list[Any] = []
        self.dialled: list[tuple[Any, Any]] = []
        self.fails_with: Exception | None = None
        self.tls_fails_with: Exception | None = None
        self.options = ClientOptions("ws://192.0.2.1/", **{"proxy": None} | options)
        self.endpoint = Endpoint(url, options.get("headers"), options.get("subprotocols"))
        self.events: list[str] = []
        self.peer_close: tuple[int, str] | None = None
        self.is_stuck = False
        self.messages: list[str | bytes] = []
        self.pongs: list[bytes] = []
        self.end_seen: Ended | None = None
        self.is_closing = False
        self.escaped: list[BaseException] = []
        self.request = b""
        self.sent = b""
        self._transport: MemoryTransport | None = None

    def __enter__(self) -> Self:
        self._loop = MemoryLoop(self)
        self._loop.set_exception_handler(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._turn()
        self._loop.close()

    def open(
        self, *behind: bytes, headers: Sequence[str] = (), status: str = "101 Switching Protocols"
    ) -> None:
        """Do the handshake. Its last read includes the first item of *behind*."""
        self.begin()
        self.accept(*behind, headers=headers, status=status)

    def tunnel(self) -> None:
        """Respond as a proxy that opens a tunnel. The next request is the handshake."""
        self.feed(b"HTTP/1.1 200 OK\r\n\r\n")
        self._await_request()

    def accept(
        self, *behind: bytes, headers: Sequence[str] = (), status: str = "101 Switching Protocols"
    ) -> None:
        """Accept the request of :meth:`begin`."""
        first, *others = behind or (b"",)
        self.feed(self._head(headers, status) + first, *others)
        self._finish(self._opening)

    def lose_with_answer(self) -> None:
        """Accept, and end the connection before the engine has read the response."""
        assert self._transport is not None
        self._loop.call_soon(self._transport.receive, self._head())
        self._loop.call_soon(self._transport.lose)
        self._turn()

    def _head(self, headers: Sequence[str] = (), status: str = "101 Switching Protocols") -> bytes:
        lines = [
            f"HTTP/1.1 {status}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {self._accept()}",
            *headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def answer(self, *reads: bytes) -> None:
        """Respond to the handshake with these bytes and FIN. Raises what ``open()`` raises."""
        engine = self.begin()
        self.feed(*reads)
        for _ in range(REDIRECTS):  # each is a new connection, which ends immediately
            if not engine.done():
                self.end()
        self._finish(engine)

    def begin(self) -> asyncio.Task[None]:
        """Let the engine send its request, and return the task of ``open()``."""
        self.engine: Engine = self._make(self.options)
        opening = self._opening = self._loop.create_task(self.engine.open(self.endpoint, self))
        self._await_request()
        return opening

    def _await_request(self) -> None:
        for _ in range(50):
            if self._transport is not None and self.sent.endswith(b"\r\n\r\n"):
                break
            self._turn()
        self.request, self.sent = self.sent, b""

    def _finish(self, opening: asyncio.Task[None]) -> None:
        self._turn()
        assert opening.done(), "the handshake does not end"
        opening.result()

    def _accept(self) -> str:
        lines = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in self.request.split(b"\r\n"))
        }
        key = lines[b"sec-websocket-key"]
        return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest()).decode()

    def feed(self, *reads: bytes) -> None:
        """Let the engine read these parts, one after another."""
        for data in reads:
            if data:
                assert self._transport is not None
                self._loop.call_soon(self._transport.receive, data)
                self._turn()

    def end(self, error: Exception | None = None) -> None:
        """End the connection with FIN, or with *error*."""
        if self._transport is not None:
            self._loop.call_soon(self._transport.lose, error)
            self._turn()

    def drain(self) -> None:
        """Let the server read the data that waits in the transport."""
        self.is_stuck = False
        if self._transport is not None:
            self._transport.drain()
            self._turn()

    def do(self, method: str, *args: Any) -> None:
        """Call a method of the engine on its loop."""
        self.call(lambda: getattr(self.engine, method)(*args))

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop."""
        self._loop.call_soon(function)
        self._turn()

    def _turn(self) -> None:
        for _ in range(TURNS):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.escaped.append(context.get("exception") or RuntimeError(context["message"]))

    # --- the receiver ---

    def bytes_received(self) -> None:
        assert self.end_seen is None

    def messages_received(self, messages: list[str | bytes], size: int) -> None:
        assert self.end_seen is None
        assert size == sum(len(m.encode() if isinstance(m, str) else m) for m in messages)
        self.messages += messages

    def pong_received(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def writing_paused(self) -> None:
        self.events.append("paused")

    def writing_resumed(self) -> None:
        self.events.append("resumed")

    def closing(self, code: int | None, reason: str) -> None:
        assert not self.is_closing, "called twice"
        self.is_closing = True
        self.peer_close = None if code is None else (code, reason)

    def ended(self, ended: Ended) -> None:
        assert self.end_seen is None, "ended twice"
        self.end_seen = ended


class MemoryLoop(asyncio.SelectorEventLoop):
    """An event loop whose connections all belong to a Wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 80))]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._wire.addresses.append(address)
        if self._wire.fails_with is not None:
            raise self._wire.fails_with

    async def create_connection(  # type: ignore[override]
        self, factory: Any, *args: Any, sock: Any = None, **kwargs: Any
    ) -> Any:
        self._wire.dialled.append((args, kwargs))
        if sock is None and self._wire.fails_with is not None:
            raise self._wire.fails_with
        sock = sock or socket.socket()  # of a proxy, to which the library connects
        protocol = factory()
        transport = MemoryTransport(self, self._wire, protocol, sock)
        if "ssl" in kwargs and self._wire.tls_fails_with is not None:
            transport.discard()
            raise self._wire.tls_fails_with
        self._wire._transport = transport
        protocol.connection_made(transport)
        return transport, protocol

    async def start_tls(self, transport: Any, protocol: Any, sslcontext: Any, **kwargs: Any) -> Any:
        self._wire.dialled.append(((protocol,), {"ssl": sslcontext, **kwargs}))
        if self._wire.tls_fails_with is not None:
            transport.discard()
            raise self._wire.tls_fails_with
        return transport


class MemoryTransport(asyncio.Transport):
    """The transport that the engine uses."""

    def __init__(self, loop: MemoryLoop, wire: Wire, protocol: Any, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self._loop = loop
        self._wire = wire
        self._protocol = protocol
        self._sock = sock
        self._is_closing = False
        self._is_lost = False
        self._unsent = b""

    def receive(self, data: bytes) -> None:
        """Pass *data* to the protocol, unless the engine has closed the connection."""
        if not self._is_closing:
            self._protocol.data_received(data)

    def lose(self, error: Exception | None = None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._unsent = b""
        if error is None and not self._is_closing:
            self._protocol.eof_received()
        self._is_closing = True
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()

    def discard(self) -> None:
        """End, and call nothing of the protocol, as asyncio does if the TLS handshake fails."""
        self._is_lost = self._is_closing = True
        self._sock.close()

    def write(self, data: Any) -> None:
        assert not self._is_closing, "asyncio would log a warning"
        if not self._wire.is_stuck:
            self._wire.sent += bytes(data)
            return
        was_empty = not self._unsent
        self._unsent += bytes(data)
        if was_empty:
            self._protocol.pause_writing()

    def drain(self) -> None:
        unsent, self._unsent = self._unsent, b""
        self._wire.sent += unsent
        if unsent:
            self._protocol.resume_writing()

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self.lose)

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...
