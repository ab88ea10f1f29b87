"""
An engine without a network. A test calls methods for the events of a connection.

::

    world = World()
    client = ...  # over world.engine
    world.engines[-1].deliver("hello")
    world.engines[-1].peer_closes(1012)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from datastream_ws import ClientOptions
from datastream_ws.connection.answers import closed_by_peer, cut_by_peer
from datastream_ws.connection.endpoint import Endpoint
from datastream_ws.connection.engine import Ended, Frame, Receiver
from datastream_ws.events import Handshake

__all__ = ["FakeEngine", "InlineThreads", "World"]


class World:
    """
    The servers and the network, for all connections of a test.

    Attributes:
        engines: All engines, one for each attempt.
        opens: The results of the next attempts, an error or ``None``. Later attempts succeed.
        is_hanging: Whether attempts never end.
        is_stuck: Whether the network accepts no bytes.
        answers_close: Whether the server responds to a close frame and closes its socket.

    """

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.opens: deque[Exception | None] = deque()
        self.is_hanging = False
        self.is_stuck = False
        self.answers_close = True

    def engine(self, options: ClientOptions) -> FakeEngine:
        engine = FakeEngine(self)
        self.engines.append(engine)
        return engine

    @property
    def open_engines(self) -> list[FakeEngine]:
        return [engine for engine in self.engines if engine.is_open]

    @property
    def sent(self) -> list[str | bytes]:
        """The messages sent over all connections, in order."""
        return [data for engine in self.engines for data in engine.sent]


class FakeEngine:
    """An engine without a network, see :class:`datastream_ws.connection.engine.Engine`."""

    descriptor = -1

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver
        self.url = ""
        self.handshake = Handshake(None, {})
        self.is_open = False
        self._was_open = False
        self.is_ended = False
        self.is_reading = True
        self.closed_with: tuple[int, str] | None = None
        self.written = 0
        self.unsent = 0
        self.sent: list[str | bytes] = []
        self.pings: list[bytes] = []

    # --- what a connection does ---

    async def open(self, endpoint: Endpoint, receiver: Receiver) -> None:
        self._receiver = receiver
        self.url = endpoint.url
        await asyncio.sleep(0.01)
        if self._world.is_hanging:
            await asyncio.Event().wait()
        error = self._world.opens.popleft() if self._world.opens else None
        if error is not None:
            raise error
        self.is_open = self._was_open = True

    def write(self, frames: Sequence[Frame]) -> None:
        for is_text, payload in frames:
            self.sent.append(payload.decode() if is_text else payload)
            self._write(len(payload) + 6)

    def _write(self, size: int) -> None:
        if self._world.is_stuck:
            self.unsent += size
            if self.unsent == size:
                self._receiver.writing_paused()
        else:
            self.written += size

    def ping(self, payload: bytes) -> None:
        self.pings.append(payload)
        self._write(len(payload) + 6)

    def close(self, code: int, reason: str) -> None:
        if self.closed_with is not None or not self.is_open:
            return
        self.closed_with = (code, reason)
        self._receiver.closing(None, "")
        if self._world.answers_close:
            self._loop.call_later(0.01, self._end, Ended(code, reason, None))

    def abort(self) -> None:
        assert self._was_open, "there is no connection to abort yet"
        self._loop.call_soon(self._end, Ended(1006, "", cut_by_peer(None)))

    def pause(self) -> None:
        self.is_reading = False

    def resume(self) -> None:
        self.is_reading = True

    def _end(self, ended: Ended) -> None:
        if not self.is_ended:
            self.is_open, self.is_ended = False, True
            self._receiver.ended(ended)

    # --- what the world does ---

    def deliver(self, *messages: str | bytes) -> None:
        """Let messages arrive, unless reading is paused."""
        if self.is_open and self.is_reading:
            self._receiver.bytes_received()
            self._receiver.messages_received(list(messages), sum(map(len, messages)))

    def pong(self) -> None:
        if self.is_open and self.pings and self.is_reading:
            self._receiver.bytes_received()
            self._receiver.pong_received(self.pings[-1])

    def peer_closes(self, code: int, reason: str = "", *, lingers: bool = False) -> None:
        """Let the server's close frame arrive. With *lingers*, its socket stays open."""
        if not self.is_open or self.closed_with is not None:
            return
        self.closed_with = (code, reason)
        self._receiver.closing(code, reason)
        if not lingers:
            self._end(Ended(code, reason, closed_by_peer(code, reason)))

    def drop(self) -> None:
        """End the connection without a close frame."""
        if self.is_open:
            self._end(Ended(1006, "", cut_by_peer(None)))

    def take_bytes(self) -> None:
        """Let the network accept all waiting bytes."""
        if self.unsent:
            self.written, self.unsent = self.written + self.unsent, 0
            if not self.is_ended:
                self._receiver.writing_resumed()


class InlineThreads:
    """Handler threads that call each function in the caller's thread."""

    def hold(self) -> None: ...

    def let_go(self) -> None: ...

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        return future

    def call(self, function: Callable[[], None]) -> None:
        function()

    def rest(self, work: object) -> bool:
        return False
