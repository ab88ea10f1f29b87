"""
Hold messages between the socket and the handlers.

The inbox alone decides about limits, overflow, conflation and order per key. It has no threads and
no event loop, and one lock guards its state. The receiving side puts messages in. The handling side
pops them one by one and marks each as done. A single worker takes a portion at once instead.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any, NamedTuple

from ..messages import Message, memory_bytes
from ..stats import Counts
from .budget import Budget
from .stores import NO_KEYS, Fifo, Keyed, Keys, Store, size_of

__all__ = ["Inbox", "Portion", "Put"]

PORTION = 100  # most messages in a portion


class Put(NamedTuple):
    """
    The result of :meth:`Inbox.put`.

    Attributes:
        taken: How many messages, counted from the first, the inbox accepted, including those it
            dropped.
        dropped: How many messages, new or old, overflow dropped.
        untaken: How many old messages were dropped because nothing takes messages.
        full: Whether the caller must stop reading until :meth:`Inbox.done` returns True.
        disconnect: Whether the overflow policy demands that the connection ends.

    """

    taken: int
    dropped: int = 0
    full: bool = False
    disconnect: bool = False
    untaken: int = 0


class Portion:
    """
    Messages that the only worker has taken at once.

    They count as waiting until the worker begins them. A portion keeps no reference to handled
    messages, because a hundred decoded messages would not fit into the processor's cache.

    The worker iterates over :meth:`taken` and stores each message in :attr:`in_hand`, without a
    lock. Other threads see both steps as one, because the interpreter does not switch threads
    between them.

    Attributes:
        left: The messages not begun yet. The worker takes them from the left. The inbox takes back
            from the right.
        in_hand: The message that is being handled. ``None`` before the first one, and once all
            begun messages are handled.

    """

    __slots__ = ("_counted", "_size", "in_hand", "left")

    def __init__(self, taken: list[Message]) -> None:
        self._size = len(taken)
        self._counted = 0
        self.left = deque(taken)
        self.in_hand: Message | None = None

    def taken(self) -> Iterator[Message]:
        """Return an iterator that takes messages; it raises IndexError when none is left."""
        return map(deque.popleft, repeat(self.left))

    @property
    def begun(self) -> int:
        """How many messages the worker has begun."""
        return self._size - len(self.left)

    def count(self) -> int:
        """Return how many messages have been handled since the previous call."""
        before, self._counted = self._counted, self.begun - (self.in_hand is not None)
        return self._counted - before

    @property
    def oldest(self) -> Message | None:
        """The oldest message that is not handled. ``None`` means that all are handled."""
        with suppress(IndexError):  # the worker took it between the two expressions
            return self.in_hand or self.left[0]
        return self.in_hand

    def take_back(self) -> list[Message]:
        """Remove and return, in order, the messages not begun yet. It's thread-safe."""
        if not self.left:
            return []
        back: deque[Message] = deque()
        with suppress(IndexError):
            while True:
                back.appendleft(self.left.pop())
        self._size -= len(back)
        return list(back)


