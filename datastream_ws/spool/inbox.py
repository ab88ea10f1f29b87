"""
An inbox that continues in a file: what is where, and how many bytes of it.

From old to new, messages are in hand, in memory, in the file, and in the queue of those still to
be written. So memory is always older than the file, and the order of receipt is kept. The file's
thread works the queue and moves rows into memory as it empties; nobody waits for it.

With a journal everything goes through the queue, and counts as received once it is in the file.
Its row stays there until it is handled, also while it is in memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from ..handling.inbox import Inbox, Portion, Put
from ..handling.parcel import Parcel
from ..handling.stores import NO_KEYS, Keys, size_of
from ..messages import Message, Origin, memory_bytes
from .line import Line, space
from .run import Row, Run, runs_of

__all__ = ["SpooledInbox", "Wanted", "WriteBatch"]

BATCH_ROWS = 5000  # written at once, removed at once, or read ahead at once
AHEAD_ROWS = 20_000  # kept at hand
ADVANCE_ROWS = 500  # moved into memory in one step
REMOVE_SECONDS = 0.05  # how long a handled message may stay in the file while others are written
BATCH_BYTES = 4 * 2**20
RUN_BYTES = 2**20  # written at once: their space is free again when all of them are handled
QUEUE_ROWS = 10_000  # still to be written; beyond, reading stops until the disk has caught up
QUEUE_BYTES = 16 * 2**20
ROOMY = 7 / 8  # of spool_bytes: a full file is read from the socket into again below this


class Spooled(Message):
    """A message that came back from the file; *position* is its row's."""

    __slots__ = ("position",)

    def __init__(self, row: Row, origin: Origin) -> None:
        super().__init__(row.data, origin, row.seq, row.received_at)
        self.position = row.position


