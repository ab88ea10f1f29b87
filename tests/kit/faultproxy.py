"""
A TCP proxy that causes faults, for WebSocket, Redis, RabbitMQ and PostgreSQL.

::

    with FaultProxy(server.url) as proxy:
        client = Client(proxy.url)
        ...
        proxy.down = Blackhole()            # from the server to the client
        proxy.up = Latency(0.1, jitter=0.05)
        proxy.sever()                       # RST for all living connections
        proxy.refuse()                      # no listener

It has its own thread, so it also serves blocking clients and other processes. Set a mode for each
direction, ``up`` (to the server) and ``down`` (to the client). It takes effect at once for open
connections, and applies to new ones. Durations are in seconds.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from datastream_ws.testing.loop import LoopOnThread

from .faultlink import Address, Link
from .faultmodes import (
    Bandwidth,
    Blackhole,
    Cut,
    End,
    Latency,
    Mode,
    Pass,
    Reset,
    Slices,
    Swallow,
    WithholdFin,
)

__all__ = [
    "Bandwidth",
    "Blackhole",
    "Cut",
    "FaultProxy",
    "Latency",
    "Link",
    "Mode",
    "Pass",
    "Reset",
    "Slices",
    "Swallow",
    "WithholdFin",
]

PORTS = {"ws": 80, "wss": 443, "redis": 6379, "amqp": 5672, "postgres": 5432, "postgresql": 5432}


class FaultProxy:
    """
    The proxy, which ``with`` starts and stops. You can call its methods from any thread.

    Args:
        target: The server, as a host and a port, or as a URL with a port or of a known scheme.
        up: The mode to the server. ``None`` passes everything.
        down: The mode to the client. ``None`` passes everything.
        buffer: The size of the sockets' buffers in bytes. If it's small, writers stall soon in a
            ``Blackhole``. ``None`` keeps the default of the system.

    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        up: Mode | None = None,
        down: Mode | None = None,
        buffer: int | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._target = target
        self._addresses = _addresses(target)
        self._up = up or Pass()
        self._down = down or Pass()
        self._buffer = buffer
        self._loop = LoopOnThread("FaultProxy")
        self._changed = threading.Condition()
        self._links: list[Link] = []
        self._reserved: socket.socket  # keeps the port while the proxy refuses connections
        # These belong to the loop.
        self._listener: socket.socket | None = None
        self._running: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind((self.host, 0))
        self.port = self._reserved.getsockname()[1]
        self._loop.start()
        self.accept()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.run(self._shut())
        self._loop.stop()
        self._reserved.close()

    @property
    def url(self) -> str:
        """The URL of the target, with the host and port of the proxy."""
        if not isinstance(self._target, str):
            raise RuntimeError("FaultProxy was given host and port, not a URL")
        parts = urlsplit(self._target)
        userinfo, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{userinfo}{at}{self.host}:{self.port}").geturl()

    @property
    def up(self) -> Mode:
        """The mode to the server."""
        return self._up

    @up.setter
    def up(self, mode: Mode) -> None:
        self._loop.call(self._switch, mode, None)

    @property
    def down(self) -> Mode:
        """The mode to the client."""
        return self._down

    @down.setter
    def down(self, mode: Mode) -> None:
        self._loop.call(self._switch, None, mode)

    def both(self, mode: Mode) -> None:
        """Set the mode of both directions."""
        self._loop.call(self._switch, mode, mode)

    def sever(self, how: End = "rst") -> None:
        """End all open connections on both sides, and wait until they are closed."""
        self._loop.run(self._sever(how))

    def refuse(self) -> None:
        """Refuse new connections until ``accept()``. Open ones stay, and the port is kept."""
        self._loop.call(self._close_listener)

    def accept(self) -> None:
        """Accept connections again, on the same port. A second call has no effect."""
        self._loop.call(self._listen)

    @property
    def links(self) -> list[Link]:
        """A copy of the list of all connections."""
        with self._changed:
            return list(self._links)

    @property
    def bytes_up(self) -> int:
        """Bytes that were passed to the server."""
        return sum(link.up.forwarded for link in self.links)

    @property
    def bytes_down(self) -> int:
        """Bytes that were passed to the client."""
        return sum(link.down.forwarded for link in self.links)

    def wait_links(self, n: int, timeout: float = 5.0) -> list[Link]:
        """Return all connections once there are *n*. TimeoutError shows their number."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._links) >= n, timeout):
                raise TimeoutError(f"{len(self._links)} of {n} connections came to the proxy")
        return self.links

    # --- on the loop ---

    def _switch(self, up: Mode | None, down: Mode | None) -> None:
        self._up = up or self._up
        self._down = down or self._down
        for link in self.links:
            if up is not None:
                link.up.switch(up)
            if down is not None:
                link.down.switch(down)

    def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = socket.create_server((self.host, self.port), backlog=1024, reuse_port=True)
        self._listener.setblocking(False)
        if self._buffer is not None:  # accepted connections inherit these
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError):
            while True:
                self._begin(self._listener.accept()[0])

    def _begin(self, client: socket.socket) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, self._up, self._down)
        with self._changed:
            self._links.append(link)
            self._changed.notify_all()
        running = asyncio.ensure_future(link.run(self._addresses, self._buffer))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._accept()  # closing would reset connections that the system has accepted
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _sever(self, how: End) -> None:
        for link in self.links:
            link.end(how)
        if self._running:
            await asyncio.wait(set(self._running))

    async def _shut(self) -> None:
        self._close_listener()
        await self._sever("rst")


def _addresses(target: str | tuple[str, int]) -> list[Address]:
    if isinstance(target, str):
        parts = urlsplit(target)
        target = parts.hostname or "127.0.0.1", parts.port or PORTS[parts.scheme]
    found = socket.getaddrinfo(*target, type=socket.SOCK_STREAM)
    return [(family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found]
