"""
The queue of outgoing frames of one connection, with its limits, pacing and flushes.

Any thread may put a frame in, and the loop takes frames out. Every decision is made under one lock.
The queue has no loop, socket or clock. The caller passes the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from ..exceptions import NotConnectedError, SendTimeoutError, said
from .engine import Frame
from .pacing import Pacing

__all__ = ["NEVER", "WriteQueue"]

MARK = 2**20  # queued bytes above which send() waits
LIMIT = 16 * MARK  # queued bytes above which put() raises
CHUNK = 2**18  # bytes passed to the engine in one iteration of the loop
FRAME_COST = 128  # bytes that a frame counts beside its payload, because empty ones take memory
FLUSH_STEP = 0.05  # seconds between checks of a flush, because TLS does not report its progress
TURN_STEP = 0.05  # seconds after which the next sender is woken if the last ones send nothing
MANY = 2**62

NEVER = float("inf")


class _Flush:
    """A future that resolves once the kernel has the first *frames* frames."""

    def __init__(self, frames: int, held_back: int) -> None:
        self.future: Future[None] = Future()
        self._frames = frames
        self._held_back = held_back  # more frames to wait for, which the gate holds back
        self._target: int | None = None  # bytes written by then; None until the frames are taken

    def gate_opened(self, put: int) -> None:
        """Record that the gate lets its frames through, behind the *put* frames before them."""
        if self._held_back:
            self._frames, self._held_back = put + self._held_back, 0

    def is_done(self, taken: int, written: int, unsent: int) -> bool:
        if self._target is None and not self._held_back and taken >= self._frames:
            self._target = written + unsent
        return self._target is not None and written >= self._target


class WriteQueue:
    """
    Frames that wait for the engine.

    Args:
        write_timeout: Seconds without a written byte after which the connection fails.
        pacing: The rate limit. ``None`` means no limit.
        wake: Called in the thread that puts a frame, when the loop has to call :meth:`take`.

    """

    def __init__(
        self, *, write_timeout: float, pacing: Pacing | None, wake: Callable[[], None]
    ) -> None:
        self._write_timeout = write_timeout
        self._pacing = pacing
        self._wake = wake
        # Reentrant, because a finalizer may call while its thread holds it. So a statement must not
        # replace a list by what was read of it, if a call or an allocation comes in between.
        self._lock = threading.RLock()
        self._frames: list[Frame] = []
        self._gated: list[Frame] | None = None  # frames held back; None once the gate is open
        self._bytes = self._gated_bytes = 0
        self._is_waking = False
        self._room: list[Future[None]] = []
        self._login_room: list[Future[None]] = []  # of senders past the gate, while it is closed
        self._flushes: list[_Flush] = []
        self._put = self._taken = 0  # frames past the gate
        self.is_open = False
        self._written = 0  # bytes the engine had written at the latest progress
        self._moved_at = NEVER  # time of the latest progress; NEVER while nothing is to be written

    def __len__(self) -> int:
        return len(self._frames) + len(self._gated or ())

    @property
    def holds_back(self) -> bool:
        """Whether the gate holds back frames."""
        return bool(self._gated)

    # --- from any thread ---

    def put(self, frame: Frame, *, passes_gate: bool = False) -> None:
        """
        Queue a frame without blocking.

        Raises:
            NotConnectedError: If the connection is closing or closed.
            SendTimeoutError: If 16 MiB are queued, because senders did not wait for :meth:`room`.

        """
        size = FRAME_COST + len(frame[1])
        with self._lock:
            if not self.is_open:
                raise NotConnectedError("the connection has just been lost")
            if self._bytes > LIMIT:
                raise SendTimeoutError("the write queue is full. Await send() to wait for room.")
            if self._gated is None or passes_gate:
                self._frames.append(frame)
                self._put += 1
            else:
                self._gated.append(frame)
                self._gated_bytes += size
            self._bytes += size
            if self._is_waking:
                return
            self._is_waking = True
        self._wake()

    def room(self, *, passes_gate: bool = False) -> Future[None] | None:
        """
        Return a future to wait for before the next :meth:`put`. ``None`` means there is room.

        Cancel the future to withdraw the request.

        Args:
            passes_gate: Whether not to count the frames that the gate holds back. They leave the
                queue after the login, so the login must not wait for them.

        """
        # Without the lock, because a rough answer is good enough.
        if not self._is_above_mark(passes_gate):
            return None
        future: Future[None] = Future()  # made here, because it may have the garbage collected
        with self._lock:
            if not self.is_open or not self._is_above_mark(passes_gate):
                return None
            is_login = passes_gate and self._gated is not None
            (self._login_room if is_login else self._room).append(future)
            return future

    def _is_above_mark(self, passes_gate: bool) -> bool:
        if self._bytes - (self._gated_bytes if passes_gate else 0) > MARK:
            return True
        return self._pacing is not None and self._free(passes_gate) <= 0

    def _free(self, passes_gate: bool) -> int:
        """Return how many frames ``send_rate`` leaves room for."""
        assert self._pacing is not None
        return self._pacing.messages - (len(self._frames) if passes_gate else len(self))

    def flushed(self, *, passes_gate: bool = False) -> Future[None] | None:
        """
        Return a future that resolves once the kernel has every frame queued now.

        ``None`` means that the connection is closed.

        Args:
            passes_gate: Whether not to wait for the frames that the gate holds back.

        """
        with self._lock:
            if not self.is_open:
                return None
            held_back = 0 if passes_gate else len(self._gated or ())
            flush = _Flush(self._put, held_back)
            self._flushes.append(flush)
            is_waking, self._is_waking = self._is_waking, True
        if not is_waking:
            self._wake()
        return flush.future

    # --- on the loop ---

    def open(self, *, gated: bool = False) -> None:
        """Accept frames. *gated* holds back all that do not pass the gate."""
        with self._lock:
            self._gated = [] if gated else None
            self.is_open = True

    def open_gate(self) -> None:
        """Queue the frames that were held back, and hold back no more."""
        with self._lock:
            gated, self._gated = self._gated, None
            self._gated_bytes = 0
            self._room[:0], self._login_room = self._login_room, []
            if not gated:
                return
            for flush in self._flushes:
                flush.gate_opened(self._put)
            self._frames.extend(gated)
            self._put += len(gated)
            if self._is_waking:
                return
            self._is_waking = True
        self._wake()

    def take(self, now: float) -> list[Frame]:
        """Return the next frames for the engine, and wake the senders that now have room."""
        with self._lock:
            self._is_waking = False
            most = MANY if self._pacing is None else self._pacing.allowance(now)
            count = size = 0
            for _, payload in self._frames:
                if size >= CHUNK or count >= most:
                    break
                count += 1
                size += FRAME_COST + len(payload)
            frames = self._frames[:count]
            del self._frames[:count]
            self._bytes -= size
            self._taken += len(frames)
            if self._pacing is not None and frames:
                self._pacing.sent(len(frames), now)
            woken = self._take_room()
        for future in woken:
            _settle(future)
        return frames

    def _take_room(self) -> list[Future[None]]:
        """
        Return the futures of the senders that may continue.

        They wait until at most half of ``MARK`` is queued. Otherwise the loop would wake them
        one by one.
        """
        woken: list[Future[None]] = []
        if self._login_room and self._bytes - self._gated_bytes <= MARK // 2:
            woken, self._login_room = self._login_room, []
        if not self._room or self._bytes > MARK // 2:
            return woken
        if self._pacing is None:
            waiting, self._room = self._room, []
            return woken + waiting
        # A sender that has given up would take the turn of another.
        waiting = [future for future in self._room if not future.cancelled()]
        free = max(0, self._free(passes_gate=False))
        self._room = waiting[free:]
        return woken + waiting[:free]

    def due(self, now: float) -> float:
        """
        Return when :meth:`take` must be called again. ``NEVER`` means after the next :meth:`put`.

        A paced sender that was woken may have been canceled, and then puts nothing that would wake
        the next one.
        """
        with self._lock:
            if self._frames:
                return now if self._pacing is None else self._pacing.due(now)
            is_stalled = (
                self._room and self._pacing is not None and self._free(passes_gate=False) > 0
            )
            return now + TURN_STEP if is_stalled else NEVER

    def settle_flushes(self, written: int, unsent: int) -> None:
        """
        Resolve the flushes whose frames have been passed to the kernel.

        Args:
            written: Bytes that the engine has written so far.
            unsent: Bytes that the engine still has.

        """
        if not self._flushes:
            return
        with self._lock:
            done = [flush for flush in self._flushes if flush.is_done(self._taken, written, unsent)]
            self._flushes = [flush for flush in self._flushes if flush not in done]
        for flush in done:
            _settle(flush.future)

    def check(self, now: float, written: int, unsent: int) -> float:
        """
        Check that writing makes progress. Only bytes that the engine has written count.

        Args:
            now: The current time, in seconds.
            written: Bytes that the engine has written so far.
            unsent: Bytes that the engine still has.

        Returns:
            When to check again. ``NEVER`` means when more frames are queued.

        Raises:
            SendTimeoutError: If nothing was written for ``write_timeout`` seconds.

        """
        if not unsent and self.due(now) > now:
            self._moved_at = NEVER
            self._written = written
            return NEVER
        if self._moved_at == NEVER or written > self._written:
            self._moved_at, self._written = now, written
        limit = self._write_timeout
        if now >= self._moved_at + limit:
            raise SendTimeoutError(f"no data could be sent for {limit:g} s (write_timeout)")
        step = min(limit / 4, FLUSH_STEP) if self._flushes else limit / 4
        return min(now + step, self._moved_at + limit)

    def close(self, error: Exception | None = None) -> None:
        """
        Refuse further frames, and fail every future that is waited for.

        Args:
            error: The error that ended the connection. ``None`` means that it was closed.

        """
        if not isinstance(error, SendTimeoutError):
            why = "" if error is None else f": {said(error)}"
            error = NotConnectedError(f"the connection was lost while sending{why}")
        with self._lock:
            self.is_open = False
            flushes = (flush.future for flush in self._flushes)
            waiting = [*self._room, *self._login_room, *flushes]
            self._room, self._login_room, self._flushes = [], [], []
        for future in waiting:
            _settle(future, error)

    def abandon(self) -> None:
        """
        Close the queue in a forked child, with a new lock.

        A thread that the child does not have may hold the old one.
        """
        self._lock = threading.RLock()
        self.is_open = False


def _settle(future: Future[None], error: Exception | None = None) -> None:
    """Resolve a future unless it was canceled."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
