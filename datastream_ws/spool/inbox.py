"""
An inbox that continues in a file.

From the oldest to the newest, messages are in handlers, in memory, in the file and in the write
queue. Memory is always older than the file, so the order of receipt is kept. The spool's thread
writes the queue to the file, and moves rows into memory when it has room. Neither the receiving
side nor the handlers wait for that thread.

With a journal every message goes through the queue, and counts as received once it is in the file.
Its row stays there until the message is handled, even while it is in memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from ..handling.inbox import Inbox, Portion, Put
from ..handling.lazy_messages import LazyMessages
from ..handling.stores import NO_KEYS, Keys, size_of
from ..messages import Message, Origin, memory_bytes
from .message_queue import MessageQueue, space
from .run import Row, Run, runs_of

__all__ = ["SpooledInbox", "Wanted", "WriteBatch"]

BATCH_ROWS = 5000  # messages written, removed or read ahead at once
AHEAD_ROWS = 20_000  # messages read ahead
ADVANCE_ROWS = 500  # messages moved into memory in one step
REMOVE_SECONDS = 0.05  # how long a handled message may stay in the file while others are written
BATCH_BYTES = 4 * 2**20
RUN_BYTES = 2**20  # written at once; their space is free once all of them are handled
QUEUE_ROWS = 10_000  # messages in the write queue, above which reading from the socket stops
QUEUE_BYTES = 16 * 2**20
ROOMY = 7 / 8  # reading continues once a full file has shrunk to this part of spool_bytes


class Spooled(Message):
    """A message that an earlier process received, with its position in the file."""

    __slots__ = ("position",)

    def __init__(self, row: Row, origin: Origin) -> None:
        super().__init__(row.data, origin, row.seq, row.received_at)
        self.position = row.position


@dataclass(slots=True)
class WriteBatch:
    """
    The next changes to the file. Its length is the number of messages to write.

    Attributes:
        parts: The messages to write.
        removals: The positions of the messages to remove.
        last: The last received message, if it is among the removals. ``None`` means that it is not.

    """

    parts: list[Sequence[Message]] = field(default_factory=list)
    removals: list[int] = field(default_factory=list)
    last: Message | None = None

    def __len__(self) -> int:
        return sum(map(len, self.parts))


class Wanted(NamedTuple):
    """The arguments of :meth:`SpoolFile.read` for the messages that memory has room for."""

    after: int
    before: int | None
    most: int
    size: int


class SpooledInbox(Inbox):
    """
    An :class:`Inbox` with a spool.

    The receiving side calls it on the loop, the handling side on the handlers' threads, and the
    spool's thread calls the rest. One lock guards the state, and no method waits for the file.

    Args:
        journal: Whether all messages go through the file.
        spool_bytes: Maximum number of bytes in the file. ``None`` means no limit.
        gate: Returns whether messages may be moved from the file into memory.
        origin: Makes the origin of messages from an epoch and the number of a connection.
        overflow: The policy for a full file, and for one that cannot be written.
        limits: The other arguments of :class:`Inbox`.

    """

    def __init__(
        self,
        *,
        journal: bool,
        spool_bytes: int | None,
        gate: Callable[[], bool],
        origin: Callable[[int, int], Origin],
        overflow: str,
        **limits: Any,
    ) -> None:
        super().__init__(overflow="block", **limits)
        # With drop_oldest, any message in memory may be dropped, so workers take one at a time.
        self._may_take_many = self._may_take_many and overflow != "drop_oldest"
        self.changed = threading.Condition(self._lock)
        self._journal = journal
        self._limit = spool_bytes
        self._policy = overflow
        self._gate = gate
        self._origin = lru_cache(16)(origin)
        self._queue_bytes_mark = max(1, min(QUEUE_BYTES, (spool_bytes or QUEUE_BYTES * 4) // 4))
        # The space of a run is free only once all its messages are handled, so keep runs small.
        self._run_bytes = max(1, min(RUN_BYTES, (spool_bytes or RUN_BYTES * 16) // 16))
        self._queue = MessageQueue()
        self._in_flight = 0  # how many messages of the queue, from the oldest, are being written
        self._filed = 0  # messages in the file and not in memory
        self._file_bytes = 0
        self._read_to = -1  # messages up to this position are read, or need not be
        # Positions of messages in the file that must not be read again. They are in memory, in
        # handlers, or handled but not removed yet.
        self._loaded: set[int] = set()
        self._removals: list[int] = []
        self._removing_since = 0.0
        # With a journal, the positions of the unhandled messages of a worker's portion.
        self._portion_rows: Sequence[int] = ()
        # Whether messages of the portion are to be removed without a notification so far.
        self._must_notify = False
        # With a journal, the oldest messages in the file, read ahead. Workers can move them into
        # memory themselves, without waiting for the spool's thread. _loaded contains them.
        self._ahead = MessageQueue()
        self._ahead_keys: deque[Keys] = deque()  # the keys of each, if messages have keys
        self._base = 0  # position of a message of this process, less its seq
        self._earlier = 0  # messages of earlier processes
        self._reading_stopped = False
        self._newest: Message | None = None  # the last message that was ever in the journal
        self._reported_drops = 0  # messages dropped by overflow that put() has reported
        self._broken = False  # whether the latest write to the file failed
        self._ended = False  # whether the file is closed

    # --- facts ---

    @property
    def taken(self) -> int:
        with self._lock:
            unwritten = len(self._queue) if self._journal else 0
            return self._received - self._earlier + unwritten

    @property
    def waiting(self) -> int:
        """Number of messages in memory and in the file, because a drain must empty both."""
        with self._lock:
            self._settle()
            return self._waiting + self._filed + len(self._queue)

    @property
    def spooled(self) -> int:
        return self._filed + (0 if self._journal else len(self._queue))

    def spool_share(self) -> float | None:
        if not self._limit:
            return None
        return min(1.0, (self._file_bytes + self._queue.bytes) / self._limit)

    def _position(self, message: Message) -> int:
        return message.position if isinstance(message, Spooled) else self._base + message.seq

    def _positions(self, messages: Sequence[Message]) -> Sequence[int]:
        """Return the positions of messages that are in the order of receipt."""
        if isinstance(messages, LazyMessages):
            _, _, seq, _ = messages.contents
            return range(self._base + seq, self._base + seq + len(messages))
        first, last = self._position(messages[0]), self._position(messages[-1])
        if last - first == len(messages) - 1:  # the usual case, without a list
            return range(first, last + 1)
        return list(map(self._position, messages))

    # --- the receiving side, on the loop ---

    def put(self, messages: Sequence[Message], *, force: bool = False) -> Put:
        if self._journal or self._filed or self._queue:
            return self._put_behind(messages, 0, force)
        put = super().put(messages)
        if put.taken < len(messages):
            return self._put_behind(messages, put.taken, force)
        return Put(put.taken)

    def _put_behind(self, messages: Sequence[Message], start: int, force: bool) -> Put:
        """Add the messages from index *start* on to the write queue."""
        with self._lock:
            taken = start + self._admit_fitting(messages[start:] if start else messages)
            while taken < len(messages) and self._admit(messages[taken], force):
                taken += 1
            self.changed.notify_all()
            left = taken < len(messages)
            slow = self._is_slow()
            disconnect = left and not slow and self._policy == "disconnect"
            self._reading_stopped = slow or (left and not disconnect)
            before, self._reported_drops = self._reported_drops, self._dropped["overflow"]
            return Put(taken, self._reported_drops - before, self._reading_stopped, disconnect)

    def _admit_fitting(self, messages: Sequence[Message]) -> int:
        """Add all messages to the queue in one step if they fit. Return how many were added."""
        room = QUEUE_ROWS - len(self._queue)
        messages = messages if len(messages) <= room else messages[: max(0, room)]
        queue = self._queue.bytes + space(messages)
        if not messages or queue > self._queue_bytes_mark:
            return 0
        if self._limit is not None and self._file_bytes + queue > self._limit:
            return 0
        self._queue.append(messages)
        self._note_admitted(len(messages), messages[-1])
        return len(messages)

    def _note_admitted(self, count: int, last: Message) -> None:
        if not self._journal:
            self._received += count
            self.last_message = last

    def _admit(self, message: Message, force: bool) -> bool:
        """Add a message to the queue or drop it. Return false if the caller must keep it."""
        size = space([message])
        if not force and not self._fits(size):
            if self._is_slow() or self._policy in ("block", "disconnect"):
                return False
            if self._policy == "drop_newest":
                self._drop_received(message)
                return True
            if self._broken:
                self._drop_oldest(size)
        self._queue.append([message])
        self._note_admitted(1, message)
        return True

    def _fits(self, size: int) -> bool:
        if self._queue_is_long():
            return False
        total = self._file_bytes + self._queue.bytes
        return self._broken or not total or self._limit is None or total + size <= self._limit

    def _queue_is_long(self) -> bool:
        return len(self._queue) >= QUEUE_ROWS or self._queue.bytes >= self._queue_bytes_mark

    def _is_slow(self) -> bool:
        """Return whether the disk is too slow. Reading then stops, whatever ``overflow`` is."""
        return not self._broken and self._queue_is_long()

    def _drop_received(self, message: Message) -> None:
        """Count a message that is dropped before it was stored anywhere."""
        self._received += 1
        self.last_message = message
        self._dropped["overflow"] += 1

    def _drop_oldest(self, size: int) -> None:
        """Drop the oldest messages in memory and in the queue, because the file is broken."""
        size = self._drop_from_memory(size)
        while size > 0 and not self._filed and self._in_flight < len(self._queue):
            oldest = self._queue.pop(self._in_flight)
            self._received += self._journal
            self._dropped["overflow"] += 1
            size -= space([oldest])

    def _drop_from_memory(self, size: int) -> int:
        """Drop the oldest messages in memory. Return how many of *size* bytes are left to free."""
        while size > 0 and len(self._store):
            oldest = self._store.pop_oldest()
            self._drop(oldest, "overflow")
            self._remove_row(oldest)
            size -= space([oldest])
        while size > 0 and self._ahead:
            oldest = self._ahead.pop()
            if self._ahead_keys:
                self._ahead_keys.popleft()
            self._filed -= 1
            self._dropped["overflow"] += 1
            self._remove_row(oldest)
            size -= space([oldest])
        return size

    # --- the handling side ---

    def done(self, message: Message, *, failed: bool = False, unrouted: bool = False) -> bool:
        # It returns false, because only the spool's thread lets reading continue.
        room = super().done(message, failed=failed, unrouted=unrouted)
        self._is_done(message, room)
        return False

    def done_together(self, messages: Sequence[Message], *, failed: bool = False) -> bool:
        room = super().done_together(messages, failed=failed)
        first = bool(self._loaded and messages) and self._remove(self._positions(messages))
        self._notify(room, first)
        return False

    def pop_after(self, message: Message) -> tuple[Message | None, bool]:
        following, room = super().pop_after(message)
        self._is_done(message, room)
        return following, False

    def _takes_many(self) -> bool:
        # Without a journal a portion removes no rows, so it is used only while there are none.
        return super()._takes_many() and (
            self._journal or not (self._filed or self._queue or self._loaded)
        )

    def _portion_of(self, taken: list[Message]) -> Portion:
        if self._journal:
            self._portion_rows = self._positions(taken)
        return super()._portion_of(taken)

    def _count_of_portion(self, handled: int) -> None:
        # Called whenever the portion's progress is read. Handled messages can then be removed.
        super()._count_of_portion(handled)
        if not handled or not self._journal:
            return
        done, self._portion_rows = self._portion_rows[:handled], self._portion_rows[handled:]
        self._must_notify = self._remove(done) or self._must_notify

    def settle(self, portion: Portion) -> bool:
        room = super().settle(portion)
        must_notify, self._must_notify = self._must_notify, False
        self._notify(room, must_notify)
        return False

    def _is_done(self, message: Message, room: bool) -> None:
        self._notify(room, bool(self._loaded) and self._remove_row(message))

    def _notify(self, room: bool, removals: bool) -> None:
        """Wake the spool's thread if memory has room or there are rows to remove."""
        if room or removals:
            with self._lock:
                if room:
                    self._advance()
                self.changed.notify_all()

    def discard(self, message: Message, cause: str) -> bool:
        """Return a message to the file, or drop it if the file is closed and does not have it."""
        with self._lock:
            self._remove_in_hand(message)
            if self._ended and self._position(message) not in self._loaded:
                self._drop(message, cause)
            else:
                self._put_back([message])
        return False

    def _drop_all(self, cause: str) -> int:
        self._put_back(self._take_all())
        return 0

    def _put_back(self, messages: Sequence[Message]) -> None:
        """Return messages from memory to the file. They stay before all later ones."""
        self._forget_ahead()
        unwritten = []
        for message in messages:
            position = self._position(message)
            self._waiting -= 1
            self._bytes -= memory_bytes(message.data)
            self._read_to = min(self._read_to, position - 1)
            if position not in self._loaded:
                unwritten.append(message)
                continue
            self._loaded.remove(position)
            self._filed += 1
            if position in self._removals:
                self._removals.remove(position)
        if unwritten:
            # A journal without their rows was renewed. They count again once they are in it.
            self._received -= len(unwritten) if self._journal else 0
            self._queue_again(unwritten)
        self.changed.notify_all()

    def _queue_again(self, messages: list[Message]) -> None:
        queued, self._queue = list(self._queue), MessageQueue()
        begun, rest = queued[: self._in_flight], queued[self._in_flight :]
        self._queue.append(begun)
        self._queue.append(sorted([*rest, *messages], key=self._position))

    def _remove_row(self, message: Message) -> bool:
        return self._remove((self._position(message),))

    def _remove(self, positions: Sequence[int]) -> bool:
        """
        Note messages to remove from the file. Return whether to notify the spool's thread.

        The method needs no lock, because the thread checks for removals before it waits.
        """
        # A message that is not in the file was lost with a corrupt file, or never written.
        found = [each for each in positions if each in self._loaded]
        is_first = bool(found) and not self._removals
        if is_first:
            self._removing_since = time.monotonic()
        self._removals.extend(found)
        return is_first

    # --- the file's side, on the spool's thread ---

    def opened(self, rows: int, size: int, end: int, last: Row | None) -> None:
        """
        Take over the messages of earlier processes.

        Args:
            rows: How many messages the file has.
            size: Bytes that they take.
            end: The highest position ever used.
            last: The last message that was received. ``None`` means that there is none.

        """
        with self._lock:
            self._base = end
            self._filed = self._earlier = rows
            self._received += rows
            self._file_bytes = size
            if last is not None and self._journal:
                found = Spooled(last, self._origin(last.epoch, last.connection))
                self._newest = self.last_message = found

    def next_batch(self, most: int = BATCH_ROWS, most_removed: int = BATCH_ROWS) -> WriteBatch:
        """
        Return the next messages to write and to remove. The queue keeps them until :meth:`stored`.

        After a failure only removals are returned first. A full file has no page for a new row
        until enough old rows are removed.

        Args:
            most: Maximum number of messages to write.
            most_removed: Maximum number of messages to remove.

        """
        with self._lock:
            self._settle()
            batch = WriteBatch()
            if not (self._broken and self._removals):
                batch.parts = self._queue.first(most, self._run_bytes)
            self._in_flight = len(batch)
            if not batch.parts or self._is_removal_due():
                count = min(most_removed, len(self._removals))
                batch.removals = self._removals[:count]
                del self._removals[:count]
            if not batch.parts and self._newest is not None:
                gone = self._position(self._newest) in batch.removals
                batch.last = self._newest if gone else None
            return batch

    def _is_removal_due(self) -> bool:
        is_urgent = len(self._removals) >= BATCH_ROWS or self._is_over_limit
        return is_urgent or time.monotonic() - self._removing_since > REMOVE_SECONDS

    def runs(self, parts: Sequence[Sequence[Message]]) -> list[Run]:
        """Return the runs to write for messages."""
        return runs_of(chain.from_iterable(map(self._pieces, parts)))

    def _pieces(self, messages: Sequence[Message]) -> Iterator[Run]:
        if isinstance(messages, LazyMessages):
            payloads, origin, seq, at = messages.contents
            position, times = self._base + seq, [(len(payloads), at)]
            yield Run(position, origin.epoch, origin.connection, seq, times, payloads)
            return
        for each in messages:
            position, origin = self._position(each), each.origin
            times = [(1, each.received_at)]
            yield Run(position, origin.epoch, origin.connection, each.seq, times, [each.data])

    def row(self, message: Message) -> Row:
        origin = message.origin
        numbers = self._position(message), origin.epoch, origin.connection, message.seq
        return Row(*numbers, message.received_at, message.data)

    def _messages(self, run: Run) -> list[Sequence[Message]]:
        """Return the messages of a run of the file."""
        origin = self._origin(run.epoch, run.connection)
        if run.position - run.seq != self._base:
            return [[Spooled(row, origin) for row in run.rows()]]
        found: list[Sequence[Message]] = []
        start = 0
        for count, at in run.times:
            payloads = run.payloads[start : start + count]
            found.append(LazyMessages(payloads, origin, run.seq + start, at))
            start += count
        return found

    def stored(self, batch: WriteBatch, file_bytes: int) -> bool:
        """Record that a batch is in the file. Return whether memory got messages to handle."""
        keys = self._keys_of(batch.parts) if self._journal else None
        with self._lock:
            self._broken = False
            self._in_flight = 0
            self._loaded.difference_update(batch.removals)
            before = self._waiting
            if batch.parts:
                self._queue.drop(len(batch))
                self._filed += len(batch)
                if self._journal:
                    self._take_journaled(batch, keys)
                else:
                    self._blocked = True  # done() then reports when memory has room for them
            self._measured(file_bytes)
            return self._waiting > before

    def _keys_of(self, parts: Sequence[Sequence[Message]]) -> list[Keys] | None:
        return self._keys(list(chain.from_iterable(parts))) if self._plain is None else None

    def _measured(self, file_bytes: int) -> None:
        self._file_bytes = file_bytes if self._filed or self._loaded else 0

    def _take_journaled(self, batch: WriteBatch, keys: Sequence[Keys] | None) -> None:
        """Count written messages as received, and read them ahead if all older ones are."""
        self._received += len(batch)
        self._note_newest(batch.parts[-1][-1])
        near = self._filed - len(batch) == len(self._ahead) and not self._closed
        if near and len(self._ahead) < AHEAD_ROWS and self._ahead.bytes < BATCH_BYTES:
            for messages in batch.parts:
                self._look_ahead(messages)
            self._ahead_keys.extend(keys or ())
        self._advance()

    def _push_fitting(self, messages: Sequence[Message]) -> bool:
        """Move messages into memory in one step. Return false if they have keys or don't fit."""
        size = size_of(messages)
        if self._plain is None:
            return False
        if self._size_bytes is not None and self._bytes + size > self._size_bytes:
            return False
        self._plain.extend(messages)
        self._filed -= len(messages)
        self._waiting += len(messages)
        self._bytes += size
        return True

    def _note_newest(self, message: Message) -> None:
        newest = self._newest
        if newest is None or self._position(message) > self._position(newest):
            self._newest = self.last_message = message

    def _look_ahead(self, messages: Sequence[Message]) -> None:
        """Add messages of the file to those read ahead, which include all older ones."""
        positions = self._positions(messages)
        self._loaded.update(positions)
        self._read_to = positions[-1]
        self._ahead.append(messages)

    def _advance(self) -> None:
        """Move messages that were read ahead into memory, as far as it has room."""
        while self._ahead and not self._closed and not self._is_full():
            room = ADVANCE_ROWS if self._size is None else self._size - self._waiting
            [messages, *_] = self._ahead.first(min(room, ADVANCE_ROWS), BATCH_BYTES)
            if not self._push_fitting(messages):
                messages = messages[:1]
                self._filed -= 1
                self._push(messages[0], self._ahead_keys.popleft() if self._ahead_keys else NO_KEYS)
            self._ahead.drop(len(messages))
        if self._filed:
            self._blocked = True  # done() then reports when memory has room for them

    def _forget_ahead(self) -> None:
        """Discard the messages that were read ahead, so that they are read again."""
        for messages in self._ahead.parts:
            positions = self._positions(messages)
            self._loaded.difference_update(positions)
            self._read_to = min(self._read_to, positions[0] - 1)
        self._ahead = MessageQueue()
        self._ahead_keys.clear()

    def _push(self, message: Message, keys: Keys) -> None:
        self._waiting += 1
        self._bytes += memory_bytes(message.data)
        self._store.push(message, keys)

    def unstorable(self, batch: WriteBatch) -> None:
        """Record that a batch could not be written. Its messages stay in the queue."""
        with self._lock:
            self._broken = True
            self._in_flight = 0
            self._removals[:0] = batch.removals

    def wanted(self) -> Wanted | None:
        """Return which messages to read, once memory is half empty. ``None`` means none."""
        with self._lock:
            self._settle()
            if not self.wants_rows:
                return None
            before = self._position(self._queue.oldest) if self._queue else None
            if self._journal:
                return Wanted(self._read_to, before, BATCH_ROWS, BATCH_BYTES)
            count = BATCH_ROWS if self._size is None else self._size - self._waiting
            size = BATCH_BYTES if self._size_bytes is None else self._size_bytes - self._bytes
            return Wanted(self._read_to, before, min(BATCH_ROWS, count), min(BATCH_BYTES, size))

    def _has_memory(self) -> bool:
        if self._is_over_limit:
            return not self._is_full()
        size, size_bytes = self._size, self._size_bytes
        return (size is None or self._waiting <= size // 2) and (
            size_bytes is None or self._bytes <= size_bytes // 2
        )

    def trim(self) -> int:
        """
        Drop the oldest messages in memory if the file is too full, to make room for rows there.

        Returns:
            How many bytes of rows must also be dropped from the file.

        """
        with self._lock:
            if not self._is_over_limit:
                return 0
            return self._drop_from_memory(self._file_bytes - (self._limit or 0))

    @property
    def _is_over_limit(self) -> bool:
        over = self._limit is not None and self._file_bytes > self._limit
        return over and self._policy == "drop_oldest"

    def first_rows(self, size: int) -> Wanted:
        """Return which messages to read in order to drop the oldest *size* bytes."""
        with self._lock:
            return Wanted(self._read_to, None, BATCH_ROWS, size)

    def dropped_rows(self, runs: Sequence[Run], file_bytes: int) -> None:
        """Record that messages were dropped from the file without being read."""
        with self._lock:
            for run in runs:
                self._filed -= len(run)
                self._dropped["overflow"] += len(run)
                self._read_to = max(self._read_to, run.positions[-1])
            self._measured(file_bytes)

    def unread(self, runs: Sequence[Run]) -> list[Run]:
        """Return the parts of runs that were never moved into memory."""
        found: list[Run] = []
        for run in runs:
            if self._loaded.isdisjoint(run.positions):
                found.append(run)
            else:
                marks = "".join(["01"[each in self._loaded] for each in run.positions])
                found.extend(run.unmarked(marks))
        return found

    def fill(self, wanted: Wanted, runs: Sequence[Run], file_bytes: int, *, moved: bool) -> None:
        """
        Move messages into memory.

        Args:
            wanted: The result of :meth:`wanted`.
            runs: The messages that were read for it.
            file_bytes: Bytes that all runs take in the file.
            moved: Whether the messages were removed from the file.

        """
        with self._lock:
            found = list(chain(*map(self._messages, self.unread(runs))))
        keys = deque(self._keys_of(found) or ())
        with self._lock:
            is_next = self._read_to == wanted.after  # otherwise messages were put back meanwhile
            if self._journal and is_next:
                for messages in found:
                    self._look_ahead(messages)
                self._ahead_keys.extend(keys)
            if not self._journal:
                for message in chain(*found):
                    self._fill_one(message, keys.popleft() if keys else NO_KEYS, moved)
            if is_next:
                self._read_to = max(self._read_to, runs[-1].positions[-1])
            self._measured(file_bytes)
            self._advance()
            self._blocked = True
            if self._closed or not self._gate():  # both may have changed since wanted()
                self._drop_all("shutdown")

    def _fill_one(self, message: Message, keys: Keys, moved: bool) -> None:
        self._filed -= 1
        if not moved:  # the file could not remove it, so remove it once it is handled
            self._loaded.add(self._position(message))
        self._push(message, keys)

    def skip_file(self) -> bool:
        """
        Move messages from the queue into memory, if the file has no older ones.

        Return whether any were moved.
        """
        with self._lock:
            self._settle()
            parts = self._queue.first(BATCH_ROWS, BATCH_BYTES) if self._may_skip() else []
        messages = list(chain(*parts))
        keys = self._keys_of(parts)
        with self._lock:
            if not messages or not self._queue or self._queue.oldest != messages[0]:
                return False
            taken = 0
            while taken < len(messages) and self._may_skip():
                self._push(messages[taken], keys[taken] if keys else NO_KEYS)
                self._blocked = True
                taken += 1
            self._queue.drop(taken)
            return taken > 0

    def _may_skip(self) -> bool:
        return (
            bool(self._queue)
            and not self._journal
            and not self._filed
            and not self._in_flight
            and not self._closed
            and not self._is_full()
            and self._gate()
        )

    def lose_file(self) -> int:
        """Record that all rows are lost. Return how many messages were only in the file."""
        with self._lock:
            at_hand, self._ahead = self._ahead, MessageQueue()
            lost, self._filed = self._filed - len(at_hand), 0
            for message in at_hand:  # regardless of the limit, because they are in memory anyway
                self._push(message, self._ahead_keys.popleft() if self._ahead_keys else NO_KEYS)
            if lost:
                self._dropped["spool"] += lost
            self._loaded.clear()
            self._removals.clear()
            self._file_bytes = 0
            return lost

    def may_read_on(self) -> bool:
        """Return true once when reading, which stopped for lack of room, may continue."""
        with self._lock:
            if not self._reading_stopped or not self._has_room_again():
                return False
            self._reading_stopped = False
            return True

    def _has_room_again(self) -> bool:
        if len(self._queue) > QUEUE_ROWS // 2 or self._queue.bytes > self._queue_bytes_mark // 2:
            return False
        total = self._file_bytes + self._queue.bytes
        return self._broken or self._limit is None or total <= self._limit * ROOMY

    # --- conditions that the spool's thread waits for, under the lock ---

    @property
    def has_queue(self) -> bool:
        return bool(self._queue)

    @property
    def has_removals(self) -> bool:
        self._settle()
        return bool(self._removals)

    @property
    def may_be_silent(self) -> bool:
        """Whether a worker may have handled messages with rows without notifying the thread."""
        return self._journal and self._may_take_many and self._waiting > 0

    @property
    def wants_rows(self) -> bool:
        if not self._journal:
            return self._filed > 0 and not self._closed and self._has_memory() and self._gate()
        unread = self._filed - len(self._ahead)
        near = len(self._ahead) <= BATCH_ROWS // 2 and self._ahead.bytes <= BATCH_BYTES // 2
        return unread > 0 and near and not self._closed and self._gate()

    @property
    def may_go_on(self) -> bool:
        """Whether there is work that does not need the file."""
        return self._may_skip() or (self._reading_stopped and self._has_room_again())

    # --- the end ---

    def in_hand(self) -> list[Message]:
        """Return, in order, the messages in handlers that are not in the file."""
        if self._journal:
            return []
        with self._lock:
            found = list(self._in_hand.values())
            if self._portion is not None and (message := self._portion.in_hand) is not None:
                found.append(message)
            kept = self._loaded.difference(self._removals)
            found = [message for message in found if self._position(message) not in kept]
            return sorted(found, key=self._position)

    def end(self) -> int:
        """Drop the queue, because the file is closed. Return how many messages were dropped."""
        with self._lock:
            self._ended = True
            lost = len(self._queue)
            self._queue = MessageQueue()
            if lost:
                self._received += lost if self._journal else 0
                self._dropped["shutdown"] += lost
            return lost

    def abandon(self) -> None:
        super().abandon()
        self.changed = threading.Condition(self._lock)
