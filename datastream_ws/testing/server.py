"""
A real WebSocket server on a thread, for tests: it records what arrives and fails on demand.

::

    with StreamServer() as server:
        client = Client(server.url)
        client.start()
        server.wait_connected(1)
        server.send({"type": "hello"})
        server.abort()                  # RST: the client comes back
        server.wait_connected(2)

Every method may be called from any thread and is done when it returns. Inside callbacks, which
run on the server's loop, those that would have to wait (``wait_…``, ``stop``, ``restart``) raise
RuntimeError. Durations are seconds, moments are ``time.monotonic()``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
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
    A WebSocket server on a daemon thread of its own, started and stopped by ``with``.

    Its records survive stops and restarts.

    Args:
        host: Address to listen on.
        port: 0 takes a free one, which restarts keep.
        on_connect: Called on the server's loop with each new StreamConnection, before its first
            message is taken. A coroutine function runs beside the connection, and is
            canceled when it ends.
        on_message: Called on the server's loop with the StreamConnection and the message. A
            coroutine function is awaited before the next message of the connection is taken.
        ssl: Serve ``wss://`` with this context.
        subprotocols: Those supported, in order of preference.
        compression: ``None`` switches permessage-deflate off.
        ping_interval: Seconds between the server's own pings. ``None`` disables them.
        ping_timeout: Seconds that a pong may take. Then the server closes with 1011.
        receive_buffer: Bytes that the system takes for a connection that is not read. With a small
            number, a client's writes stall soon after ``mute()``. ``None`` keeps the default.
        options: Further arguments of ``websockets.asyncio.server.serve``.

    A callback that raises closes its connection with 1011. The exception goes to ``errors``, and
    the first one is raised where the ``with`` block ends.

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

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if exc is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        state = "running" if self._loop.is_running else "stopped"
        return f"<StreamServer on port {self._port}, {state}>"

    @property
    def port(self) -> int:
        """The port it listens on, also while stopped."""
        if not self._port:
            raise RuntimeError("StreamServer has no port yet. Call start() first.")
        return self._port

    @property
    def url(self) -> str:
        """``ws://host:port`` (``wss://`` with ``ssl``)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    @property
    def errors(self) -> list[Exception]:
        """The exceptions that the callbacks raised."""
        return self._serving.errors

    @property
    def received(self) -> list[str | bytes]:
        """All messages in order of arrival, over all connections; a copy."""
        return self._serving.record.received

    @property
    def connections(self) -> list[StreamConnection]:
        """All connections accepted so far, ended ones too; a copy."""
        return self._serving.record.connections

    @property
    def attempts(self) -> list[Attempt]:
        """All TCP connections so far, refused and unanswered ones too; a copy."""
        return self._serving.record.attempts

    def wait_received(self, n: int, timeout: float = 5.0) -> list[str | bytes]:
        """
        Return all messages, once there are *n* or more.

        Raises:
            TimeoutError: If fewer came; it says which came last.

        """
        self._loop.refuse_own_thread()
        return self._serving.record.wait_received(n, timeout)

    def wait_connected(self, n: int, timeout: float = 5.0) -> list[StreamConnection]:
        """
        Return all connections, once *n* or more have been accepted since the beginning.

        Raises:
            TimeoutError: If fewer came; it says how the attempts were answered.

        """
        self._loop.refuse_own_thread()
        return self._serving.record.wait_connected(n, timeout)

    def wait_attempts(self, n: int, timeout: float = 5.0) -> list[Attempt]:
        """
        Return all attempts, once *n* or more have been answered, with whatever status.

        Raises:
            TimeoutError: If fewer came.

        """
        self._loop.refuse_own_thread()
        return self._serving.record.wait_attempts(n, timeout)

    def send(self, obj: Any) -> int:
        """
        Send to all open connections, as StreamConnection.send does; return how many those were.

        Raises:
            RuntimeError: If the server does not run.

        """
        data = encoded(obj)
        return self._loop.call(self._serving.write, data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame to all open connections, as StreamConnection.close does."""
        check_close(code, reason)
        self._each(lambda connection: connection.begin_close(code, reason))

    def abort(self) -> None:
        """Reset the TCP connections (RST) of all that are not closed yet."""
        ended = self._each(StreamConnection.reset)
        if not self._loop.is_current:
            for connection in ended:
                connection.closed.wait(GRACE)

    def drop(self) -> None:
        """End the TCP connections (FIN) of all that are open, without a close frame."""
        self._each(StreamConnection.hang_up)

    def mute(self) -> None:
        """Stop reading: no message is taken, no ping and no new handshake is answered."""
        self._set_muted(True)

    def unmute(self) -> None:
        """Read again; what has come in the meantime is taken now."""
        self._set_muted(False)

    def refuse(
        self,
        status: int,
        headers: HeaderItems | None = None,
        times: int | None = None,
        body: str | bytes = b"",
    ) -> None:
        """
        Answer handshakes with an HTTP status instead of the upgrade; open connections stay.

        Args:
            status: Any but 101.
            headers: More headers for the answer, a mapping or pairs.
            times: How many handshakes; ``None``: until ``accept()``.
            body: str goes out as UTF-8.

        """
        if status == 101:
            raise ValueError("101 is the upgrade itself. Call accept() instead.")
        content = body.encode() if isinstance(body, str) else body
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        self._serving.refusal = Refusal(status, list(pairs), content, times)

    def accept(self) -> None:
        """Take ``refuse()`` back."""
        self._serving.refusal = None

    def start(self) -> None:
        """
        Listen and serve; nothing if it does already.

        Raises:
            OSError: If the port is taken.

        """
        with self._lifecycle:
            if not self._loop.is_running:
                self._serve(self._listen())

    def stop(self) -> None:
        """
        End the listener and all connections; nothing if it does not run.

        Open connections get a close frame with 1001 and half a second to answer it. When this
        returns, thread and descriptors are gone, and the system refuses new connections.
        """
        self._loop.refuse_own_thread()
        with self._lifecycle:
            if self._loop.is_running:
                self._loop.run(self._serving.shut())
                self._loop.stop()

    def restart(self) -> None:
        """Stop, and start again on the same port."""
        self.stop()
        self.start()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self._port), family=family, backlog=BACKLOG)
        if self._receive_buffer is not None:  # what it accepts inherits this
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
