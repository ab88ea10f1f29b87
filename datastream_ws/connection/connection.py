"""
One WebSocket connection over an engine, from the opening handshake to its end.

The connection combines the write queue, the keepalive and the close deadline, all on one timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from ..events import Handshake
from ..exceptions import DataStreamError, NotConnectedError
from ..options import ClientOptions
from .answers import closed_by_peer
from .endpoint import Endpoint
from .engine import Ended, Engine, Frame
from .keepalive import Keepalive
from .pacing import Pacing
from .write_queue import NEVER, WriteQueue

__all__ = ["Connection"]


class Connection:
    """
    One WebSocket connection, used once.

    Call its methods on the event loop's thread. :meth:`send`, :meth:`room` and :meth:`flushed` may
    be called from any thread. Nothing here blocks.

    Args:
        engine: The engine that opens the socket, not opened yet.
        options: The client's options.
        number: Number of the connection within one ``start()``, from 1.
        pacing: The limit that ``send_rate`` sets. ``None`` means no limit.
        gated: Whether only frames that pass the gate are sent before :meth:`open_gate`.
        on_messages: Called on the loop's thread with whole messages and their size in bytes.
        on_round_trip: Called with the seconds between a ping and its pong.
        on_sent: Called with the number of messages and of bytes passed to the engine.

    Attributes:
        end: Resolved when the server's close frame was received or the engine has ended. From
            then on nothing is sent or received.
        closed: Resolved when the engine has ended and the socket is closed.

    """

    def __init__(
        self,
        engine: Engine,
        options: ClientOptions,
        *,
        number: int,
        pacing: Pacing | None = None,
        gated: bool = False,
        on_messages: Callable[[list[str | bytes], int], None],
        on_round_trip: Callable[[float], None],
        on_sent: Callable[[int, int], None],
    ) -> None:
        self.number = number
        self._engine = engine
        self._options = options
        self._gated = gated
        self._on_messages = on_messages
        self._on_round_trip = on_round_trip
        self._on_sent = on_sent
        self._loop = asyncio.get_running_loop()
        self.end: asyncio.Future[Ended] = self._loop.create_future()
        self.closed: asyncio.Future[Ended] = self._loop.create_future()
        # Messages may arrive together with the handshake response. They wait for start_delivery().
        self._early: list[tuple[list[str | bytes], int]] | None = []
        self._failure: Exception | None = None
        self._queue = WriteQueue(
            write_timeout=options.write_timeout, pacing=pacing, wake=self._wake_pump
        )
        self._keepalive = Keepalive(
            ping_interval=options.ping_interval,
            pong_timeout=options.pong_timeout,
            idle_timeout=options.idle_timeout,
            ping=engine.ping,
            now=self._loop.time(),
        )
        self._timer: asyncio.TimerHandle | None = None
        self._pump_timer: asyncio.TimerHandle | None = None
        self._is_reading = True
        self._is_writing_paused = False
        self._close_at = NEVER

    async def open(self, endpoint: Endpoint) -> None:
        """
        Perform the opening handshake.

        Raises:
            ConfigurationError: If an option cannot work.
            HandshakeError: If the server or a proxy refused the connection.
            OSError: If the network failed, or TLS verification.

        """
        await self._engine.open(endpoint, self)
        if self.closed.done():  # the connection was lost right behind the handshake
            return
        self._queue.open(gated=self._gated)
        now = self._loop.time()
        self._keepalive.opened(now)
        self._look(now)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._queue.is_open

    @property
    def handshake(self) -> Handshake:
        return self._engine.handshake

    # --- called by the engine, see Receiver ---

    def bytes_received(self) -> None:
        self._keepalive.heard(self._loop.time())

    def messages_received(self, messages: list[str | bytes], size: int) -> None:
        self._keepalive.message(self._loop.time())
        if self._early is None:
            self._on_messages(messages, size)
        else:
            self._early.append((messages, size))

    def start_delivery(self) -> None:
        """Start to pass messages to ``on_messages``, beginning with those that are waiting."""
        early, self._early = self._early or (), None
        for messages, size in early:
            self._on_messages(messages, size)

    def pong_received(self, payload: bytes) -> None:
        seconds = self._keepalive.pong(payload, self._loop.time())
        if seconds is not None:
            self._on_round_trip(seconds)

    def writing_paused(self) -> None:
        self._is_writing_paused = True
        self._look(self._loop.time())

    def writing_resumed(self) -> None:
        self._is_writing_paused = False
        self._pump()

    def closing(self, code: int | None, reason: str) -> None:
        self._queue.close()
        if code is not None and not self.end.done():
            self.end.set_result(Ended(code, reason, closed_by_peer(code, reason)))
        self._begin_close(self._options.close_timeout)

    def ended(self, ended: Ended) -> None:
        self._queue.close(self._failure)
        for timer in (self._timer, self._pump_timer):
            if timer is not None:
                timer.cancel()
        if self._failure is not None:
            ended = Ended(1006, "", self._failure)
        for future in (self.end, self.closed):
            if not future.done():
                future.set_result(ended)

    # --- the timer ---

    def _tick(self) -> None:
        self._timer = None
        if self.closed.done() or self._failure is not None:
            return
        now = self._loop.time()
        if now >= self._close_at:
            self._engine.abort()
            return
        self._look(now)

    def _look(self, now: float) -> None:
        """Check all deadlines and set the timer for the next one."""
        self._judge(now, self._check_all)

    def _check_all(self, now: float) -> float:
        due = min(self._close_at, self._check_writing(now))
        return min(due, self._keepalive.check(now)) if self._close_at == NEVER else due

    def _check_writing(self, now: float) -> float:
        written, unsent = self._engine.written, self._engine.unsent
        self._queue.settle_flushes(written, unsent)
        return self._queue.check(now, written, unsent)

    def _judge(self, now: float, check: Callable[[float], float]) -> None:
        """Run a check, which returns when it is due again or raises why the connection failed."""
        try:
            due = check(now)
        except DataStreamError as failure:
            self.fail(failure)
        else:
            self._look_at(due)

    def _look_at(self, due: float) -> None:
        """
        Set the timer to *due*, in seconds of the loop's clock.

        An earlier timer stays, because it checks everything and then sets itself again.
        """
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = None if due == NEVER else self._loop.call_at(due, self._tick)

    def _begin_close(self, seconds: float) -> None:
        self._close_at = min(self._close_at, self._loop.time() + seconds)
        self._look_at(self._close_at)

    # --- reading ---

    def ready(self) -> None:
        """Expect messages from now on, because the client is READY."""
        now = self._loop.time()
        self._keepalive.ready(now)
        self._look(now)

    def pause_reading(self) -> None:
        if self._is_reading and not self.closed.done():
            self._is_reading = False
            self._keepalive.paused()
            self._engine.pause()

    def resume_reading(self) -> None:
        if not self._is_reading and not self.closed.done():
            now = self._loop.time()
            self._is_reading = True
            self._keepalive.resumed(now)
            self._engine.resume()
            self._look(now)

    # --- writing ---

    def send(self, frame: Frame, *, passes_gate: bool = False) -> None:
        """Queue a message; see :meth:`WriteQueue.put`."""
        self._queue.put(frame, passes_gate=passes_gate)

    def room(self, *, passes_gate: bool = False) -> Future[None] | None:
        """Return what to wait for before sending; see :meth:`WriteQueue.room`."""
        return self._queue.room(passes_gate=passes_gate)

    def flushed(self, *, passes_gate: bool = False) -> Future[None] | None:
        """Return a future that resolves once the kernel has everything queued so far."""
        return self._queue.flushed(passes_gate=passes_gate)

    def open_gate(self) -> None:
        """Send the frames held back during the login."""
        self._queue.open_gate()

    @property
    def has_unsent(self) -> bool:
        return bool(self._queue) or (not self.closed.done() and self._engine.unsent > 0)

    @property
    def holds_back(self) -> bool:
        """Whether messages wait for the end of the login."""
        return self._queue.holds_back

    def _wake_pump(self) -> None:
        """Schedule the pump from the thread that queued a frame."""
        if asyncio._get_running_loop() is self._loop:
            self._loop.call_soon(self._pump)
            return
        try:
            self._loop.call_soon_threadsafe(self._pump)
        except RuntimeError:
            self._queue.close()
            raise NotConnectedError("the event loop of the connection is closed") from None

    def _pump(self) -> None:
        """Pass queued frames to the engine, as far as the network and ``send_rate`` allow."""
        if self.closed.done() or not self.is_open:
            return
        now = self._loop.time()
        if not self._is_writing_paused:
            frames = self._queue.take(now)
            if frames:
                self._engine.write(frames)
                self._on_sent(len(frames), sum(len(payload) for _, payload in frames))
            self._pump_at(self._queue.due(now), now)
        self._judge(now, self._check_writing)

    def _pump_at(self, due: float, now: float) -> None:
        """
        Schedule the rest of the queue as a new callback.

        Threads may queue as fast as the pump writes. A pump that runs until the queue is empty
        would block the loop.
        """
        if self._pump_timer is not None:
            self._pump_timer.cancel()
            self._pump_timer = None
        if due < NEVER:
            self._pump_timer = self._loop.call_at(max(now, due), self._pump)

    # --- the end ---

    async def close(self, timeout: float, code: int = 1000, reason: str = "") -> None:
        """
        Perform the close handshake and wait until the connection has ended.

        After *timeout* seconds the connection is aborted. Calling it again shortens the time.
        """
        if self.closed.done():
            return
        self._queue.close()
        self._begin_close(timeout)
        if not self.end.done():
            self._engine.close(code, reason)
        self.resume_reading()  # otherwise the server's close frame stays unread
        await asyncio.shield(self.closed)

    def shorten_close(self, timeout: float) -> None:
        """Limit a close handshake that has begun to *timeout* seconds from now."""
        if self._close_at < NEVER and not self.closed.done():
            self._begin_close(timeout)

    def fail(self, error: Exception) -> None:
        """Abort the connection because of *error*. Calling it again has no effect."""
        if self.closed.done() or self._failure is not None:
            return
        self._failure = error
        self._queue.close(error)
        self._engine.abort()

    def abandon(self) -> int:
        """
        Return the descriptor of the parent's socket, in a forked child.

        The result is -1 if there is no socket.
        """
        self._queue.abandon()
        if self.closed.done():
            return -1
        with suppress(Exception):
            return self._engine.descriptor
        return -1
