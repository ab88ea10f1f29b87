"""The lists of messages that ``on_batch`` handlers are given."""

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
    """A message that waits in several batches, or failed elsewhere; done once it has left all."""

    message: Message
    batches: int
    failed: bool


Waiting = Message | Entry
"""What waits in a batch; a message by itself waits in no other."""


def message_of(waiting: Waiting) -> Message:
    return waiting.message if isinstance(waiting, Entry) else waiting


class Batch:
    """What a batch handler will be given next; guarded by the lock of :class:`Batches`."""

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
    What waits in the batches of one dispatcher; from any of its workers.

    Args:
        tenure: What the owner holds the stream by; ``None``: it does not, and none is handed on.
        done: Given messages that have left all their batches, and whether one of them failed.
        discard: Given a message that is not to be handled any more.
        on_loop: Calls a function on the loop's thread.
        wake: Has a worker look for what is due.

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
        """Each is due, however few messages it has."""

    def add(self, handlers: Sequence[Handler], message: Message, failed: bool) -> bool:
        """Add a message to the batches of *handlers*; return whether one of them is ready."""
        entry = Entry(message, len(handlers), failed)
        now = time.monotonic()
        with self._lock:
            batches = [self._batches.setdefault(h, Batch(h)) for h in handlers]
            for batch in batches:
                batch.add((entry,), now)
            return any(batch.is_ready(now) for batch in batches)

    def add_together(self, handler: Handler, messages: Sequence[Message]) -> bool:
        """Add messages to the batch of their only handler; return whether it is ready."""
        now = time.monotonic()
        with self._lock:
            if not self._stopped:
                batch = self._batches.setdefault(handler, Batch(handler))
                batch.add(messages, now)
                return batch.is_ready(now)
        for message in messages:  # nobody would take them out again
            self._discard(message)
        return False

    @property
    def are_empty(self) -> bool:
        return not any(batch.entries for batch in list(self._batches.values()))

    @property
    def has_ready(self) -> bool:
        """Whether there is something to flush."""
        now = time.monotonic()
        return any(self._is_ready(batch, now) for batch in list(self._batches.values()))

    def _is_ready(self, batch: Batch, now: float) -> bool:
        if batch.busy or not batch.entries or self._tenure() is None:
            return False
        return self.draining or batch.is_ready(now)

    async def flush(self, run: HandlerRun) -> None:
        """Give the batches that are full or due to their handlers."""
        while (claimed := self._claim()) is not None:
            batch, entries = claimed
            try:
                await self._flush(run, batch, entries)
            finally:
                with self._lock:
                    batch.busy = False

    def _claim(self) -> tuple[Batch, list[Waiting]] | None:
        """Take the next batch that is full or due; one worker at a time per handler."""
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
        """They have left one batch; those that have left all are done."""
        with self._lock:
            for entry in entries:
                entry.batches -= 1
                entry.failed |= not succeeded
            finished = [entry for entry in entries if not entry.batches]
        for failed, those in itertools.groupby(finished, operator.attrgetter("failed")):
            self._done([entry.message for entry in those], failed)

    def arm_timer(self) -> None:
        """
        Have a worker come back when the next batch is due.

        One that is due already is for the next free worker: another timer would only spin.
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
        self._wake()  # after arming: what falls due in between is seen here

    def shed(self) -> None:
        """Give up what waits; at the end, or of a tenure."""
        with self._lock:
            entries = {id(e): e for b in self._batches.values() for e in b.entries}
            self._batches.clear()
        for entry in entries.values():
            self._discard(message_of(entry))

    def stop(self) -> None:
        """Give up what waits, start no more timers."""
        self._stopped = True
        self.shed()

    def abandon(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self._stopped = True
