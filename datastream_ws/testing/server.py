"""
A real WebSocket server for tests, which records messages and fails on demand.

::

    with StreamServer() as server:
        client = Client(server.url)
        client.start()
        server.wait_connected(1)
        server.send({"type": "hello"})
        server.abort()                  # RST, so the client reconnects
        server.wait_connected(2)

You can call every method from any thread. Its effect is complete when it returns. Callbacks run on
the server's loop. The methods that wait (``wait_…``, ``stop`` and ``restart``) raise RuntimeError
there. Durations are in seconds, and times are those of ``time.monotonic()``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from ssl import SSLContext
from typing import Any, Self

from .connection import GRACE, StreamConnection, check_close, encoded
from .loop import LoopOnThread
from .record import Attempt
from .serving import BACKLOG, Refusal, Serving

__all__ = ["StreamServer"]

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]
OnConnect = Callable[[StreamConnection], object]
OnMessage = Callable[[StreamConnection, str | bytes], object]


class StreamServer:
    """
    A WebSocket server on a daemon thread, which ``with`` starts and stops.

    The records are kept when the server stops or restarts. If a callback raises an exception, its
    connection is closed with 1011. The exception is added to ``errors``, and the first one is
    raised at the end of the ``with`` block.

    Args:
        host: The address to listen on.
        port: The port to listen on. 0 uses a free port, which restarts keep.
        on_connect: A callback that gets each new StreamConnection on the server's loop, before its
            first message. A coroutine function runs at the same time as the connection, and is
            canceled when the connection ends. ``None`` calls nothing.
        on_message: A callback that gets the StreamConnection and the message on the server's loop.
            A coroutine function is awaited before the next message of the connection. ``None``
            calls nothing.
        ssl: The TLS context for ``wss://``. ``None`` serves ``ws://``.
        subprotocols: The supported subprotocols, in order of preference. ``None`` supports none.
        compression: ``"deflate"`` enables permessage-deflate, and ``None`` disables it.
        ping_interval: Seconds between the server's pings. ``None`` disables them.
        ping_timeout: Seconds without a pong after which the server closes with 1011. ``None``
            means no limit.
        receive_buffer: The size of the receive buffer of each connection, in bytes. If it's small,
            a client's writes stall soon after ``mute()``. ``None`` keeps the default.
        **options: More arguments of ``websockets.asyncio.server.serve``.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        on_connect: OnConnect | None = None,
        on_message: OnMessage | None = None,
        ssl: SSLContext | None = None,
        subprotocols: Sequence[str] | None = None,
        compression: str | None = "deflate",
        ping_interval: float | None = None,
        ping_timeout: float | None = 20.0,
        receive_buffer: int | None = None,
        **options: Any,
    ) -> None:
        self.host = host
        self._port = port
        self._receive_buffer = receive_buffer
        self._scheme = "ws" if ssl is None else "wss"
        self._lifecycle = threading.Lock()
        self._loop = LoopOnThread("StreamServer")
        limits: dict[str, Any] = {"max_size": None, "open_timeout": None, **options}
        self._serving = Serving(
            self._loop,
            on_connect,
            on_message,
            limits
            | {"ssl": ssl, "subprotocols": subprotocols, "compression": compression}
            | {"ping_interval": ping_interval, "ping_timeout": ping_timeout},
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()
        if error is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        state = "running" if self._loop.is_running else "stopped"
        return f"<StreamServer on port {self._port}, {state}>"

    @property
    def port(self) -> int:
        """The port of the server, even while it's stopped."""
        if not self._port:
            raise RuntimeError("StreamServer has no port yet. Call start() first.")
        return self._port

    @property
    def url(self) -> str:
        """The URL of the server, such as ``ws://127.0.0.1:8765``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def errors(self) -> list[Exception]:
        """The exceptions that the callbacks raised."""
        return self._serving.errors

    @property
    def received(self) -> list[str | bytes]:
        """A copy of the list of all messages, in order of arrival over all connections."""
        return self._serving.record.received

    @property
    def connections(self) -> list[StreamConnection]:
        """A copy of the list of all accepted connections, including those that have ended."""
        return self._serving.record.connections

    @property
    def attempts(self) -> list[Attempt]:
        """A copy of the list of all TCP connections, including refused and unanswered ones."""
        return self._serving.record.attempts

    def wait_received(self, n: int, timeout: float = 5.0) -> list[str | bytes]:
        """
        Wait until there are *n* messages or more, and return all messages.

        Args:
            n: The number of messages since the server was created.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: If there are fewer messages. The text shows the last ones.
            RuntimeError: If you call it on the server's loop.

        """
        self._loop.refuse_own_thread()
        return self._serving.record.wait_received(n, timeout)

    def wait_connected(self, n: int, timeout: float = 5.0) -> list[StreamConnection]:
        """
        Wait until *n* connections or more have been accepted, and return all connections.

        Args:
            n: The number of connections since the server was created.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: If there are fewer connections. The text shows the status of the attempts.
            RuntimeError: If you call it on the server's loop.

        """
        self._loop.refuse_own_thread()
        return self._serving.record.wait_connected(n, timeout)

    def wait_attempts(self, n: int, timeout: float = 5.0) -> list[Attempt]:
        """
        Wait until *n* attempts or more have got a response of any status, and return all attempts.

        Args:
            n: The number of attempts since the server was created.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: If there are fewer attempts.
            RuntimeError: If you call it on the server's loop.

        """
        self._loop.refuse_own_thread()
        return self._serving.record.wait_attempts(n, timeout)

    def send(self, obj: Any) -> int:
        """
        Send a message to all open connections, and return their number.

        Args:
            obj: A str becomes a text frame, and bytes become a binary frame. Any other object is
                encoded as JSON.

        Raises:
            RuntimeError: If the server isn't running.

        """
        data = encoded(obj)
        return self._loop.call(self._serving.write, data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Send a close frame to all open connections.

        Raises:
            ValueError: If a close frame can't have this code or reason.

        """
        check_close(code, reason)
        self._each(lambda connection: connection.begin_close(code, reason))

    def abort(self) -> None:
        """Reset all TCP connections (RST). Data that wasn't sent yet is lost."""
        ended = self._each(StreamConnection.reset)
        if not self._loop.is_current:
            for connection in ended:
                connection.closed.wait(GRACE)

    def drop(self) -> None:
        """End all TCP connections (FIN) without close frames, as if the server was killed."""
        self._each(StreamConnection.hang_up)

    def mute(self) -> None:
        """Stop reading, so that messages, pings and new handshakes get no response."""
        self._set_muted(True)

    def unmute(self) -> None:
        """Read again, starting with the data that arrived after ``mute()``."""
        self._set_muted(False)

    def refuse(
        self,
        status: int,
        headers: HeaderItems | None = None,
        times: int | None = None,
        body: str | bytes = b"",
    ) -> None:
        """
        Refuse new handshakes with an HTTP status. Open connections aren't affected.

        Args:
            status: The HTTP status, which can't be 101.
            headers: More headers for the response, as a mapping or as pairs.
            times: The number of handshakes to refuse. ``None`` refuses all until ``accept()``.
            body: The body of the response. A str is encoded as UTF-8.

        Raises:
            ValueError: If *status* is 101.

        """
        if status == 101:
            raise ValueError("101 is the upgrade itself. Call accept() instead.")
        content = body.encode() if isinstance(body, str) else body
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        self._serving.refusal = Refusal(status, list(pairs), content, times)

    def accept(self) -> None:
        """Accept handshakes again after :meth:`refuse`."""
        self._serving.refusal = None

    def start(self) -> None:
        """
        Listen and serve. It has no effect if the server is running.

        Raises:
            OSError: If the server can't listen, for example because the port is in use.

        """
        with self._lifecycle:
            if not self._loop.is_running:
                self._serve(self._listen())

    def stop(self) -> None:
        """
        Stop listening, and close all connections. It has no effect if the server is stopped.

        Open connections get a close frame with 1001, and have 0.5 seconds to respond. When this
        returns, the thread has ended, all sockets are closed, and new connections are refused.

        Raises:
            RuntimeError: If you call it on the server's loop.

        """
        self._loop.refuse_own_thread()
        with self._lifecycle:
            if self._loop.is_running:
                self._loop.run(self._serving.shut())
                self._loop.stop()

    def restart(self) -> None:
        """Stop the server, and start it again on the same port."""
        self.stop()
        self.start()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self._port), family=family, backlog=BACKLOG)
        if self._receive_buffer is not None:  # accepted connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        return listener

    def _serve(self, listener: socket.socket) -> None:
        self._loop.start()
        try:
            self._loop.run(self._serving.open(listener))
        except BaseException:
            self._loop.stop()
            listener.close()
            raise
        self._port = listener.getsockname()[1]

    def _each(self, act: Callable[[StreamConnection], None]) -> list[StreamConnection]:
        return self._loop.call(self._serving.each, act) if self._loop.is_running else []

    def _set_muted(self, muted: bool) -> None:
        self._serving.is_muted = muted
        if self._loop.is_running:
            self._loop.call(self._serving.apply_muted)
