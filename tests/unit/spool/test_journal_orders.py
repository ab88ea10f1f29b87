"""
A journal in any order of events: puts, writes, reads, handlers that end in any order, crashes.

The file's thread is stepped by hand, and a crash leaves the file as it was committed last.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datastream_ws.codecs import codec_for
from datastream_ws.handling.inbox import Portion
from datastream_ws.handling.lazy_messages import LazyMessages
from datastream_ws.messages import Message, Origin
from datastream_ws.spool import SpooledInbox, SpoolThread
from datastream_ws.spool.run import decode

CODEC = codec_for("json")
KEYS = 3


def origin(epoch: int, connection: int) -> Origin:
    return Origin("test", connection, epoch, CODEC, "type")


def number(message: Message) -> int:
    return int(message.data)


def key(message: Message) -> int:
    return number(message) % KEYS


class Journal:
    """Numbers are sent in order; a server resumes after the last one that was received."""

    def __init__(self, folder: str, seed: int, has_lanes: bool, size: int | None) -> None:
        self.path = str(Path(folder) / "spool.db")
        self.chance = random.Random(seed)
        self.has_lanes, self.size = has_lanes, size
        self.epoch = 0
        self.handled: set[int] = set()
        self.forgotten: set[int] = set()  # handled, and their rows are gone for good
        self.received = 0  # the highest number in the file, ever
        self.errors: list[BaseException] = []
        self.open()

    def open(self) -> None:
        self.epoch += 1
        self.inbox = SpooledInbox(
            journal=True,
            spool_bytes=None,
            gate=lambda: True,
            origin=origin,
            overflow="block",
            size=self.size,
            ordering_key=key if self.has_lanes else None,
            report=self.errors.append,
        )
        self.thread = SpoolThread(
            self.path,
            "test",
            self.inbox,
            journal=True,
            wake=lambda: None,
            on_room=lambda: None,
            report=self.errors.append,
        )
        self.thread._file = self.thread._open_file()
        self.seq = 0
        self.handled_here: set[int] = set()  # by this process
        self.order: dict[int, list[int]] = defaultdict(list)  # as begun, in this process
        self.in_hand: list[Message] = []
        last = self.inbox.last_message
        assert (0 if last is None else number(last)) == self.received, "the server resumes there"
        self.sent = self.received

    # --- what may happen ---

    def put(self) -> None:
        count = self.chance.randint(1, 12)
        texts: list[str | bytes] = [str(self.sent + n) for n in range(1, count + 1)]
        made: Sequence[Message] = LazyMessages(texts, origin(self.epoch, 1), self.seq + 1, 1.0)
        if self.chance.random() < 0.3:  # what a request waits for is made at once
            made = list(made)
        self.sent += count
        self.seq += count
        assert self.inbox.put(made).taken == count

    def step(self) -> None:
        """What the file's thread does when it is woken."""
        self.thread._step()
        self.note_committed()

    def write_in_part(self) -> None:
        self.thread._most = self.thread._most_removed = self.chance.randint(1, 5)
        self.thread._write()
        self.note_committed()

    def take(self) -> None:
        with_lanes = self.has_lanes and len(self.in_hand) < KEYS
        if (with_lanes or not self.in_hand) and (message := self.inbox.pop()) is not None:
            self.note_begun(message)
            self.in_hand.append(message)

    def finish(self) -> None:
        if self.in_hand:
            message = self.in_hand.pop(self.chance.randrange(len(self.in_hand)))
            self.inbox.done(message)
            self.note_handled(message)

    def give_back(self) -> None:
        """A postponed message at the end of a tenure."""
        if self.in_hand and not self.has_lanes:
            message = self.in_hand.pop()
            self.order[0].remove(number(message))
            self.inbox.drop("lease_lost")  # comes first: nothing newer stays in memory
            self.inbox.discard(message, "lease_lost")

    def take_many(self) -> None:
        if not self.has_lanes:  # the only worker
            self.finish()
        portion = self.inbox.pop_many()
        if portion is None:
            return
        self.handle_of(portion, self.chance.randrange(9))
        if self.chance.random() < 0.5:  # as the file's thread does while a handler takes long
            self.step()
        last = portion.in_hand
        if last is not None and self.chance.random() < 0.5:
            self.note_handled(last)
            portion.in_hand = last = None
        self.inbox.settle(portion)
        if last is not None:
            self.in_hand.append(last)

    def handle_of(self, portion: Portion, count: int) -> None:
        with suppress(IndexError):
            for message in islice(portion.taken(), count):
                if portion.in_hand is not None:
                    self.note_handled(portion.in_hand)
                portion.in_hand = message
                self.note_begun(message)

    def drop_what_waits(self) -> None:
        """The end of a tenure: it goes back into the file."""
        self.inbox.drop("lease_lost")

    def end(self, how: str = "") -> None:
        how = how or self.chance.choice(["crash", "crash after a write", "restart"])
        if how == "restart":
            self.inbox.close()
            self.thread._finish()
            assert not self.errors
            assert not self.rows() & self.handled_here, "handled, and still in the file"
        elif how == "crash after a write":  # the process did not live to know of it
            run = self.inbox.next_batch()
            if run.parts or run.removals:
                self.thread._write_batch(run)
        self.note_committed()
        self.die()

    def die(self) -> None:
        self.thread._file._db.close()
        self.thread._file._lock.release()
        self.open()

    # --- what must be true ---

    def note_begun(self, message: Message) -> None:
        found = number(message)
        assert found not in self.forgotten, "handled, committed, and handed out again"
        self.order[key(message) if self.has_lanes else 0].append(found)

    def note_handled(self, message: Message) -> None:
        self.handled.add(number(message))
        self.handled_here.add(number(message))

    def rows(self) -> set[int]:
        return {
            int(each)
            for run in self.thread._file.read(-1, None, 10_000, 2**30)
            for each in run.payloads
        }

    def note_committed(self) -> None:
        rows = self.rows()
        db = self.thread._file._db
        [kept] = db.execute("SELECT max(position), data FROM last").fetchall()
        runs = db.execute("SELECT * FROM runs ORDER BY first DESC LIMIT 1").fetchall()
        newest = [decode(run).rows()[-1] for run in runs]
        last = max([0, *([int(kept[1])] if kept[1] else []), *[int(each.data) for each in newest]])
        self.received = max(self.received, last)
        self.forgotten = {each for each in self.handled if each not in rows}
        missing = set(range(1, self.received + 1)) - rows - self.handled
        assert not missing, f"neither handled nor in the file: {sorted(missing)}"

    def counts_add_up(self) -> None:
        c = self.inbox.counts()
        assert c.received == c.handled + c.failed + sum(c.dropped.values()) + c.waiting + c.spooled
        assert not c.dropped

    def in_order(self) -> None:
        for numbers in self.order.values():
            assert all(before < after for before, after in pairwise(numbers)), numbers

    def finish_all(self) -> None:
        """Every message that was received is handled in the end."""
        while self.in_hand:
            self.finish()
        self.end("restart")
        for _ in range(self.sent + 10):
            self.thread._step()
            while (message := self.inbox.pop()) is not None:
                self.note_begun(message)
                self.inbox.done(message)
                self.note_handled(message)
        self.in_order()
        self.end("restart")
        assert not self.rows()
        assert set(range(1, self.received + 1)) <= self.handled
        assert self.inbox.counts().waiting == self.inbox.counts().spooled == 0

        self.thread._file.close()


MOVES = {
    Journal.put: 6,
    Journal.step: 8,
    Journal.write_in_part: 2,
    Journal.take: 6,
    Journal.finish: 6,
    Journal.give_back: 1,
    Journal.take_many: 6,
    Journal.drop_what_waits: 1,
    Journal.end: 1,
}


@given(seed=st.integers(0, 2**32), has_lanes=st.booleans(), size=st.sampled_from([None, 1, 3, 40]))
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
def test_any_order_of_events_loses_nothing_and_keeps_the_order(
    seed: int, has_lanes: bool, size: int | None
) -> None:
    """At least once, in order for each key, and not again once that was committed."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(folder, seed, has_lanes, size)
        for move in journal.chance.choices(list(MOVES), list(MOVES.values()), k=120):
            move(journal)
            journal.counts_add_up()
            journal.in_order()
        journal.finish_all()
