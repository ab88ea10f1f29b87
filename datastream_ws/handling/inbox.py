"""
What waits between the socket and the handlers.

Limits, overflow, conflation and order per key are decided here and nowhere else. A lock guards
everything; there are no threads and no event loop. One side puts messages in, the other pops
them one by one and says when each is done. Where nothing but their number limits what waits, a
worker may go on for a stretch without the lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..messages import Message, payload_bytes
from .budget import Budget
from .stores import NO_KEYS, Fifo, Keyed, Keys, Store
from .stretches import NO_END, Stretch, size_of

__all__ = ["Counts", "Inbox", "Put"]


@dataclass(frozen=True, slots=True)
class Put:
    """
    What became of messages that were put in.

    Attributes:
        taken: How many, from the first, are the inbox's now (dropped ones included).
        dropped: How many messages, new or old, overflow dropped.
        full: Stop reading until :meth:`Inbox.done` says there is room.
        disconnect: Overflow ends the connection.

    """

    taken: int
    dropped: int = 0
    full: bool = False
    disconnect: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """The message counters of one moment."""

    received: int
    handled: int
    failed: int
    unrouted: int
    dropped: dict[str, int]
    waiting: int
    spooled: int = 0


class Inbox:
    """
    Messages received but not handled yet. Every method may be called from any thread.

    Args:
        size, size_bytes: Most messages, and most bytes of payload, the ones in hand included.
        overflow: What a full inbox does, see :class:`ClientOptions`.
        conflate, ordering_key: The user's callables; called outside the lock.
        report: Given what they raise; such a message has no key.
        budget: How many messages may be popped; ``None``: no limit.

    """

    def __init__(
        self,
        *,
        size: int | None = None,
        size_bytes: int | None = None,
        overflow: str = "block",
        conflate: Callable[[Message], Any] | None = None,
        ordering_key: Callable[[Message], Any] | None = None,
        report: Callable[[BaseException], None] = lambda error: None,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget
        self._size = size
        self._size_bytes = size_bytes
        self._overflow = overflow
        self._conflate = conflate
        self._ordering_key = ordering_key
        self._report = report
        self._store: Store = Keyed() if conflate or ordering_key else Fifo()
        # What most streams need, without a call a message.
        self._plain = self._store if isinstance(self._store, Fifo) else None
        self._may_stretch = self._plain is not None and overflow == "block" and budget is None
        self._stretch: Stretch | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._blocked = False
        self._bytes = 0  # of what waits, or more: a stretch does not measure what leaves
        self._received = self._handled = self._failed = self._unrouted = 0
        self._dropped: Counter[str] = Counter()
        self._waiting = 0  # in the store or in hand
        self.last_message: Message | None = None

    # --- the receiving side ---

    @property
    def received(self) -> int:
        return self._received

    @property
    def taken(self) -> int:
        """Messages put in so far, also those that do not count as received yet."""
        return self._received

    @property
    def spooled(self) -> int:
        """Messages received that are in a file only."""
        return 0

    def put(self, messages: Sequence[Message], *, force: bool = False) -> Put:
        """
        Take messages in; *force* takes them all, whatever the limits.

        Returns:
            What became of them. With ``overflow="block"`` those after ``taken`` stay with the
            caller, to be put in again once there is room.

        """
        if self._plain is None:
            messages = list(messages)
        keys = self._keys(messages)
        with self._lock:
            self._settle()
            before = self._dropped["overflow"]
            taken = self._take_fitting(messages, force)
            for index in range(taken, len(messages)):
                if not self._make_room(force):
                    break
                self._take(messages[index], keys[index] if keys else NO_KEYS)
                taken += 1
            dropped = self._dropped["overflow"] - before
            if taken == len(messages) and not dropped and not self._is_full():
                return Put(taken)
            return self._put_full(taken, len(messages), dropped, force)

    def _take_fitting(self, messages: Sequence[Message], force: bool) -> int:
        """Take in one step what a plain queue has room for; return how many."""
        plain = self._plain
        room = len(messages)
        if self._size is not None and not force:
            room = min(room, self._size - self._waiting)
        if plain is None or room <= 0:
            return 0
        taking = messages if room == len(messages) else messages[:room]
        size = size_of(taking)
        if self._size_bytes is not None and not force and self._bytes + size > self._size_bytes:
            return 0
        plain.extend(taking)
        self._received += room
        self._waiting += room
        self._bytes += size
        self.last_message = taking[-1]
        return room

    def _put_full(self, taken: int, offered: int, dropped: int, force: bool) -> Put:
        self._blocked = self._overflow == "block" and not force and self._is_full()
        if self._blocked and self._stretch is not None:
            self._stretch.is_over = True
        disconnect = self._overflow == "disconnect" and taken < offered
        return Put(taken, dropped, self._blocked, disconnect)

    def _make_room(self, force: bool) -> bool:
        """Say whether another message can be taken; "drop_newest" takes it only to drop it."""
        if force or self._overflow in ("drop_oldest", "drop_newest"):
            return True
        return not self._is_full()

    def _take(self, message: Message, keys: Keys) -> None:
        self._received += 1
        self.last_message = message
        if self._overflow == "drop_newest" and self._is_full() and not self._has_place(keys):
            self._dropped["overflow"] += 1
            return
        self._waiting += 1
        self._bytes += payload_bytes(message.data)
        replaced = self._store.push(message, keys)
        if replaced is not None:
            self._drop(replaced, "conflated")
        if self._overflow == "drop_oldest":
            while self._is_over() and len(self._store) > 1:
                self._drop(self._store.pop_oldest(), "overflow")

    def _has_place(self, keys: Keys) -> bool:
        store = self._store
        return isinstance(store, Keyed) and keys.conflation in store._place_of

    def _drop(self, message: Message, cause: str) -> None:
        self._leave(message)
        self._dropped[cause] += 1

    def _leave(self, message: Message) -> None:
        self._waiting -= 1
        self._bytes = max(0, self._bytes - payload_bytes(message.data)) if self._waiting else 0

    def _is_full(self) -> bool:
        return (self._size is not None and self._waiting >= self._size) or (
            self._size_bytes is not None and self._bytes >= self._size_bytes
        )

    def _is_over(self) -> bool:
        return (self._size is not None and self._waiting > self._size) or (
            self._size_bytes is not None and self._bytes > self._size_bytes
        )

    def _keys(self, messages: Sequence[Message]) -> list[Keys] | None:
        if not self._conflate and not self._ordering_key:
            return None
        return [
            Keys(self._key(self._conflate, message), self._key(self._ordering_key, message))
            for message in messages
        ]

    def _key(self, function: Callable[[Message], Any] | None, message: Message) -> Hashable:
        if function is None:
            return None
        try:
            key: Hashable = function(message)
            hash(key)
        except Exception as error:
            self._report(error)
            return None
        return key

    # --- the handling side ---

    @property
    def ready(self) -> int:
        """Messages that may be popped now: neither in hand nor parked behind one that is."""
        return self._store.ready

    @property
    def waiting(self) -> int:
        """Messages in the inbox, the ones in hand included."""
        with self._lock:
            self._settle()
            return self._waiting

    def pop(self) -> Message | None:
        """Return the next message, now in hand; ``None`` when there is none to be had."""
        with self._lock:
            return self._pop()

    def _pop(self) -> Message | None:
        if self._closed:
            return None
        return self._store.pop() if self._budget is None else self._budget.pop(self._store)

    def pop_after(self, message: Message) -> tuple[Message | None, bool]:
        """Count *message* as handled and pop the next one, in one step; see pop() and done()."""
        with self._lock:
            self._leave(message)
            self._handled += 1
            self._store.release(message)
            return self._pop(), self._blocked and self._may_resume()

    def stretch(self) -> Stretch | None:
        """
        Let the only worker there is handle messages one after the other without the lock, until
        it ends the stretch. ``None``: there are none, or here they have to be popped.
        """
        plain = self._plain
        if plain is None or not self._may_stretch:
            return None
        with self._lock:
            most = self._until_room() if self._blocked else NO_END
            if not len(plain) or len(plain) < self._waiting or most < 1:
                return None
            self._stretch = Stretch(self, most)
            return self._stretch

    def next_messages(self, stretch: Stretch) -> Iterator[Message] | None:
        """Return what is handled next in a stretch; ``None``: there are no more."""
        with self._lock:
            self._settle()
            if self._plain is None or not len(self._plain) or self._closed:
                return None
            stretch.part = self._plain.take()
            return stretch.part.messages

    def _until_room(self) -> int:
        """How many messages have to leave a full inbox before reading may resume; 0: unknown."""
        size, size_bytes = self._size, self._size_bytes
        if size is None or (size_bytes is not None and self._bytes > size_bytes // 2):
            return 0
        return self._waiting - size // 2

    def end_stretch(self, stretch: Stretch, in_hand: Message | None) -> bool:
        """See :meth:`Stretch.end`."""
        with self._lock:
            self._settle()
            self._stretch = None
            if self._plain is not None:
                self._plain.put_back(stretch.part)
                if self._size_bytes is not None and self._bytes > self._size_bytes // 2:
                    self._weigh(self._plain, in_hand)
            return self._blocked and self._may_resume()

    def _weigh(self, store: Fifo, in_hand: Message | None) -> None:
        """Measure what waits, where it matters."""
        if len(store) + (in_hand is not None) == self._waiting:
            self._bytes = store.size() + (payload_bytes(in_hand.data) if in_hand else 0)

    def _settle(self) -> None:
        """Count what has been handled in a stretch."""
        stretch = self._stretch
        if stretch is not None:
            handled = stretch.handled - stretch.counted
            stretch.counted += handled
            self._handled += handled
            self._waiting -= handled
            if not self._waiting:
                self._bytes = 0

    def count_unrouted(self) -> None:
        """A message that is handled in a stretch had no handler."""
        with self._lock:
            self._unrouted += 1

    def release(self, message: Message) -> None:
        """Let the next message of the same lane go, though this one is not done yet."""
        with self._lock:
            self._store.release(message)

    def done(self, message: Message, *, failed: bool = False, unrouted: bool = False) -> bool:
        """Count a message in hand as handled or failed; return whether reading may resume."""
        with self._lock:
            self._store.release(message)
            self._leave(message)
            if failed:
                self._failed += 1
            else:
                self._handled += 1
                self._unrouted += unrouted
            return self._blocked and self._may_resume()

    def discard(self, message: Message, cause: str) -> bool:
        """Count a message in hand as dropped; return whether reading may resume."""
        with self._lock:
            self._store.release(message)
            self._drop(message, cause)
            return self._blocked and self._may_resume()

    def _may_resume(self) -> bool:
        """Say so once, at half, so that reading does not stop and go for every message."""
        size, size_bytes = self._size, self._size_bytes
        self._blocked = (size is not None and self._waiting > size // 2) or (
            size_bytes is not None and self._bytes > size_bytes // 2
        )
        return not self._blocked

    # --- the end ---

    def close(self, cause: str = "shutdown") -> int:
        """Drop what is left, hand nothing out any more; return how many were dropped."""
        with self._lock:
            self._closed = True
            return self._drop_all(cause)

    def drop(self, cause: str) -> int:
        """Drop what waits and is not in hand; return how many were dropped."""
        with self._lock:
            return self._drop_all(cause)

    def _drop_all(self, cause: str) -> int:
        self._settle()
        dropped = self._stretch.part.cut() if self._stretch is not None else 0
        self._waiting -= dropped
        while len(self._store):
            self._leave(self._store.pop_oldest())
            dropped += 1
        if dropped:
            self._dropped[cause] += dropped
        return dropped

    def abandon(self) -> None:
        """After a fork: forget everything; the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self._closed = True
        if self._stretch is not None:
            self._stretch.part.cut()

    def counts(self) -> Counts:
        """Return the counters of this moment."""
        with self._lock:
            self._settle()
            return Counts(
                self._received,
                self._handled,
                self._failed,
                self._unrouted,
                dict(self._dropped),
                self._waiting,
                self.spooled,
            )
