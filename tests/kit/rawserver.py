"""
A byte server that follows a script, for bytes that a correct server does not send.

    script = [Upgrade(), Frame(TEXT, b"\\xff"), ExpectFrame(CLOSE)]
    with RawServer(script) as server:
        ...
        assert server.connections[0].frames[-1].close_code == 1007

Each connection takes the next script, and the last script repeats. A script is a list of steps;
where it ends, the connection ends as by ``Fin()``. ``RawServer([])`` accepts and closes at once.
"""

from __future__ import annotations

import socket
import ssl as tls
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from .rawsteps import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Converse,
    Drain,
    Ended,
    Expect,
    ExpectFrame,
    Fin,
    Frame,
    RawConnection,
    ReceivedFrame,
    Respond,
    Rst,
    Script,
    Send,
    Sleep,
    Stall,
    Step,
    Upgrade,
    WaitFor,
)

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Close",
    "Converse",
    "Drain",
    "Ended",
    "Expect",
    "ExpectFrame",
    "Fin",
    "Frame",
    "RawConnection",
    "RawServer",
    "ReceivedFrame",
    "Respond",
    "Rst",
    "Script",
    "Send",
    "Sleep",
    "Stall",
    "Step",
    "Upgrade",
    "WaitFor",
]


class RawServer:
    """
    Serve scripts on threads, one thread per connection. ``with`` starts and stops it.

    Args:
        scripts: The n-th connection follows the n-th script; the last one repeats.
        ssl: Serve TLS with this context.
        listens: From the start; else connections are refused until :meth:`listen`.

    """

    def __init__(
        self, *scripts: Script, ssl: tls.SSLContext | None = None, listens: bool = True
    ) -> None:
        self.scripts = scripts or ([],)
        self.host = "127.0.0.1"
        self.port = 0
        self._ssl = ssl
        self._listens = listens
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._connections: list[RawConnection] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket

    def __enter__(self) -> Self:
        self._listener = socket.socket()
        self._listener.bind((self.host, 0))
        self.port = self._listener.getsockname()[1]
        if self._listens:
            self.listen()
        return self

    def listen(self) -> None:
        """Accept connections from now on; again: nothing happens."""
        if not self._threads:
            self._listener.listen(1024)
            self._spawn(self._accept)

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        # shutdown, because closing a descriptor does not wake the thread that waits on it.
        _shut(self._listener)
        for thread in self._threads[:1]:
            thread.join()
        for connection in self.connections:
            _shut(connection.sock)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"{'ws' if self._ssl is None else 'wss'}://{self.host}:{self.port}"

    @property
    def connections(self) -> list[RawConnection]:
        """All connections so far; a copy."""
        with self._changed:
            return list(self._connections)

    @property
    def times(self) -> list[float]:
        """When each connection came, by ``time.monotonic()``."""
        return [connection.opened_at for connection in self.connections]

    def wait_connections(self, n: int, timeout: float = 5.0) -> list[RawConnection]:
        """Return the connections once there are *n*; TimeoutError says how many there are."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._connections) >= n, timeout):
                raise TimeoutError(f"{len(self._connections)} of {n} connections came")
        return self.connections

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="RawServer", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._stopping.is_set():
                sock, _ = self._listener.accept()
                self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        opened_at = time.monotonic()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            number = len(self._connections) + 1
            connection = RawConnection(number, opened_at, sock, self._stopping)
            self._connections.append(connection)
            self._changed.notify_all()
        script = self.scripts[min(number, len(self.scripts)) - 1]
        self._spawn(self._follow, connection, script)

    def _follow(self, connection: RawConnection, script: Script) -> None:
        try:
            if self._ssl is not None:
                connection.sock = self._ssl.wrap_socket(connection.sock, server_side=True)
            for step in script:
                step.run(connection)
            with suppress(OSError):  # the script may have come to an end of its own
                Fin().run(connection)
        except (Ended, OSError) as error:
            connection.error = error
        finally:
            connection.sock.close()
            connection.ended_at = time.monotonic()
            connection.done.set()


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