class Inbox:
    """
    Messages that are received but not handled yet. The methods are thread-safe.

    Args:
        size, size_bytes: Most messages, and most bytes of memory, including messages that are being
            handled. ``None`` means no limit.
        overflow: The policy of a full inbox, see :class:`ClientOptions`.
        conflate, ordering_key: The user's callables. They are called outside the lock.
        report: Receives what these callables raise. Such a message has no key.
        budget: Limits how many messages may be popped. ``None`` means no limit.

    Attributes:
        is_untaken: Returns whether nothing takes messages at the moment, so that the oldest are
            dropped when the inbox is full.
        finished: Popped messages that are handled. A finalizer appends to it without the lock,
            because it may run in a thread that holds the lock. :meth:`settle_finished` counts them.

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
        self._plain = self._store if isinstance(self._store, Fifo) else None
        # A tenth, so that reading resumes at about half the size even if handlers are slow.
        self._most = PORTION if size is None else min(PORTION, max(1, size // 10))
        # A budget counts messages as they are popped, so none may be taken early.
        self._may_take_many = self._plain is not None and budget is None
        self._portion: Portion | None = None
        self._in_hand: dict[int, Message] = {}
        self.is_untaken: Callable[[], bool] = lambda: False
        self.finished: list[Message] = []
        self._lock = threading.Lock()
        self._closed = False
        self._blocked = False
        self._bytes = 0  # an upper bound: portions leave without being measured
        self._received = self._handled = self._failed = self._unrouted = 0
        self._dropped: Counter[str] = Counter()
        self._waiting = 0  # in the store, in the portion or being handled
        self.last_message: Message | None = None

    # --- the receiving side ---

    @property
    def received(self) -> int:
        return self._received

    @property
    def taken(self) -> int:
        """Messages put in so far, including those that do not count as received yet."""
        return self._received

    @property
    def spooled(self) -> int:
        """Received messages that exist in a file only."""
        return 0

    def put(self, messages: Sequence[Message], *, force: bool = False) -> Put:
        """
        Take messages in.

        With ``overflow="block"``, the caller keeps the messages after ``taken``, and puts them in
        again once there is room.

        Args:
            force: Accept all messages, whatever the limits.

        """
        keys: list[Keys] | None = None
        if self._plain is None:
            messages = list(messages)
            keys = self._keys(messages)
        with self._lock:
            self._settle()
            taken = self._take_fitting(messages, force)
            if taken == len(messages) and not self._is_full():
                return Put(taken)
            return self._put_rest(messages, keys, taken, force)

    def _put_rest(
        self, messages: Sequence[Message], keys: list[Keys] | None, taken: int, force: bool
    ) -> Put:
        """Put in the messages from index *taken* on one by one, and apply the overflow policy."""
        overflow = "untaken" if self.is_untaken() else self._overflow
        before = self._dropped["overflow"], self._dropped["untaken"]
        if overflow in ("drop_oldest", "untaken"):
            self._take_back_portion()
        for index in range(taken, len(messages)):
            if not force and overflow in ("block", "disconnect") and self._is_full():
                break
            self._take(messages[index], keys[index] if keys else NO_KEYS, overflow)
            taken += 1
        dropped = self._dropped["overflow"] - before[0]
        untaken = self._dropped["untaken"] - before[1]
        if taken == len(messages) and not dropped and not self._is_full():
            return Put(taken, untaken=untaken)
        self._blocked = overflow == "block" and not force and self._is_full()
        disconnect = overflow == "disconnect" and taken < len(messages)
        return Put(taken, dropped, self._blocked, disconnect, untaken)

    def _take_fitting(self, messages: Sequence[Message], force: bool) -> int:
        """Accept at once as many messages as a plain queue has room for; return their number."""
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

    def recall(self) -> None:
        """Return to the store the messages that the only worker has taken but not begun."""
        with self._lock:
            self._take_back_portion()

    def _take_back_portion(self) -> None:
        """Return messages not begun yet to the store, so that the oldest can be dropped."""
        if self._portion is not None and self._plain is not None:
            self._plain.give_back(self._portion.take_back())
            self._measure(self._portion.in_hand)

    def _measure(self, taken: Message | None = None) -> None:
        """Recompute the bytes if the upper bound may be too high to decide about limits."""
        if self._plain is None or self._size_bytes is None or self._bytes <= self._size_bytes // 2:
            return
        in_hand = [*self._in_hand.values(), *(() if taken is None else (taken,))]
        self._bytes = self._plain.size + size_of(in_hand)

    def _take(self, message: Message, keys: Keys, overflow: str) -> None:
        self._received += 1
        self.last_message = message
        if overflow == "drop_newest" and self._is_full() and not self._store.has_place(keys):
            self._dropped["overflow"] += 1
            return
        self._waiting += 1
        self._bytes += memory_bytes(message.data)
        replaced = self._store.push(message, keys)
        if replaced is not None:
            self._drop(replaced, "conflated")
        if overflow in ("drop_oldest", "untaken"):
            cause = "untaken" if overflow == "untaken" else "overflow"
            while self._is_over() and len(self._store) > 1:
                self._drop(self._store.pop_oldest(), cause)

    def count_inline(self, handled: int, failed: int) -> None:
        """
        Count messages that inline handlers handled or failed, and that never entered the store.
        """
        with self._lock:
            self._received += handled + failed
            self._handled += handled
            self._failed += failed
        if self._budget is not None:
            for _ in range(handled + failed):
                self._budget.spend()

    @property
    def is_budgeted(self) -> bool:
        """Whether each message must be counted before the next one is handled."""
        return self._budget is not None

    def _drop(self, message: Message, cause: str) -> None:
        self._leave(message)
        self._dropped[cause] += 1
        if cause == "lease_lost":
            self._forget_last(message)

    def _forget_last(self, dropped: Message) -> None:
        """Have the client not resume behind a message that was dropped with its tenure."""
        last = self.last_message
        if last is not None and last.epoch <= dropped.epoch:
            self.last_message = None

    def _leave(self, message: Message) -> None:
        self._waiting -= 1
        self._bytes = max(0, self._bytes - memory_bytes(message.data)) if self._waiting else 0

    def _is_full(self) -> bool:
        return (self._size is not None and self._waiting >= self._size) or (
            self._size_bytes is not None and self._bytes >= self._size_bytes
        )

    def _is_over(self) -> bool:
        return (self._size is not None and self._waiting > self._size) or (
            self._size_bytes is not None and self._bytes > self._size_bytes
        )

    def _keys(self, messages: Sequence[Message]) -> list[Keys]:
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
        except BaseException as error:  # it would end the connection
            self._report(error)
            return None
        return key

    # --- the handling side ---

    @property
    def ready(self) -> int:
        """Messages that can be popped now: no other message of their lane is being handled."""
        return self._store.ready

    @property
    def waiting(self) -> int:
        """Messages in the inbox, including those being handled."""
        with self._lock:
            self._settle()
            return self._waiting

    def oldest_waiting(self) -> float | None:
        """Return the seconds that the oldest message has waited. ``None`` means that none waits."""
        with self._lock:
            in_hand = next(iter(self._in_hand.values()), None)
            taken = None if self._portion is None else self._portion.oldest
            found = (in_hand, taken, self._store.oldest())
            times = [message.received_at for message in found if message is not None]
        return max(0.0, time.time() - min(times)) if times else None

    def share(self) -> float | None:
        """Return how full the inbox is, from 0 to 1. ``None`` means that it has no limit."""
        limits = (self._waiting, self._size), (self._bytes, self._size_bytes)
        shares = [used / limit for used, limit in limits if limit]
        return min(1.0, max(shares)) if shares else None

    def spool_share(self) -> float | None:
        """Return how full the spool file is, from 0 to 1. ``None`` means no file, or no limit."""
        return None

    def pop(self) -> Message | None:
        """
        Remove and return the next message, which then counts as being handled.

        ``None`` means that no message is ready, that the budget is spent, or that the inbox is
        closed.
        """
        with self._lock:
            return self._pop()

    def _pop(self) -> Message | None:
        if self._closed:
            return None
        message = self._store.pop() if self._budget is None else self._budget.pop(self._store)
        if message is not None:
            self._in_hand[id(message)] = message
        return message

    def pop_after(self, message: Message) -> tuple[Message | None, bool]:
        """
        Count *message* as handled and pop the next one, under one lock.

        Returns:
            The result of :meth:`pop`, and whether reading may resume, as :meth:`done` does.

        """
        with self._lock:
            self._remove_in_hand(message)
            self._leave(message)
            self._handled += 1
            return self._pop(), self._blocked and self._may_resume()

    def pop_many(self, most: int = PORTION) -> Portion | None:
        """
        Take up to *most* messages for the only worker, until it settles the portion.

        ``None`` means that the inbox is empty or closed, that messages must be popped one by one,
        or that a portion is not settled yet.
        """
        with self._lock:
            if self._plain is None or self._closed or not self._takes_many():
                return None
            if self._portion is not None:
                return None
            taken = self._plain.pop_many(min(most, self._most))
            self._portion = self._portion_of(taken) if taken else None
            return self._portion

    def _portion_of(self, taken: list[Message]) -> Portion:
        return Portion(taken)

    def pop_together(self, most: int) -> list[Message]:
        """
        Pop up to *most* messages, which then count as being handled.

        The list is empty if there are none, or if messages must be popped one by one.
        """
        with self._lock:
            if self._plain is None or self._closed or not self._takes_many():
                return []
            taken = self._plain.pop_many(most)
            self._in_hand.update(zip(map(id, taken), taken, strict=True))
            return taken

    def _takes_many(self) -> bool:
        return self._may_take_many

    def settle(self, portion: Portion) -> bool:
        """
        Count the handled messages of a portion and take the rest back.

        A message that was begun but not handled now counts as being handled, as if popped.

        Returns:
            Whether reading may resume.

        """
        with self._lock:
            self._settle()
            self._portion = None
            if (message := portion.in_hand) is not None:
                self._in_hand[id(message)] = message
            if self._plain is not None:
                self._plain.give_back(portion.take_back())
                self._measure()
            return self._blocked and self._may_resume()

    def _settle(self) -> None:
        """Count the messages of the current portion that have been handled so far."""
        if self._portion is not None:
            self._count_of_portion(self._portion.count())

    def _count_of_portion(self, handled: int) -> None:
        """Count the next *handled* messages of the portion as handled."""
        self._handled += handled
        self._waiting -= handled
        if not self._waiting:
            self._bytes = 0

    def settle_finished(self) -> bool:
        """Count the messages in ``finished`` as handled; return whether reading may resume."""
        room = False
        with suppress(IndexError):
            while True:
                room = self.done(self.finished.pop(0)) or room
        return room

    def count_unrouted(self) -> None:
        """Count a message of a portion that has no handler."""
        with self._lock:
            self._unrouted += 1

    def release(self, message: Message) -> None:
        """Free the message's lane for the next message, although this one is not done yet."""
        with self._lock:
            self._store.release(message)

    def done(self, message: Message, *, failed: bool = False, unrouted: bool = False) -> bool:
        """Count a popped message as handled or failed; return whether reading may resume."""
        with self._lock:
            self._remove_in_hand(message)
            self._leave(message)
            self._failed += failed
            self._handled += not failed
            self._unrouted += unrouted
            return self._blocked and self._may_resume()

    def done_together(self, messages: Sequence[Message], *, failed: bool = False) -> bool:
        """Do the work of :meth:`done` for several messages at once."""
        with self._lock:
            if self._plain is None:
                for message in messages:
                    self._remove_in_hand(message)
                    self._leave(message)
            else:  # measured only if necessary, see _measure()
                for key in map(id, messages):
                    self._in_hand.pop(key, None)
                self._waiting -= len(messages)
                self._measure()
                self._bytes = self._bytes if self._waiting else 0
            if failed:
                self._failed += len(messages)
            else:
                self._handled += len(messages)
            return self._blocked and self._may_resume()

    def _remove_in_hand(self, message: Message) -> None:
        """Remove a message from those being handled, and free its lane."""
        self._in_hand.pop(id(message), None)
        self._store.release(message)

    def discard(self, message: Message, cause: str) -> bool:
        """Count a popped message as dropped; return whether reading may resume."""
        with self._lock:
            self._remove_in_hand(message)
            self._drop(message, cause)
            return self._blocked and self._may_resume()

    def _may_resume(self) -> bool:
        """
        Return whether reading may resume after a block; True once, at half of the limits.

        Resuming at the limit itself would pause and resume reading for every message.
        """
        size, size_bytes = self._size, self._size_bytes
        self._blocked = (size is not None and self._waiting > size // 2) or (
            size_bytes is not None and self._bytes > size_bytes // 2
        )
        return not self._blocked

    # --- the end ---

    def close(self, cause: str = "shutdown") -> int:
        """
        Drop all messages that are not being handled, and return no more. Return the number dropped.
        """
        with self._lock:
            self._closed = True
            return self._drop_all(cause)

    def drop(self, cause: str) -> int:
        """Drop the messages that are not being handled, and return the number dropped."""
        with self._lock:
            return self._drop_all(cause)

    def _drop_all(self, cause: str) -> int:
        messages = self._take_all()
        for message in messages:
            self._leave(message)
        if messages:
            self._dropped[cause] += len(messages)
            if cause == "lease_lost":
                self._forget_last(messages[-1])
        return len(messages)

    def _take_all(self) -> list[Message]:
        """Remove and return, from old to new, the messages that are not being handled."""
        self._settle()
        messages = [] if self._portion is None else self._portion.take_back()
        while len(self._store):
            messages.append(self._store.pop_oldest())
        return messages

    def abandon(self) -> None:
        """
        Close and drop the portion after a fork; the lock is replaced, because a thread may hold it.
        """
        self._lock = threading.Lock()
        self._closed = True
        if self._portion is not None:
            self._portion.take_back()

    def counts(self) -> Counts:
        """Return the counters as of now."""
        self.settle_finished()
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
