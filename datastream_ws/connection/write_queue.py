"""
What waits to be sent on one connection: order, marks, pace, flushes, and whether it moves.

Any thread may put a frame in, the loop takes frames out. Every decision is made under one lock.
There is no loop and no socket here, and the clock is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from ..exceptions import NotConnectedError, SendTimeoutError, said
from .engine import Frame
from .pacing import Pacing

__all__ = ["NEVER", "WriteQueue"]

MARK = 2**20  # bytes queued above which send() waits
LIMIT = 16 * MARK  # bytes queued above which a sender that cannot wait is refused
CHUNK = 2**18  # bytes handed to the engine in one turn of the loop
FRAME_COST = 128  # bytes that a frame counts beside its payload: empty ones take time and room, too
FLUSH_STEP = 0.05  # seconds between two looks for a flush: below TLS nothing tells of progress
MANY = 2**62

NEVER = float("inf")


class _Flush:
    """Somebody who waits until the first *frames* frames are written."""

    def __init__(self, frames: int) -> None:
        self.future: Future[None] = Future()
        self._frames = frames
        self._target: int | None = None  # bytes written by then; known once the frames are taken

    def is_done(self, taken: int, written: int, unsent: int) -> bool:
        if self._target is None and taken >= self._frames:
            self._target = written + unsent
        return self._target is not None and written >= self._target


class WriteQueue:
    """
    Frames on their way to the engine.

    Args:
        write_timeout: Seconds without a byte written after which the connection is given up.
        pacing: How many messages may be sent in which time. ``None`` means no limit.
        wake: Called, from the thread that puts, when the loop has to come and :meth:`take`.

    """

    def __init__(
        self, *, write_timeout: float, pacing: Pacing | None, wake: Callable[[], None]
    ) -> None:
        self._write_timeout = write_timeout
        self._pacing = pacing
        self._wake = wake
        self._lock = threading.Lock()
        self._frames: list[Frame] = []
        self._gated: list[Frame] | None = None  # what waits for the login
        self._bytes = 0
        self._is_waking = False
        self._room: list[Future[None]] = []
        self._flushes: list[_Flush] = []
        self._put = self._taken = 0  # frames past the gate
        self.is_open = False
        # What the engine had written when it was last seen to move on, and when that was.
        self._written = 0
        self._moved_at = NEVER

    def __len__(self) -> int:
        return len(self._frames) + len(self._gated or ())

    # --- from any thread ---

    def put(self, frame: Frame, *, passes_gate: bool = False) -> None:
        """
        Queue a frame; never blocks.

        Raises:
            NotConnectedError: If the connection is closing or closed.
            SendTimeoutError: If far more is queued than a sender that waits would queue.

        """
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
            self._bytes += FRAME_COST + len(frame[1])
            if self._is_waking:
                return
            self._is_waking = True
        self._wake()

    def room(self) -> Future[None] | None:
        """Return what to wait for before the next :meth:`put`; ``None`` means nothing."""
        if not self._is_above_mark():  # room that there is may be used, whatever comes next
            return None
        with self._lock:
            if not self.is_open or not self._is_above_mark():
                return None
            future: Future[None] = Future()
            self._room.append(future)
            return future

    def _is_above_mark(self) -> bool:
        if self._bytes > MARK:
            return True
        return self._pacing is not None and len(self) >= self._pacing.messages

    def flushed(self, *, passes_gate: bool = False) -> Future[None] | None:
        """Return a future of the moment when all that is queued now is written; None: closed."""
        with self._lock:
            if not self.is_open:
                return None
            held_back = 0 if passes_gate else len(self._gated or ())
            flush = _Flush(self._put + held_back)
            self._flushes.append(flush)
            is_waking, self._is_waking = self._is_waking, True
        if not is_waking:
            self._wake()
        return flush.future

    # --- on the loop ---

    def open(self, *, gated: bool = False) -> None:
        """Accept frames; *gated* holds back all that do not pass the gate."""
        with self._lock:
            self._gated = [] if gated else None
            self.is_open = True

    def open_gate(self) -> None:
        """Let go of what was held back."""
        with self._lock:
            gated, self._gated = self._gated, None
            if not gated:
                return
            self._frames.extend(gated)
            self._put += len(gated)
            if self._is_waking:
                return
            self._is_waking = True
        self._wake()

    def take(self, now: float) -> list[Frame]:
        """Return the frames to hand to the engine next; those who wait for room are told."""
        with self._lock:
            self._is_waking = False
            most = MANY if self._pacing is None else self._pacing.allowance(now)
            count = size = 0
            for _, payload in self._frames:
                if size >= CHUNK or count >= most:
                    break
                count += 1
                size += FRAME_COST + len(payload)
            frames, self._frames = self._frames[:count], self._frames[count:]
            self._bytes -= size
            self._taken += len(frames)
            if self._pacing is not None and frames:
                self._pacing.sent(len(frames), now)
            woken = self._take_room()
        for future in woken:
            _settle(future)
        return frames

    def _take_room(self) -> list[Future[None]]:
        """Return those who may send now: at half the mark, so that they do not come one by one."""
        if not self._room or self._bytes > MARK // 2:
            return []
        if self._pacing is None:
            woken, self._room = self._room, []
            return woken
        free = max(0, self._pacing.messages - len(self))
        woken, self._room = self._room[:free], self._room[free:]
        return woken

    def due(self, now: float) -> float:
        """Return when more may be taken; NEVER: nothing is queued."""
        with self._lock:
            if not self._frames:
                return NEVER
            return now if self._pacing is None else self._pacing.due(now)

    def settle_flushes(self, written: int, unsent: int) -> None:
        """
        Tell those whose frames are with the kernel.

        Args:
            written, unsent: Bytes the engine has written so far, and those it still has.

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
        Judge whether writing moves; progress is what the engine has written, nothing else.

        Args:
            written, unsent: Bytes the engine has written so far, and those it still has.

        Returns:
            When to look again.

        Raises:
            SendTimeoutError: If nothing was written for ``write_timeout``.

        """
        if not unsent and self.due(now) > now:
            self._moved_at = NEVER
            self._written = written
            return NEVER
        if self._moved_at == NEVER or written > self._written:
            self._moved_at, self._written = now, written
        limit = self._write_timeout
        if now >= self._moved_at + limit:
            raise SendTimeoutError(f"nothing could be written for {limit:g} s")
        step = min(limit / 4, FLUSH_STEP) if self._flushes else limit / 4
        return min(now + step, self._moved_at + limit)

    def close(self, error: Exception | None = None) -> None:
        """Accept nothing any more; whoever waits is told why: what ended the connection."""
        if not isinstance(error, SendTimeoutError):
            why = "" if error is None else f": {said(error)}"
            error = NotConnectedError(f"the connection was lost while sending{why}")
        with self._lock:
            self.is_open = False
            waiting = [*self._room, *(flush.future for flush in self._flushes)]
            self._room, self._flushes = [], []
        for future in waiting:
            _settle(future, error)

    def abandon(self) -> None:
        """In a forked child: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self.is_open = False


def _settle(future: Future[None], error: Exception | None = None) -> None:
    """Resolve a future unless whoever waited has given up."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