@dataclass(slots=True)
class WriteBatch:
    """What the file is to take up and let go of next."""

    parts: list[Sequence[Message]] = field(default_factory=list)
    removals: list[int] = field(default_factory=list)
    last: Message | None = None  # the last one received, when it is among the removals

    def __len__(self) -> int:
        """How many messages are to be written."""
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows that memory has room for, see :meth:`SpoolFile.read`."""

    after: int
    before: int | None
    count: int
    size: int


class SpooledInbox(Inbox):
    """
    See :class:`Inbox`; *overflow* is what a full file does, or one that cannot be written.

    Args:
        journal: Whether messages go through the file in any case.
        spool_bytes: Most bytes in the file; ``None``: no limit.
        gate: While it is closed nothing is moved from the file into memory.
        origin: Makes the origin of a message that an earlier process received.

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
        # Those that may be dropped from the old end are popped one by one.
        self._may_take_many = self._may_take_many and overflow != "drop_oldest"
        self.changed = threading.Condition(self._lock)
        self._journal = journal
        self._limit = spool_bytes
        self._policy = overflow
        self._gate = gate
        self._origin = lru_cache(16)(origin)
        self._queue_bytes_mark = max(1, min(QUEUE_BYTES, (spool_bytes or QUEUE_BYTES * 4) // 4))
        # Their space in the file is free again when all that were written with them are handled.
        self._run_bytes = max(1, min(RUN_BYTES, (spool_bytes or RUN_BYTES * 16) // 16))
        self._queue = Line()
        self._in_flight = 0  # of the queue, from its left: being written now
        self._filed = 0  # messages in the file and not in memory
        self._file_bytes = 0
        self._read_to = -1  # nothing up to this position is to be read any more
        # Positions of messages in the file that are not to be read: in memory, in hand, or
        # handled but not removed yet.
        self._loaded: set[int] = set()
        self._removals: list[int] = []
        self._removing_since = 0.0
        # Of the portion that a worker has, with a journal: positions from the next one handled on.
        self._portion_rows: Sequence[int] = ()
        self._is_untold = False  # some of it are to be removed, and the file's thread may sleep
        # Of a journal: the oldest of those in the file, with them in _loaded; memory takes these
        # without waiting for the file's thread.
        self._ahead = Line()
        self._ahead_keys: deque[Keys] = deque()  # of each, where messages have keys
        self._base = 0  # position of a message of this process, less its seq
        self._earlier = 0  # messages of earlier processes
        self._reading_stopped = False
        self._newest: Message | None = None  # of those in the journal, and those gone from it
        self._told = 0  # of the messages dropped by overflow, reported through put()
        self._broken = False  # the file could not be written the last time
        self._ended = False  # it is closed

    # --- facts ---

    @property
    def taken(self) -> int:
        with self._lock:
            unwritten = len(self._queue) if self._journal else 0
            return self._received - self._earlier + unwritten

    @property
    def waiting(self) -> int:
        """Messages anywhere: a drain goes on until the file is empty, too."""
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
        """Return those of messages in the order of receipt."""
        if isinstance(messages, Parcel):
            _, _, seq, _ = messages.contents
            return range(self._base + seq, self._base + seq + len(messages))
        first, last = self._position(messages[0]), self._position(messages[-1])
        if last - first == len(messages) - 1:  # nearly always
            return range(first, last + 1)
        return list(map(self._position, messages))

    # --- the receiving side, on the loop ---

    def put(self, messages: Sequence[Message], *, force: bool = False) -> Put:
        """Never waits for the file."""
        if self._journal or self._filed or self._queue:
            return self._put_behind(messages, 0, force)
        put = super().put(messages)
        if put.taken < len(messages):
            return self._put_behind(messages, put.taken, force)
        return Put(put.taken)

    def _put_behind(self, messages: Sequence[Message], start: int, force: bool) -> Put:
        """Put in the queue what comes after *start*."""
        with self._lock:
            taken = start + self._admit_fitting(messages[start:] if start else messages)
            while taken < len(messages) and self._admit(messages[taken], force):
                taken += 1
            self.changed.notify_all()
            left = taken < len(messages)
            slow = self._is_slow()
            disconnect = left and not slow and self._policy == "disconnect"
            self._reading_stopped = slow or (left and not disconnect)
            before, self._told = self._told, self._dropped["overflow"]
            return Put(taken, self._told - before, self._reading_stopped, disconnect)

    def _admit_fitting(self, messages: Sequence[Message]) -> int:
        """Take into the queue, in one step, what it has room for; return how many."""
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
        """Take a message into the queue, or only to drop it; False: it stays with the caller."""
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
        """The file has room, but the disk does not keep up: any policy stops reading for that."""
        return not self._broken and self._queue_is_long()

    def _drop_received(self, message: Message) -> None:
        """Count a message that was nowhere yet."""
        self._received += 1
        self.last_message = message
        self._dropped["overflow"] += 1

    def _drop_oldest(self, size: int) -> None:
        """Make way at the old end, where the file cannot."""
        size = self._drop_from_memory(size)
        while size > 0 and not self._filed and self._in_flight < len(self._queue):
            oldest = self._queue.pop(self._in_flight)
            self._received += self._journal
            self._dropped["overflow"] += 1
            size -= space([oldest])

    def _drop_from_memory(self, size: int) -> int:
        """Drop the oldest messages there; return how many of *size* bytes are still to go."""
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
        """Reading is resumed by the file's thread: never here."""
        room = super().done(message, failed=failed, unrouted=unrouted)
        self._is_done(message, room)
        return False

    def done_together(self, messages: Sequence[Message], *, failed: bool = False) -> bool:
        """Rows are removed in the order in which they were handled."""
        room = super().done_together(messages, failed=failed)
        first = bool(self._loaded and messages) and self._remove(self._positions(messages))
        self._tell(room, first)
        return False

    def pop_after(self, message: Message) -> tuple[Message | None, bool]:
        following, room = super().pop_after(message)
        self._is_done(message, room)
        return following, False

    def _takes_many(self) -> bool:
        """With a journal, always; else while nothing is in the file, nor on its way there."""
        return super()._takes_many() and (
            self._journal or not (self._filed or self._queue or self._loaded)
        )

    def _portion_of(self, taken: list[Message]) -> Portion:
        if self._journal:
            self._portion_rows = self._positions(taken)
        return super()._portion_of(taken)

    def _count_of_portion(self, handled: int) -> None:
        """Their rows are to be removed, as soon as anyone asks how far the portion is."""
        super()._count_of_portion(handled)
        if not handled or not self._journal:
            return
        done, self._portion_rows = self._portion_rows[:handled], self._portion_rows[handled:]
        self._is_untold = self._remove(done) or self._is_untold

    def settle(self, portion: Portion) -> bool:
        room = super().settle(portion)
        untold, self._is_untold = self._is_untold, False
        self._tell(room, untold)
        return False

    def _is_done(self, message: Message, room: bool) -> None:
        self._tell(room, bool(self._loaded) and self._remove_row(message))

    def _tell(self, room: bool, removals: bool) -> None:
        """Memory has room, or there are rows to remove: the file's thread must hear."""
        if room or removals:
            with self._lock:
                if room:
                    self._advance()
                self.changed.notify_all()

    def discard(self, message: Message, cause: str) -> bool:
        """Nothing is dropped that the file can keep."""
        with self._lock:
            self._lay_down(message)
            if self._ended and self._position(message) not in self._loaded:
                self._drop(message, cause)
            else:
                self._put_back([message])
        return False

    def _drop_all(self, cause: str) -> int:
        self._put_back(self._take_all())
        return 0

    def _put_back(self, messages: Sequence[Message]) -> None:
        """From memory into the file, where its place is before all that was received later."""
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
            # Of a journal, their file is lost: they count as received once they are in the new one.
            self._received -= len(unwritten) if self._journal else 0
            self._queue_again(unwritten)
        self.changed.notify_all()

    def _queue_again(self, messages: list[Message]) -> None:
        queued, self._queue = list(self._queue), Line()
        begun, rest = queued[: self._in_flight], queued[self._in_flight :]
        self._queue.append(begun)
        self._queue.append(sorted([*rest, *messages], key=self._position))

    def _remove_row(self, message: Message) -> bool:
        return self._remove((self._position(message),))

    def _remove(self, positions: Sequence[int]) -> bool:
        """
        Have messages removed that are in the file; return whether the file's thread must hear.

        Needs no lock: that thread looks for removals before it waits.
        """
        # One that is not in the file any more is not to be removed: the file was renewed.
        found = [each for each in positions if each in self._loaded]
        is_first = bool(found) and not self._removals
        if is_first:
            self._removing_since = time.monotonic()
        self._removals.extend(found)
        return is_first

    # --- the file's side, on its thread ---

    def opened(self, rows: int, size: int, end: int, last: Row | None) -> None:
        """Take over what earlier processes left."""
        with self._lock:
            self._base = end
            self._filed = self._earlier = rows
            self._received += rows
            self._file_bytes = size
            if last is not None and self._journal:
                found = Spooled(last, self._origin(last.epoch, last.connection))
                self._newest = self.last_message = found  # its row, too, may be removed

    def next_run(self, most: int = BATCH_ROWS, most_removed: int = BATCH_ROWS) -> WriteBatch:
        """
        Return what is to be written and removed next; the queue keeps it until it is.

        After a failure rows are removed first and alone: a full file has no page for a new row
        before enough of the old ones are gone, and what fails with the new row is done again.
        """
        with self._lock:
            self._settle()
            run = WriteBatch()
            if not (self._broken and self._removals):
                run.parts = self._queue.first(most, self._run_bytes)
            self._in_flight = len(run)
            if not run.parts or self._is_removal_due():
                count = min(most_removed, len(self._removals))
                run.removals = self._removals[:count]
                del self._removals[:count]
            if not run.parts and self._newest is not None:
                gone = self._position(self._newest) in run.removals
                run.last = self._newest if gone else None
            return run

    def _is_removal_due(self) -> bool:
        is_urgent = len(self._removals) >= BATCH_ROWS or self._is_over_limit
        return is_urgent or time.monotonic() - self._removing_since > REMOVE_SECONDS

    def runs(self, parts: Sequence[Sequence[Message]]) -> list[Run]:
        """Return what the file is to keep of messages."""
        return runs_of(chain.from_iterable(map(self._pieces, parts)))

    def _pieces(self, messages: Sequence[Message]) -> Iterator[Run]:
        if isinstance(messages, Parcel):
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
            found.append(Parcel(payloads, origin, run.seq + start, at))
            start += count
        return found

    def stored(self, run: WriteBatch, file_bytes: int) -> bool:
        """The run is in the file, which has *file_bytes*; return whether memory got something."""
        keys = self._keys_of(run.parts) if self._journal else None
        with self._lock:
            self._broken = False
            self._in_flight = 0
            self._loaded.difference_update(run.removals)
            before = self._waiting
            if run.parts:
                self._queue.drop(len(run))
                self._filed += len(run)
                if self._journal:
                    self._take_journaled(run, keys)
                else:
                    self._blocked = True  # done() is to say when memory has room for them
            self._measured(file_bytes)
            return self._waiting > before

    def _keys_of(self, parts: Sequence[Sequence[Message]]) -> list[Keys] | None:
        return self._keys(list(chain.from_iterable(parts))) if self._plain is None else None

    def _measured(self, file_bytes: int) -> None:
        self._file_bytes = file_bytes if self._filed or self._loaded else 0

    def _take_journaled(self, run: WriteBatch, keys: Sequence[Keys] | None) -> None:
        """They count as received now, and wait at hand where nothing older is in the file only."""
        self._received += len(run)
        self._note_newest(run.parts[-1][-1])
        near = self._filed - len(run) == len(self._ahead) and not self._closed
        if near and len(self._ahead) < AHEAD_ROWS and self._ahead.bytes < BATCH_BYTES:
            for messages in run.parts:
                self._look_ahead(messages)
            self._ahead_keys.extend(keys or ())
        self._advance()

    def _push_fitting(self, messages: Sequence[Message]) -> bool:
        """Move messages of the file into memory in one step, if it keeps no keys; False: not."""
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
        """Keep messages of the file at hand; all that are older are."""
        positions = self._positions(messages)
        self._loaded.update(positions)
        self._read_to = positions[-1]
        self._ahead.append(messages)

    def _advance(self) -> None:
        """Move what is at hand into memory, as far as it has room."""
        while self._ahead and not self._closed and not self._is_full():
            room = ADVANCE_ROWS if self._size is None else self._size - self._waiting
            [messages, *_] = self._ahead.first(min(room, ADVANCE_ROWS), BATCH_BYTES)
            if not self._push_fitting(messages):
                messages = messages[:1]
                self._filed -= 1
                self._push(messages[0], self._ahead_keys.popleft() if self._ahead_keys else NO_KEYS)
            self._ahead.drop(len(messages))
        if self._filed:
            self._blocked = True  # done() is to say when memory has room for it

    def _forget_ahead(self) -> None:
        """These rows are to be read again."""
        for messages in self._ahead.parts:
            positions = self._positions(messages)
            self._loaded.difference_update(positions)
            self._read_to = min(self._read_to, positions[0] - 1)
        self._ahead = Line()
        self._ahead_keys.clear()

    def _push(self, message: Message, keys: Keys) -> None:
        self._waiting += 1
        self._bytes += memory_bytes(message.data)
        self._store.push(message, keys)

    def unstorable(self, run: WriteBatch) -> None:
        """The file took nothing; it all stays as it was."""
        with self._lock:
            self._broken = True
            self._in_flight = 0
            self._removals[:0] = run.removals

    def wanted(self) -> Wanted | None:
        """Say which rows memory has room for, once it is half empty."""
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

    def _has_room(self) -> bool:
        return not self._closed and self._has_memory() and self._gate()

    def _has_memory(self) -> bool:
        if self._is_over_limit:
            return not self._is_full()
        size, size_bytes = self._size, self._size_bytes
        return (size is None or self._waiting <= size // 2) and (
            size_bytes is None or self._bytes <= size_bytes // 2
        )

    def trim(self) -> int:
        """
        Drop the oldest messages of a file that is too full, as far as they are in memory.

        Rows take their places there. Returns how many bytes of rows must be dropped, too.
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
        """Return what to read to drop the oldest rows."""
        with self._lock:
            return Wanted(self._read_to, None, BATCH_ROWS, size)

    def dropped_rows(self, runs: Sequence[Run], file_bytes: int) -> None:
        """Messages are gone from the file, unread."""
        with self._lock:
            for run in runs:
                self._filed -= len(run)
                self._dropped["overflow"] += len(run)
                self._read_to = max(self._read_to, run.positions[-1])
            self._measured(file_bytes)

    def unread(self, runs: Sequence[Run]) -> list[Run]:
        """Return of the runs what is not in memory, and was not."""
        found: list[Run] = []
        for run in runs:
            if self._loaded.isdisjoint(run.positions):
                found.append(run)
            else:
                marks = "".join(["01"[each in self._loaded] for each in run.positions])
                found.extend(run.unmarked(marks))
        return found

    def to_be_moved(self, runs: Sequence[Run]) -> list[int]:
        """Return the positions to remove before they are filled in: none of a journal."""
        return [] if self._journal else list(chain(*[run.positions for run in self.unread(runs)]))

    def fill(self, wanted: Wanted, runs: Sequence[Run], file_bytes: int, *, moved: bool) -> None:
        """Take into memory what was wanted; *moved*: it is not in the file any more."""
        with self._lock:
            found = list(chain(*map(self._messages, self.unread(runs))))
        keys = deque(self._keys_of(found) or ())
        with self._lock:
            is_next = self._read_to == wanted.after  # nothing was put back meanwhile
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
            if self._closed or not self._gate():  # since it was wanted
                self._drop_all("shutdown")

    def _fill_one(self, message: Message, keys: Keys, moved: bool) -> None:
        self._filed -= 1
        if not moved:  # it could not be removed first, as it should: once it is handled, then
            self._loaded.add(self._position(message))
        self._push(message, keys)

    def skip_file(self) -> bool:
        """From the queue into memory, where the file has nothing older; return whether any went."""
        with self._lock:
            self._settle()
            parts = self._queue.first(BATCH_ROWS, BATCH_BYTES) if self._may_skip() else []
        messages = list(chain(*parts))
        keys = self._keys(messages)
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
        """The rows in the file are gone; return how many were nowhere else: dropped."""
        with self._lock:
            at_hand, self._ahead = self._ahead, Line()
            lost, self._filed = self._filed - len(at_hand), 0
            for message in at_hand:  # they are in memory anyway: its limit is no reason now
                self._push(message, self._ahead_keys.popleft() if self._ahead_keys else NO_KEYS)
            if lost:
                self._dropped["spool"] += lost
            self._loaded.clear()
            self._removals.clear()
            self._file_bytes = 0
            return lost

    def may_read_on(self) -> bool:
        """Say once when reading, stopped for want of room, may go on."""
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

    # --- what the thread waits for; under the lock ---

    @property
    def has_queue(self) -> bool:
        return bool(self._queue)

    @property
    def has_removals(self) -> bool:
        self._settle()
        return bool(self._removals)

    @property
    def may_be_silent(self) -> bool:
        """Whether a worker may handle messages that have rows and tell of them later only."""
        return self._journal and self._may_take_many and self._waiting > 0

    @property
    def wants_rows(self) -> bool:
        if not self._journal:
            return self._filed > 0 and self._has_room()
        unread = self._filed - len(self._ahead)
        near = len(self._ahead) <= BATCH_ROWS // 2 and self._ahead.bytes <= BATCH_BYTES // 2
        return unread > 0 and near and not self._closed and self._gate()

    @property
    def may_go_on(self) -> bool:
        """Whether there is something to do without the file."""
        return self._may_skip() or (self._reading_stopped and self._has_room_again())

    # --- the end ---

    def in_hand(self) -> list[Message]:
        """Return, in order, the messages that handlers still have and no row keeps."""
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
        """The file is closed; return how many messages could not be written to it: dropped."""
        with self._lock:
            self._ended = True
            lost = len(self._queue)
            self._queue = Line()
            if lost:
                self._received += lost if self._journal else 0
                self._dropped["shutdown"] += lost
            return lost

    def abandon(self) -> None:
        super().abandon()
        self.changed = threading.Condition(self._lock)
