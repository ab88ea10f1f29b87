"""
A byte server that follows a script, for bytes that a correct server does not send.

::

    script = [Upgrade(), Frame(TEXT, b"\\xff"), ExpectFrame(CLOSE)]
    with RawServer(script) as server:
        ...
        assert server.connections[0].frames[-1].close_code == 1007

Each connection follows the next script, and the last script repeats. A script is a list of steps.
The end of a script ends the connection like ``Fin()``, so ``RawServer([])`` accepts and closes.
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
    A server with a thread for each connection. ``with`` starts and stops it.

    Args:
        scripts: The script of each connection. The last one repeats.
        ssl: The TLS context. ``None`` serves without TLS.
        listens: ``False`` refuses connections until :meth:`listen` is called.

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
        """Accept connections. A second call has no effect."""
        if not self._threads:
            self._listener.listen(1024)
            self._spawn(self._accept)

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        # Closing a descriptor would not wake the thread that waits for it.
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
        """A copy of the list of all connections."""
        with self._changed:
            return list(self._connections)

    @property
    def times(self) -> list[float]:
        """The monotonic time at which each connection was accepted."""
        return [connection.opened_at for connection in self.connections]

    def wait_connections(self, n: int, timeout: float = 5.0) -> list[RawConnection]:
        """Return the connections once there are *n*. TimeoutError shows their number."""
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
            with suppress(OSError):  # the script may have ended the connection
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
