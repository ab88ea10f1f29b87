"""Collect messages for ``on_batch`` handlers."""

from __future__ import annotations

import asyncio
import itertools
import operator
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..handlers import Handler
from ..messages import Message
from .contexts import HandlerRun
from .offering import Offering, Stopped

__all__ = ["Batches"]


@dataclass(slots=True, eq=False)
class Entry:
    """
    A message in several batches, or one that has failed in another handler.

    Attributes:
        batches: How many batches it is still in. At 0, the message is done.
        failed: Whether any handler has failed with it.

    """

    message: Message
    batches: int
    failed: bool


Waiting = Message | Entry
"""An item of a batch. A bare message is in this batch only."""


def message_of(waiting: Waiting) -> Message:
    return waiting.message if isinstance(waiting, Entry) else waiting


class Batch:
    """
    The next batch of one handler; guarded by the lock of :class:`Batches`.

    Attributes:
        due: When the batch must be handled however small it is, of ``time.monotonic()``.
        busy: Whether a worker is calling the handler.

    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.entries: list[Waiting] = []
        self.due = float("inf")
        self.busy = False

    def add(self, entries: Sequence[Waiting], now: float) -> None:
        if not self.entries:
            self.due = now + self.handler.max_wait
        self.entries += entries

    def is_ready(self, now: float) -> bool:
        return len(self.entries) >= self.handler.max_size or now >= self.due

    def take(self, now: float) -> list[Waiting]:
        size = self.handler.max_size
        taken, self.entries = self.entries[:size], self.entries[size:]
        self.due = now + self.handler.max_wait if self.entries else float("inf")
        return taken


class Batches:
    """
    The batches of one dispatcher. The methods are thread-safe.

    Args:
        tenure: Returns the current tenure of the stream. ``None`` means that there is none, so no
            batch is handled.
        done: Called with messages that have left all their batches, and whether one of them failed.
        discard: Called with a message that must not be handled anymore.
        on_loop: Calls a function on the loop's thread.
        wake: Makes a worker handle the batches that are due.

    Attributes:
        draining: Whether every batch is due, however small it is.

    """

    def __init__(
        self,
        *,
        offering: Offering,
        tenure: Callable[[], int | None],
        done: Callable[[Sequence[Message], bool], None],
        discard: Callable[[Message], None],
        loop: asyncio.AbstractEventLoop,
        on_loop: Callable[[Callable[[], None]], None],
        wake: Callable[[], None],
    ) -> None:
        self._offering = offering
        self._tenure = tenure
        self._done = done
        self._discard = discard
        self._loop = loop
        self._on_loop = on_loop
        self._wake = wake
        self._lock = threading.Lock()
        self._batches: dict[Handler, Batch] = {}
        self._timer_at = float("inf")
        self._stopped = False
        self.draining = False

    def add(self, handlers: Sequence[Handler], message: Message, failed: bool) -> bool:
        """Add a message to the batches of *handlers*; return whether one of them is ready."""
        entry = Entry(message, len(handlers), failed)
        now = time.monotonic()
        with self._lock:
            if not self._stopped:
                batches = [self._batches.setdefault(h, Batch(h)) for h in handlers]
                for batch in batches:
                    batch.add((entry,), now)
                return any(batch.is_ready(now) for batch in batches)
        self._discard(message)  # stop() has emptied the batches already
        return False

    def add_together(self, handler: Handler, messages: Sequence[Message]) -> bool:
        """Add messages to the batch of their only handler; return whether it is ready."""
        now = time.monotonic()
        with self._lock:
            if not self._stopped:
                batch = self._batches.setdefault(handler, Batch(handler))
                batch.add(messages, now)
                return batch.is_ready(now)
        for message in messages:  # stop() has emptied the batches already
            self._discard(message)
        return False

    @property
    def are_empty(self) -> bool:
        if not self._batches:  # nearly always, and every run asks
            return True
        return not any(batch.entries for batch in list(self._batches.values()))

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`flush` has anything to do."""
        now = time.monotonic()
        return any(self._is_ready(batch, now) for batch in list(self._batches.values()))

    def _is_ready(self, batch: Batch, now: float) -> bool:
        if batch.busy or not batch.entries or self._tenure() is None:
            return False
        return self.draining or batch.is_ready(now)

    async def flush(self, run: HandlerRun) -> None:
        """Call the handlers of all batches that are full or due."""
        while (claimed := self._claim()) is not None:
            batch, entries = claimed
            try:
                await self._flush(run, batch, entries)
            finally:
                with self._lock:
                    batch.busy = False
                    # Keep no reference to a handler that may have been removed.
                    if not batch.entries and self._batches.get(batch.handler) is batch:
                        del self._batches[batch.handler]

    def _claim(self) -> tuple[Batch, list[Waiting]] | None:
        """Claim the next batch that is full or due, for one worker at a time per handler."""
        if not self._batches:
            return None
        now = time.monotonic()
        with self._lock:
            for batch in self._batches.values():
                if self._is_ready(batch, now):
                    batch.busy = True
                    return batch, batch.take(now)
        return None

    async def _flush(self, run: HandlerRun, batch: Batch, entries: list[Waiting]) -> None:
        messages = tuple(map(message_of, entries))
        try:
            succeeded = await self._offering.offer(run, batch.handler, messages)
        except (Stopped, asyncio.CancelledError) as stop:
            for message in messages:
                self._discard(message)
            if isinstance(stop, asyncio.CancelledError):
                raise
            return
        shared = [entry for entry in entries if isinstance(entry, Entry)]
        if not shared:
            self._done(messages, not succeeded)
            return
        self._done_shared(shared, succeeded)
        if alone := [message for message in entries if isinstance(message, Message)]:
            self._done(alone, not succeeded)

    def _done_shared(self, entries: Sequence[Entry], succeeded: bool) -> None:
        """Record that entries have left one batch, and finish those that have left all."""
        with self._lock:
            for entry in entries:
                entry.batches -= 1
                entry.failed |= not succeeded
            finished = [entry for entry in entries if not entry.batches]
        for failed, those in itertools.groupby(finished, operator.attrgetter("failed")):
            self._done([entry.message for entry in those], failed)

    def arm_timer(self) -> None:
        """
        Wake a worker when the next batch is due.

        A batch that is due already waits for the next free worker. A timer for it would only repeat
        itself.
        """
        if not self._batches:
            return
        now = time.monotonic()
        with self._lock:
            dues = (batch.due for batch in self._batches.values() if batch.due > now)
            due = min(dues, default=float("inf"))
            if due >= self._timer_at or self._stopped:
                return
            self._timer_at = due
        self._on_loop(lambda: self._start_timer(due))

    def _start_timer(self, due: float) -> None:
        self._loop.call_later(max(0.0, due - time.monotonic()), self._timer_ended)

    def _timer_ended(self) -> None:
        self._timer_at = float("inf")
        self.arm_timer()
        self._wake()  # after arming, so that a batch that fell due in between is not missed

    def shed(self) -> None:
        """Discard all batched messages; at the end of the client, or of a tenure."""
        with self._lock:
            entries = {id(e): e for b in self._batches.values() for e in b.entries}
            self._batches.clear()
        for entry in entries.values():
            self._discard(message_of(entry))

    def stop(self) -> None:
        """Discard all batched messages, and start no more timers."""
        self._stopped = True
        self.shed()

    def abandon(self) -> None:
        """Stop after a fork; the lock is replaced, because a thread of the parent may hold it."""
        self._lock = threading.Lock()
        self._stopped = True
