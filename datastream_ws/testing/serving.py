"""The part of a StreamServer that runs on its event loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import responses
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from .connection import GRACE, StreamConnection
from .loop import LoopOnThread
from .record import Attempt, Record

__all__ = ["BACKLOG", "Refusal", "Serving"]

BACKLOG = 1024
# The log of websockets would mix headers and payloads into the log of the tested program.
_SILENT = logging.Logger(f"{__name__}.silent", level=logging.CRITICAL + 1)


@dataclass
class Refusal:
    """An HTTP response instead of the upgrade, for a number of *times*. ``None`` means always."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    times: int | None

    def response(self) -> Response:
        headers = Headers(self.headers)
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", str(len(self.body)))
        phrase = responses.get(self.status, "Refused")
        return Response(self.status, phrase, headers, self.body)


class Wire(ServerConnection):
    """A connection that notifies *owner* of the start and the end of its TCP connection."""

    def __init__(self, *args: Any, owner: Serving, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = owner
        self.attempt = Attempt(time.monotonic())
        self.connection: StreamConnection | None = None
        self.is_served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.owner.begun(self)

    def send_data(self) -> None:
        """Record the connection with its response, so that a ready client is always recorded."""
        if self.connection is None and self.state is State.OPEN:
            self.owner.admit(self)
        super().send_data()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.owner.ended(self)


class Serving:
    """
    The listener, its connections and their callbacks. Use it only on the loop.

    Args:
        loop: The loop on its thread.
        on_connect: See StreamServer.
        on_message: See StreamServer.
        options: Arguments of ``websockets.asyncio.server.serve``.

    """

    def __init__(
        self,
        loop: LoopOnThread,
        on_connect: Callable[..., object] | None,
        on_message: Callable[..., object] | None,
        options: dict[str, Any],
    ) -> None:
        self.record = Record()
        self.errors: list[Exception] = []
        self.refusal: Refusal | None = None
        self.is_muted = False
        self._loop = loop
        self._on_connect = on_connect
        self._on_message = on_message
        self._options = options
        self._server: Server
        self._wires: set[Wire] = set()
        self._handlers: set[asyncio.Task[Any]] = set()

    async def open(self, listener: socket.socket) -> None:
        """Serve the connections that *listener* accepts."""
        self._server = await serve(
            self._handle,
            sock=listener,
            backlog=BACKLOG,
            process_request=self._refused,
            process_response=self._answered,
            create_connection=cast("type[ServerConnection]", partial(Wire, owner=self)),
            max_queue=None,  # the flow control of websockets would undo mute()
            logger=_SILENT,
            **self._options,
        )

    async def shut(self) -> None:
        """Stop listening, close all connections, and abort those that don't respond in time."""
        self._server.close(code=1001)
        ended = asyncio.ensure_future(self._server.wait_closed())
        await asyncio.wait({ended}, timeout=0 if self.is_muted else GRACE)
        for wire in self._wires:
            wire.transport.abort()
        await asyncio.wait({ended}, timeout=GRACE)
        for task in self._handlers:  # callbacks that still run
            task.cancel()
        await asyncio.wait({ended}, timeout=GRACE)
        ended.cancel()

    def each(self, act: Callable[[StreamConnection], None]) -> list[StreamConnection]:
        """Call *act* with every connection that isn't closed yet, and return them."""
        living = [wire.connection for wire in self._wires if wire.connection is not None]
        for connection in living:
            act(connection)
        return living

    def write(self, data: str | bytes) -> int:
        """Send a frame to every open connection, and return their number."""
        sent: list[bool] = []
        self.each(lambda connection: sent.append(connection.write(data)))
        return sum(sent)

    def apply_muted(self) -> None:
        """Stop or resume reading on all connections, as ``is_muted`` requires."""
        for wire in self._wires:
            transport = wire.transport
            (transport.pause_reading if self.is_muted else transport.resume_reading)()

    # --- one connection, from start to end ---

    def begun(self, wire: Wire) -> None:
        self._wires.add(wire)
        self.record.add_attempt(wire.attempt)
        if self.is_muted:
            wire.transport.pause_reading()

    def _refused(self, wire: ServerConnection, request: Request) -> Response | None:
        refusal = self.refusal
        if refusal is None:
            return None
        if refusal.times is not None:
            refusal.times -= 1
            if refusal.times < 1:
                self.refusal = None
        return refusal.response()

    def _answered(self, wire: ServerConnection, request: Request, response: Response) -> None:
        self.record.answer(cast(Wire, wire).attempt, response.status_code)

    async def _handle(self, websocket: ServerConnection) -> None:
        handler = cast("asyncio.Task[Any]", asyncio.current_task())
        self._handlers.add(handler)
        wire = cast(Wire, websocket)
        connection = cast(StreamConnection, wire.connection)
        wire.is_served = True
        try:
            await self._converse(connection)
        finally:
            connection.finish()
            self._handlers.discard(handler)

    def admit(self, wire: Wire) -> None:
        number = len(self.record.connections) + 1
        wire.connection = StreamConnection(self._loop, wire, number)
        self.record.add_connection(wire.connection)

    async def _converse(self, connection: StreamConnection) -> None:
        greeting = asyncio.create_task(self._call_back(connection, self._on_connect, connection))
        await asyncio.sleep(0)  # on_connect runs before the first message
        try:
            with suppress(ConnectionClosed):
                while True:
                    await self._take(connection, await connection.websocket.recv())
        finally:
            greeting.cancel()
            await asyncio.wait({greeting})

    async def _take(self, connection: StreamConnection, data: str | bytes) -> None:
        if connection.take(data):
            self.record.add_message(data)
            await self._call_back(connection, self._on_message, connection, data)

    async def _call_back(
        self, connection: StreamConnection, function: Callable[..., object] | None, *args: Any
    ) -> None:
        if function is None:
            return
        try:
            result = function(*args)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            ended = isinstance(error, ConnectionClosed | ConnectionError)
            if not (ended and not connection.is_open):  # the client may disconnect meanwhile
                self.errors.append(error)
                connection.begin_close(1011, "callback failed")

    def ended(self, wire: Wire) -> None:
        self._wires.discard(wire)
        if wire.connection is not None and not wire.is_served:  # it ended before the response
            wire.connection.finish()
