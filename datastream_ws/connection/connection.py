"""
One WebSocket, from open to close, over an engine; never reused.

Keepalive, the write queue and the close deadline live here, on one timer.
Any byte from the peer proves life. While reading is paused (a full inbox) pings go on but
nothing is judged: the pongs wait unread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from ..exceptions import NotConnectedError, SendTimeoutError, StreamClosedError
from ..options import ClientOptions
from .endpoint import Endpoint
from .engine import Ended, Engine, Frame

__all__ = ["Connection"]

WRITE_MARK = 2**20  # bytes queued above which send() waits
WRITE_LIMIT = 16 * WRITE_MARK  # bytes queued above which send() without waiting refuses
WRITE_CHUNK = 2**18  # bytes handed to the engine in one turn of the loop
FRAME_COST = 128  # bytes that a frame counts beside its payload: empty ones take time and room, too

NEVER = float("inf")


class Connection:
    """
    One connection. On the loop's thread, but for :meth:`send` and :meth:`room`.

    Args:
        on_messages: Given whole messages and their size in bytes, on the loop's thread.
        on_round_trip: Given the seconds between a ping and its pong.
        on_sent: Given the number of messages and bytes handed to the engine.

    """

    def __init__(
        self,
        engine: Engine,
        options: ClientOptions,
        *,
        on_messages: Callable[[list[str | bytes], int], None],
        on_round_trip: Callable[[float], None],
        on_sent: Callable[[int, int], None],
    ) -> None:
        self._engine = engine
        self._options = options
        self._on_messages = on_messages
        self._on_round_trip = on_round_trip
        self._on_sent = on_sent
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Ended] = self._loop.create_future()
        # Messages may come with the handshake's last bytes, and wait for hand_over().
        self._early: list[tuple[list[str | bytes], int]] | None = []
        self._failure: Exception | None = None

        self._lock = threading.Lock()
        self._queue: deque[Frame] = deque()
        self._queued = 0  # bytes
        self._pump_due = False
        self._room: list[Future[None]] = []
        self._flushed: list[asyncio.Future[None]] = []
        self.is_open = False
        self.peer_close: tuple[int, str] | None = None

        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = self._pinged_at = self._loop.time()
        self._ping_payload = b""
        self._paused = False
        self._write_paused = False
        self._unsent = 0
        self._progress_at = NEVER  # when writing last moved on; NEVER: nothing waits
        self._close_at = NEVER

    async def open(self, endpoint: Endpoint) -> None:
        """Do the opening handshake. Raises what :meth:`Engine.open` raises."""
        await self._engine.open(endpoint, self)
        if self.closed.done():
            return
        self.is_open = True
        self._heard_at = self._pinged_at = self._loop.time()
        self._tick()

    @property
    def descriptor(self) -> int:
        return self._engine.descriptor

    # --- what the engine reports ---

    def bytes_received(self) -> None:
        self._heard_at = self._loop.time()

    def messages_received(self, messages: list[str | bytes], size: int) -> None:
        if self._early is None:
            self._on_messages(messages, size)
        else:
            self._early.append((messages, size))

    def hand_over(self) -> None:
        """Give messages on from now; those that came right behind the handshake first."""
        early, self._early = self._early or (), None
        for messages, size in early:
            self._on_messages(messages, size)

    def pong_received(self, payload: bytes) -> None:
        if payload == self._ping_payload:
            self._on_round_trip(self._loop.time() - self._pinged_at)

    def writing_paused(self) -> None:
        self._write_paused = True
        self._note_progress()

    def writing_resumed(self) -> None:
        self._write_paused = False
        self._note_progress()
        self._pump()

    def closing(self, code: int | None, reason: str) -> None:
        if code is not None:
            self.peer_close = code, reason
        self._stop_sending()
        self._begin_close(self._options.close_timeout)

    def ended(self, ended: Ended) -> None:
        self._stop_sending()
        if self._timer is not None:
            self._timer.cancel()
        if self._failure is not None:
            ended = Ended(1006, "", self._failure)
        if not self.closed.done():
            self.closed.set_result(ended)

    # --- the timer ---

    def _tick(self) -> None:
        """Do what is due, and come back when the next thing is."""
        if self._timer is not None:
            self._timer.cancel()
        if self.closed.done():
            return
        now = self._loop.time()
        if now >= self._close_at:
            self._engine.abort()
            return
        due = min(self._close_at, self._check_writing(now), self._keep_alive(now))
        if due < NEVER and self._failure is None:
            self._timer = self._loop.call_at(due, self._tick)

    def _keep_alive(self, now: float) -> float:
        """Ping, judge; return when to look again."""
        if self._close_at < NEVER:
            return NEVER
        interval, patience = self._options.ping_interval, self._options.pong_timeout
        due = NEVER
        if interval is not None:
            if now >= self._pinged_at + interval:
                self._ping(now)
            due = self._pinged_at + interval
        if patience is not None and not self._paused:
            if now >= self._heard_at + patience:
                self.fail(StreamClosedError(1006, text=f"nothing received for {patience:g} s"))
            due = min(due, self._heard_at + patience)
        return due

    def _ping(self, now: float) -> None:
        self._pinged_at = now
        self._ping_payload = os.urandom(4)
        self._engine.ping(self._ping_payload)

    def _check_writing(self, now: float) -> float:
        """Fail when nothing was written for ``write_timeout``; return when to look again."""
        if self._progress_at == NEVER:
            return NEVER
        limit = self._options.write_timeout
        if self._engine.unsent < self._unsent:
            self._note_progress()
        elif now >= self._progress_at + limit:
            self.fail(SendTimeoutError(f"nothing could be written for {limit:g} s"))
            return NEVER
        return min(now + limit / 4, self._progress_at + limit)

    def _note_progress(self) -> None:
        was_idle = self._progress_at == NEVER
        self._unsent = self._engine.unsent
        busy = bool(self._unsent or self._queue)
        self._progress_at = self._loop.time() if busy else NEVER
        if busy and was_idle:
            self._tick()

    def _begin_close(self, seconds: float) -> None:
        self._close_at = min(self._close_at, self._loop.time() + seconds)
        self._tick()

    # --- reading ---

    def pause_reading(self) -> None:
        if not self._paused and not self.closed.done():
            self._paused = True
            self._engine.pause()

    def resume_reading(self) -> None:
        """Read on; the peer has ``pong_timeout`` from now to be heard."""
        if self._paused and not self.closed.done():
            self._paused = False
            self._heard_at = self._loop.time()
            self._engine.resume()
            self._tick()

    # --- writing ---

    def room(self) -> Future[None] | None:
        """Return what to wait for before sending; ``None``: nothing. From any thread."""
        if self._queued <= WRITE_MARK:
            return None
        future: Future[None] = Future()
        with self._lock:
            self._room.append(future)
        if not self.is_open:
            self._stop_sending()
        return future

    def send(self, frame: Frame) -> None:
        """
        Queue a message. From any thread; never blocks.

        Raises:
            NotConnectedError: If the connection is closing or closed.
            SendTimeoutError: If far more is queued than a caller that waits would queue.

        """
        with self._lock:
            if not self.is_open:
                raise NotConnectedError("the connection has just been lost")
            if self._queued > WRITE_LIMIT:
                raise SendTimeoutError("the write queue is full: await what send() returns")
            self._queue.append(frame)
            self._queued += FRAME_COST + len(frame[1])
            if self._pump_due:
                return
            self._pump_due = True
        if asyncio._get_running_loop() is self._loop:
            self._loop.call_soon(self._pump_soon)
        else:
            self._loop.call_soon_threadsafe(self._pump_soon)

    def _pump_soon(self) -> None:
        self._pump_due = False
        self._pump()

    def _pump(self) -> None:
        """Hand what is queued to the engine, as far as the network takes it."""
        if self._queue and not self._write_paused and self.is_open:
            frames = self._take_chunk()
            self._engine.write(frames)
            self._on_sent(len(frames), sum(len(payload) for _, payload in frames))
            if self._queue and not self._write_paused:
                self._pump_later()
        self._note_progress()
        self._wake_senders()

    def _pump_later(self) -> None:
        """Let the loop turn first: threads may queue as fast as this writes, for ever."""
        with self._lock:
            if not self._pump_due:
                self._pump_due = True
                self._loop.call_soon(self._pump_soon)

    def _take_chunk(self) -> list[Frame]:
        frames: list[Frame] = []
        size = 0
        with self._lock:
            while self._queue and size < WRITE_CHUNK:
                frames.append(self._queue.popleft())
                size += FRAME_COST + len(frames[-1][1])
            self._queued -= size
        return frames

    def _wake_senders(self) -> None:
        if self._room and self._queued <= WRITE_MARK // 2:
            with self._lock:
                woken, self._room = self._room, []
            for future in woken:
                if future.set_running_or_notify_cancel():
                    future.set_result(None)
        if self._flushed and not self._queue and not self._engine.unsent:
            for waiter in self._flushed:
                if not waiter.done():
                    waiter.set_result(None)
            self._flushed.clear()

    async def flush(self) -> None:
        """Wait until everything queued is with the kernel; raises NotConnectedError."""
        if self.is_open and (self._queue or self._engine.unsent):
            waiter = self._loop.create_future()
            self._flushed.append(waiter)
            await waiter

    def _stop_sending(self) -> None:
        """No more room, no more flushes: whoever waits is told why."""
        with self._lock:
            self.is_open = False
            room, self._room = self._room, []
            flushed, self._flushed = self._flushed, []
        if not room and not flushed:
            return
        error = self._failure or NotConnectedError("the connection was lost while sending")
        for future in room:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        for waiter in flushed:
            if not waiter.done():
                waiter.set_exception(error)

    # --- the end ---

    async def close(self, timeout: float, code: int = 1000, reason: str = "") -> None:
        """Do the close handshake; after *timeout* seconds end the connection without it."""
        if self.closed.done():
            return
        self._stop_sending()
        self._begin_close(timeout)
        self._engine.close(code, reason)
        if self._paused:  # else the peer's close frame stays unread
            self._paused = False
            self._engine.resume()
        await asyncio.shield(self.closed)

    def fail(self, error: Exception) -> None:
        """End the connection now, because of *error*."""
        if not self.closed.done() and self._failure is None:
            self._failure = error
            self._stop_sending()
            self._engine.abort()

    def disown(self) -> int:
        """In a forked child: return the descriptor of a socket that is the parent's."""
        self._lock = threading.Lock()
        self.is_open = False
        with suppress(Exception):
            return self.descriptor
        return -1
