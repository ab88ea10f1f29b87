"""One connection through a FaultProxy, with its two directions and sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from datastream_ws.testing.connection import GRACE, RESET_ON_CLOSE

from .faultmodes import Cut, End, Mode, Reset

Address = tuple[socket.AddressFamily, tuple[str, int]]

CHUNK = 65536
# Bytes that wait in one direction before the proxy stops reading.
UNDER_WAY = 4 * 1024 * 1024


class Pipe:
    """
    One direction of a link, with a task that reads and a task that writes.

    Attributes:
        mode: The fault in this direction.
        forwarded: Bytes that were passed so far.
        waiting: Bytes that were read and not passed yet.

    """

    def __init__(self, link: Link, mode: Mode) -> None:
        self.link = link
        self.mode = mode
        self.forwarded = 0
        self.waiting = 0
        self._under_way: deque[tuple[float, bytes]] = deque()  # time and data; b"" is the end
        self._last = 0.0
        self._changed = asyncio.Event()

    def switch(self, mode: Mode) -> None:
        """Change the mode. Data that was already read keeps its time."""
        self.mode = mode
        self._changed.set()
        self._judge()

    def _judge(self) -> None:
        """End the link if the mode requires it."""
        if isinstance(self.mode, Reset):
            self.link.end("rst")
        elif isinstance(self.mode, Cut) and self.forwarded >= self.mode.n:
            self.link.end(self.mode.how)

    async def read(self, source: socket.socket) -> None:
        """Read until *source* ends."""
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            await self._until(lambda: self.mode.reads and self.waiting < UNDER_WAY)
            try:
                data = await loop.sock_recv(source, CHUNK)
            except OSError:
                await self.ends()
                self.link.end("rst")
                return
            self._put(data)

    def _put(self, data: bytes) -> None:
        for due, piece in self.mode.pieces(data, time.monotonic(), self._last):
            self._under_way.append((due, piece))
            self._last = due
        if not data:
            self._under_way.append((self._last, b""))
        self.waiting += len(data)
        self._changed.set()

    async def write(self, target: socket.socket, back: Pipe) -> None:
        """Write until the end was passed. *back* is the other direction."""
        self._judge()
        while piece := await self._next():
            try:
                await self._forward(target, piece)
            except OSError:  # the target has ended, which *back* passes to the source
                await back.ends()
                self.link.end("rst")
                return
        await self.ends()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    async def _next(self) -> bytes:
        await self._until(lambda: bool(self._under_way))
        due, piece = self._under_way[0]
        await asyncio.sleep(due - time.monotonic())
        await self._until(lambda: self.mode.reads)
        self._under_way.popleft()
        self.waiting -= len(piece)
        self._changed.set()
        return piece

    async def _forward(self, target: socket.socket, piece: bytes) -> None:
        if not self.mode.writes:
            return
        if isinstance(self.mode, Cut):
            piece = piece[: max(0, self.mode.n - self.forwarded)]
        await asyncio.get_running_loop().sock_sendall(target, piece)
        self.forwarded += len(piece)
        self._judge()

    async def ends(self) -> None:
        """Wait until this direction passes an end."""
        await self._until(lambda: self.mode.passes_fin)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Link:
    """
    One connection through the proxy.

    Attributes:
        opened_at: The monotonic time at which it was accepted.
        closed_at: The monotonic time at which both sides were closed. ``None`` before.
        up: The direction to the server.
        down: The direction to the client.
        closed: An event that is set with ``closed_at``.

    """

    def __init__(self, client: socket.socket, up: Mode, down: Mode) -> None:
        self.opened_at = time.monotonic()
        self.closed_at: float | None = None
        self.closed = threading.Event()
        self.up = Pipe(self, up)
        self.down = Pipe(self, down)
        self._client = client
        self._server: socket.socket | None = None
        self._ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def end(self, how: End) -> None:
        """End both sides. Call it only on the proxy's loop. A second call has no effect."""
        if not self._ended.done():
            self._ended.set_result(how)

    async def run(self, addresses: Sequence[Address], buffer: int | None) -> None:
        """Connect to the server, and pass bytes until the end."""
        how: End = "rst"
        try:
            if isinstance(self.up.mode, Reset) or isinstance(self.down.mode, Reset):
                return
            self._server = await _connected(addresses, buffer)
            how = await self._pass(self._client, self._server)
        except OSError:
            pass  # the server refuses, so the accepted connection is reset
        finally:
            await self._close(how)

    async def _pass(self, client: socket.socket, server: socket.socket) -> End:
        works = (
            self.up.read(client),
            self.up.write(server, self.down),
            self.down.read(server),
            self.down.write(client, self.up),
        )
        tasks = [asyncio.ensure_future(work) for work in works]
        passed: asyncio.Future[Any] = asyncio.ensure_future(asyncio.wait(tasks))
        try:
            await asyncio.wait({passed, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (passed, *tasks):
                task.cancel()
            await asyncio.wait(tasks)
        return self._ended.result() if self._ended.done() else "fin"

    async def _close(self, how: End) -> None:
        sockets = [sock for sock in (self._client, self._server) if sock is not None]
        if how == "fin":
            await asyncio.gather(*[_hang_up(sock) for sock in sockets])
        for sock in sockets:
            if how == "rst":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()
        self.closed_at = time.monotonic()
        self.closed.set()


async def _connected(addresses: Sequence[Address], buffer: int | None) -> socket.socket:
    """Return a socket that is connected to the first reachable address."""
    problem = OSError("no address")
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem


async def _hang_up(sock: socket.socket) -> None:
    """Send FIN, and read until the other side ends. Closing with unread bytes would send RST."""
    with suppress(OSError, TimeoutError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(GRACE):
            while await asyncio.get_running_loop().sock_recv(sock, CHUNK):
                pass
