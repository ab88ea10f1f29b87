"""The file of a spool, who may have it, and what is where; without a client."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from datastream_ws.codecs import codec_for
from datastream_ws.exceptions import SpoolError
from datastream_ws.handling.inbox import Portion
from datastream_ws.messages import Message, Origin
from datastream_ws.spool import SpooledInbox, SpoolThread, file_lock
from datastream_ws.spool import file as module
from datastream_ws.spool.file import SpoolFile
from datastream_ws.spool.file_lock import check_files, path_for
from datastream_ws.spool.message_queue import space
from datastream_ws.spool.run import Corrupt, Row, run_of, runs_of
from kit import spoolfile

CODEC = codec_for("json")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


@pytest.fixture
def file(path: str) -> Iterator[SpoolFile]:
    spool_file = SpoolFile(path)
    yield spool_file
    spool_file.close()


def row(position: int, data: str | bytes = "{}") -> Row:
    return Row(position, 1_700_000_000_000, 3, position + 7, 1_763_876_711.1234567, data)


def put(file: SpoolFile, rows: Iterable[Row]) -> None:
    file.write(runs_of(map(run_of, rows)), [])


def got(file: SpoolFile, *limits: Any) -> list[Row]:
    return [found for run in file.read(*limits) for found in run.rows()]


# --- the file ---


@pytest.mark.parametrize(
    "data",
    ["", "text", "ü – 🙂", 'a"b\\c\n', "before\0after", b"", b"\x00\xff", "x" * 100_000],
    ids=["empty", "ascii", "unicode", "escapes", "nul", "no bytes", "bytes", "long"],
)
def test_a_row_comes_back_as_it_was(file: SpoolFile, data: str | bytes) -> None:
    put(file, [row(1, data)])
    assert got(file, 0, None, 10, 2**20) == [row(1, data)]


def test_any_time_comes_back_exactly(file: SpoolFile) -> None:
    times = [random.Random(1).uniform(1.6e9, 2.2e9) for _ in range(1000)]
    put(file, [row(n)._replace(received_at=at) for n, at in enumerate(times)])
    assert [r.received_at for r in got(file, -1, None, 1000, 2**20)] == times


def test_rows_are_read_in_order_within_limits(file: SpoolFile) -> None:
    put(file, [row(n, "x" * 10) for n in (5, 1, 9, 3, 7)])
    assert [r.position for r in got(file, 1, 9, 10, 2**20)] == [3, 5, 7]
    assert [r.position for r in got(file, 0, None, 2, 2**20)] == [1, 3]
    assert [r.position for r in got(file, 0, None, 100, 25)] == [1, 3, 5]
    assert [r.position for r in got(file, 0, None, 100, 1)] == [1], "one at least"


def test_more_rows_than_one_statement_takes(file: SpoolFile) -> None:
    put(file, [row(n) for n in range(2500)])
    file.write([], list(range(0, 2500, 2)))
    assert [r.position for r in got(file, -1, None, 5000, 2**20)] == list(range(1, 2500, 2))


def test_rows_are_removed_in_ranges(file: SpoolFile) -> None:
    put(file, [row(n) for n in range(1, 20)])
    file.write([], [9, 2, 1, 3, 7, 10])
    file.write([], [11, 11, 13])  # twice one of them, and as many as from 11 to 13
    file.write([], [5, 15, 17, 19])
    assert [r.position for r in got(file, 0, None, 100, 2**20)] == [4, 6, 8, 12, 14, 16, 18]


def test_a_run_that_fails_changes_nothing(file: SpoolFile) -> None:
    put(file, [row(1)])
    broken: Any = (2, None, *row(2)[2:])
    with pytest.raises(SpoolError, match="cannot be written"):
        put(file, [row(3), broken])
    assert [r.position for r in got(file, 0, None, 10, 2**20)] == [1]


def test_runs_that_need_several_statements_are_all_written_or_none(file: SpoolFile) -> None:
    """Otherwise a run that is dropped from the queue afterwards would be in the file uncounted."""
    runs = [run_of(row(number)) for number in (0, 10)] + [run_of(row(20, "x" * 10_000_000))]
    file._one("PRAGMA max_page_count = 1000")
    with pytest.raises(SpoolError, match="full"):
        file.write(runs, [])
    everything = (-1, None, 10, 2**30)
    assert got(file, *everything) == []
    file.write(runs, [])
    assert [each.position for each in got(file, *everything)] == [0, 10, 20]


def test_the_next_process_finds_rows_and_the_last_message(path: str) -> None:
    first = SpoolFile(path)
    put(first, [row(4), row(5)])
    first.close()
    second = SpoolFile(path)
    assert (second.count, second.end, second.last) == (2, 5, row(5))
    assert second.epoch == row(5).epoch
    second.write([], [4, 5], row(5))
    second.close()
    third = SpoolFile(path)
    assert (third.count, third.end, third.last, third.size) == (0, 5, row(5), 0)
    third.close()


def test_a_large_file_that_is_empty_gives_its_space_back(path: str) -> None:
    file = SpoolFile(path)
    put(file, [row(n, "x" * 10_000) for n in range(1000)])
    file.write([], list(range(1000)))
    file.close()
    assert os.path.getsize(path) < 100_000


@pytest.mark.parametrize("size", [1, 100, 500, 1000, 2100, 3900, 5000, 20_000])
def test_the_estimate_of_a_row_is_near_what_it_takes(path: str, size: int) -> None:
    file = SpoolFile(path)
    put(file, [row(10_000 + n, "x" * size) for n in range(1000)])
    file.close()
    estimate = space([message(1, "x" * size)]) * 1000
    assert 0.6 * os.path.getsize(path) < estimate + 20_000 < 1.5 * os.path.getsize(path) + 40_000


# --- whose it is ---


def test_placeholders() -> None:
    made = path_for("/x/{name}-{pid}-{host}.db", "a/../b c")
    assert made.startswith(f"/x/a%2F..%2Fb%20c-{os.getpid()}-")
    assert "{" not in made


def test_no_two_names_have_one_file() -> None:
    """Names come from the rows of a fleet, and one stream must not find another's messages."""
    names = [
        "a/b",
        "a_b",
        "a b",
        "a%2Fb",
        "a//b",
        "a/b/",
        "ä/b",
        "a\0b",
        "../a",
        "{pid}",
        "a\udcffb",
    ]
    paths = [path_for("/x/{name}", name) for name in names]
    assert len(set(paths)) == len(names)
    assert {os.path.dirname(path) for path in paths} == {"/x"}


def test_files_are_for_this_user_only(path: str, file: SpoolFile) -> None:
    put(file, [row(1)])
    folder = Path(path).parent
    ends = ("", "-wal", "-shm", "-reserve", ".lock")
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in folder.iterdir()} == {
        f"spool.db{end}": "0o600" for end in ends
    }


def test_room_is_set_aside_while_the_file_is_open(path: str) -> None:
    """And again once the disk, after a failure, has twice as much: here at the next write."""
    file, reserve = SpoolFile(path), Path(f"{path}-reserve")
    assert reserve.stat().st_blocks * 512 >= 8 * 2**20
    file._make_do()
    assert not reserve.exists()
    put(file, [row(1)])
    assert reserve.exists()
    put(file, [row(n, "x" * 5000) for n in range(2, 1000)])
    file.close()
    assert not reserve.exists()


def test_a_file_that_others_may_read_is_closed_to_them(path: str) -> None:
    SpoolFile(path).close()
    os.chmod(path, 0o644)
    SpoolFile(path).close()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_symbolic_link_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    os.symlink(tmp_path / "target", path)
    with pytest.raises(SpoolError, match="is a symbolic link"):
        SpoolFile(path)
    assert (tmp_path / "target").read_bytes() == b""


def test_a_link_in_the_place_of_the_lock_is_refused(path: str, tmp_path: Path) -> None:
    os.symlink(tmp_path / "target", f"{path}.lock")
    with pytest.raises(SpoolError):
        SpoolFile(path)
    assert not (tmp_path / "target").exists()


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"directory .*/none does not exist. Create it"):
        SpoolFile(str(tmp_path / "none" / "spool.db"))


def test_a_directory_in_its_place(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(SpoolError, match="cannot be opened"):
        SpoolFile(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(path: str) -> None:
    SpoolFile(path).close()
    os.chown(path, 65534, -1)
    with pytest.raises(SpoolError, match=r"belongs to another user \(id 65534\)"):
        SpoolFile(path)


COMPANIONS = ["", "-journal", "-wal", "-shm", "-reserve", ".lock"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@as_root
@pytest.mark.parametrize("end", COMPANIONS)
def test_no_companion_of_another_user_is_used(path: str, end: str) -> None:
    """Its rows would be ours, or ours its: a forged log is as good as a forged file."""
    SpoolFile(path).close()
    Path(path + end).touch()
    os.chown(path + end, 65534, -1)
    with pytest.raises(SpoolError, match=rf"spool\.db{end}: belongs to another user \(id 65534\)"):
        SpoolFile(path)
    os.unlink(path + end)
    SpoolFile(path).close()


@pytest.mark.parametrize("end", COMPANIONS)
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(path: str, end: str) -> None:
    os.mkfifo(path + end)
    with pytest.raises(SpoolError, match=rf"spool\.db{end}: is not a regular file"):
        SpoolFile(path)


@pytest.mark.parametrize("end", COMPANIONS)
def test_no_companion_is_reached_through_a_link(path: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    os.symlink(tmp_path / "target", path + end)
    with pytest.raises(SpoolError, match="is a symbolic link"):
        SpoolFile(path)
    os.unlink(path + end)
    os.link(tmp_path / "target", path + end)
    with pytest.raises(SpoolError, match="it has another name"):
        SpoolFile(path)
    assert (tmp_path / "target").read_bytes() == b"mine"


@pytest.mark.parametrize("end", COMPANIONS)
def test_what_everybody_could_write_to_is_refused(path: str, end: str) -> None:
    Path(path + end).touch()
    Path(path + end).chmod(0o602)
    with pytest.raises(SpoolError, match="other users may have written to it"):
        SpoolFile(path)


@pytest.mark.parametrize("end", COMPANIONS)
def test_what_a_group_may_read_or_write_is_closed_to_it(path: str, end: str) -> None:
    """As files on a volume are that was given to a group."""
    Path(path + end).touch()
    os.chmod(path + end, 0o660)
    file = SpoolFile(path)
    found = Path(path + end)
    assert not found.exists() or found.stat().st_mode & 0o777 == 0o600
    file.close()


def test_a_directory_that_everybody_may_write_to(tmp_path: Path) -> None:
    """Somebody else could put files in the place of ours; not if it is sticky, as /tmp is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    for mode, fine in [(0o777, False), (0o1777, True), (0o770, True), (0o755, True)]:
        folder.chmod(mode)
        if fine:
            SpoolFile(str(folder / "spool.db")).close()
        else:
            with pytest.raises(SpoolError, match="every user can write to the directory"):
                SpoolFile(str(folder / "spool.db"))


@as_root
def test_a_directory_of_another_user(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, -1)
    with pytest.raises(SpoolError, match=r"theirs belongs to another user \(id 65534\)"):
        SpoolFile(str(folder / "spool.db"))


@as_root
def test_a_companion_that_comes_between_is_noticed(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put there after the first look, before SQLite opened it."""
    prepare = module._prepare

    def slow(db: sqlite3.Connection, path: str) -> None:
        prepare(db, path)
        os.chown(f"{path}-wal", 65534, -1)  # not before: root's SQLite gives it to root

    with monkeypatch.context() as patch:
        patch.setattr(module, "_prepare", slow)
        with pytest.raises(SpoolError, match=r"spool\.db-wal: belongs to another user"):
            SpoolFile(path)
    Path(f"{path}-wal").unlink(missing_ok=True)
    SpoolFile(path).close()


def test_another_client_of_this_process_is_refused(path: str, file: SpoolFile) -> None:
    with pytest.raises(SpoolError, match="another client of this process"):
        SpoolFile(path)
    put(file, [row(1)])


def test_a_file_system_without_locks_is_named_as_such(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process has the lock, so there is none to stop."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(file_lock.fcntl, "lockf", no_locks)
    with pytest.raises(SpoolError, match=r"cannot be locked \(No locks available\)"):
        SpoolFile(path)


def test_another_process_is_refused_until_the_first_has_ended(path: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{HOLD}\nhold({path!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(SpoolError, match=f"in use by process {holder.pid}. Stop it"):
            SpoolFile(path)
        holder.kill()
    SpoolFile(path).close()


HOLD = """
from datastream_ws.spool import file as module
from datastream_ws.spool.file import SpoolFile
def hold(path):
    file = SpoolFile(path)
    print("open", flush=True)
    input()
"""


def test_a_file_of_another_version_is_refused_and_left_alone(path: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE messages (whatever)")
        db.execute("PRAGMA user_version = 7")
    db.close()
    before = Path(path).read_bytes()
    with pytest.raises(SpoolError, match="has format 7, and this version reads format 2"):
        SpoolFile(path)
    assert Path(path).read_bytes() == before


def test_a_database_of_something_else_is_refused(path: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE shop (whatever)")
    db.close()
    with pytest.raises(SpoolError, match="has format 0"):
        SpoolFile(path)


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 9000]
)
def test_a_corrupt_file_is_set_aside(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    file = SpoolFile(path)
    assert file.set_aside is not None
    assert file.set_aside.startswith(f"{path}.corrupt-")
    assert Path(file.set_aside).read_bytes() == content
    put(file, [row(1)])
    assert file.count == 0
    file.close()


def test_pages_overwritten_in_a_closed_file_are_noticed(path: str) -> None:
    file = SpoolFile(path)
    put(file, [row(n, "x" * 500) for n in range(1000)])
    file.close()
    with open(path, "r+b") as raw:
        raw.seek(3 * 4096)
        raw.write(os.urandom(20 * 4096))
    second = SpoolFile(path)
    assert second.set_aside is not None
    second.close()


# --- what is where ---


def message(seq: int, data: str | bytes = "{}") -> Message:
    return Message(data, Origin("test", 1, 5, CODEC, "type"), seq, 1_763_876_711.5)


class Rig:
    """A spooled inbox with its thread, and somebody who handles."""

    def __init__(self, path: str, **options: Any) -> None:
        self.open_gate = True
        self.errors: list[BaseException] = []
        self.room = threading.Event()
        self.woken = threading.Condition()
        settings: dict[str, Any] = {
            "journal": False,
            "spool_bytes": None,
            "overflow": "block",
            "size": 10,
            "size_bytes": None,
            "ordering_key": None,
        }
        settings |= options
        self.inbox = SpooledInbox(
            gate=lambda: self.open_gate,
            origin=lambda epoch, connection: Origin("test", connection, epoch, CODEC, "type"),
            report=self.errors.append,
            budget=None,
            **settings,
        )
        self.thread = SpoolThread(
            path,
            "test",
            self.inbox,
            journal=settings["journal"],
            wake=self._wake,
            on_room=self.room.set,
            report=self.errors.append,
        )

    def __enter__(self) -> Rig:
        self.thread.open().result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.inbox.close()
        self.thread.close().result(10)

    def _wake(self) -> None:
        with self.woken:
            self.woken.notify_all()

    def put(self, first: int, last: int, size: int = 2) -> int:
        """Put in what fits, in pieces; return the first that did not."""
        for n in range(first, last + 1, 7):
            given = [message(m, "x" * size) for m in range(n, min(n + 7, last + 1))]
            taken = self.inbox.put(given).taken
            self.check()
            if taken < len(given):
                return n + taken
        return last + 1

    def handle(self, count: int) -> list[int]:
        """Handle messages, waiting for them; return their numbers."""
        handled: list[int] = []
        while len(handled) < count:
            with self.woken:
                found = self.inbox.pop()
                if found is None:
                    assert self.woken.wait(10), f"nothing more after {handled[-3:]}"
                    continue
            self.check()
            handled.append(found.seq)
            self.inbox.done(found)
        return handled

    def check(self) -> None:
        c = self.inbox.counts()
        dropped = sum(c.dropped.values())
        assert c.received == c.handled + c.failed + dropped + c.waiting + c.spooled, c

    def until_written(self) -> None:
        with self.inbox.changed:
            written = self.inbox.changed.wait_for(lambda: not self.inbox.has_queue, 0)
        while not written:
            with self.inbox.changed:
                written = self.inbox.changed.wait_for(lambda: not self.inbox.has_queue, 0.01)


def until(fact: Callable[[], bool]) -> None:
    """Wait for what the file's thread does."""
    end = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.005)


def rows_in(path: str) -> list[int]:
    return [row.seq for row in spoolfile.rows_in(path)]


@pytest.mark.parametrize("journal", [False, True])
def test_the_inbox_continues_in_the_file_in_order(path: str, journal: bool) -> None:
    with Rig(path, journal=journal) as rig:
        assert rig.put(1, 500) == 501
        rig.until_written()
        counts = rig.inbox.counts()
        assert (counts.waiting, counts.spooled) == (10, 490)
        assert rig.handle(250) == list(range(1, 251))
        assert rig.put(501, 600) == 601
        assert rig.handle(350) == list(range(251, 601))
        assert rig.errors == []


def test_what_fits_into_memory_leaves_the_file_alone(path: str) -> None:
    with Rig(path) as rig:
        before = os.path.getsize(f"{path}-wal")
        for n in range(1, 500):
            rig.put(n, n)
            rig.handle(1)
        assert os.path.getsize(f"{path}-wal") == before


@pytest.mark.parametrize("journal", [False, True])
def test_what_is_unhandled_at_the_end_waits_for_the_next_start(path: str, journal: bool) -> None:
    with Rig(path, journal=journal) as rig:
        rig.put(1, 100)
        rig.handle(5)
        in_hand = rig.inbox.pop()
        assert in_hand is not None
        rig.inbox.discard(in_hand, "shutdown")
        rig.check()
    assert rows_in(path) == list(range(6, 101))
    assert rig.inbox.counts().dropped == {}
    rig.check()
    with Rig(path, journal=journal) as again:
        assert again.inbox.counts().received == 95
        again.put(1, 20)
        assert again.handle(115) == [*range(6, 101), *range(1, 21)]
        again.check()
    assert rows_in(path) == []


def test_messages_of_an_earlier_process_keep_what_they_are(path: str) -> None:
    with Rig(path) as rig:
        rig.put(1, 1)
    with Rig(path) as again:
        while (found := again.inbox.pop()) is None:
            with again.woken:
                again.woken.wait(0.1)
        assert (found.epoch, found.seq, found.connection) == (5, 1, 1)
        assert (found.received_at, found.data, found.stream) == (1_763_876_711.5, "xx", "test")
        again.inbox.done(found)


def test_a_journal_counts_only_what_is_in_the_file(path: str) -> None:
    rig = Rig(path, journal=True)  # not open: nobody writes
    rig.put(1, 5)
    counts = rig.inbox.counts()
    assert (counts.received, counts.waiting, counts.spooled) == (0, 0, 0)
    assert rig.inbox.taken == 5
    assert rig.inbox.pop() is None
    with rig:
        assert rig.handle(5) == [1, 2, 3, 4, 5]
        assert rig.inbox.counts().received == 5


def test_a_journal_keeps_a_row_until_it_is_handled(path: str) -> None:
    with Rig(path, journal=True) as rig:
        rig.put(1, 30)
        in_hand: list[Message] = []
        while len(in_hand) < 3:
            if (found := rig.inbox.pop()) is not None:
                in_hand.append(found)
        rig.until_written()
        assert rows_in(path) == list(range(1, 31))
        for each in in_hand:
            rig.inbox.done(each)
        while rows_in(path) != list(range(4, 31)):
            pass


def test_the_last_message_outlives_its_row_in_a_journal(path: str) -> None:
    with Rig(path, journal=True) as rig:
        rig.put(1, 30)
        rig.handle(30)
    assert rows_in(path) == []
    with Rig(path, journal=True) as again:
        last = again.inbox.last_message
        assert last is not None
        assert (last.seq, last.epoch) == (30, 5)
        assert again.inbox.counts().received == 0
    with Rig(path) as plain:
        assert plain.inbox.last_message is None


def test_the_last_message_outlives_a_process_that_receives_nothing(path: str) -> None:
    """It handles what an earlier one has left, the last message among it."""
    with Rig(path, journal=True) as first:
        first.put(1, 5)
        first.until_written()
    with Rig(path, journal=True) as second:
        assert second.handle(5) == [1, 2, 3, 4, 5]
    with Rig(path, journal=True) as third:
        last = third.inbox.last_message
        assert last is not None
        assert last.seq == 5


@pytest.mark.parametrize("journal", [False, True])
def test_a_full_file_blocks_and_goes_on(path: str, journal: bool) -> None:
    with Rig(path, journal=journal, spool_bytes=100_000) as rig:
        given, handled = 1, 0
        while given <= 1000:
            rig.room.clear()
            stopped = rig.put(given, 1000, size=500)
            assert os.path.getsize(path) < 130_000
            handled += len(rig.handle(stopped - 1 - handled))
            if stopped <= 1000:
                assert rig.room.wait(10)
            given = stopped
        assert handled == 1000
        assert rig.inbox.counts().dropped == {}


def test_a_full_file_drops_the_newest(path: str) -> None:
    with Rig(path, spool_bytes=100_000, overflow="drop_newest") as rig:
        given = 1
        while given <= 1000:  # a disk that does not keep up blocks for a moment
            given = rig.put(given, 1000, size=500)
            rig.until_written()
        counts = rig.inbox.counts()
        unfinished = counts.waiting + counts.spooled
        assert counts.received == 1000
        assert counts.dropped == {"overflow": 1000 - unfinished}
        assert 100 < unfinished < 250
        assert rig.handle(unfinished) == list(range(1, unfinished + 1))


def test_a_full_file_drops_the_oldest(path: str) -> None:
    with Rig(path, spool_bytes=100_000, overflow="drop_oldest") as rig:
        given = 1
        while given <= 1000:
            given = rig.put(given, 1000, size=500)
            rig.until_written()
        assert os.path.getsize(path) < 200_000
        counts = rig.inbox.counts()
        unfinished = counts.waiting + counts.spooled
        assert counts.received == 1000
        assert 100 < unfinished < 300
        assert rig.handle(unfinished) == list(range(1001 - unfinished, 1001))


def test_a_full_file_disconnects(path: str) -> None:
    with Rig(path, spool_bytes=100_000, overflow="disconnect") as rig:
        given = 1
        while True:
            stopped = rig.inbox.put([message(given, "x" * 500)])
            if stopped.disconnect:
                break
            given += stopped.taken
            rig.until_written()
        assert stopped.taken == 0
        assert rig.inbox.counts().received == given - 1


def test_one_message_larger_than_the_file_may_be(path: str) -> None:
    with Rig(path, journal=True, spool_bytes=1000) as rig:
        assert rig.put(1, 1, size=5000) == 2
        assert rig.handle(1) == [1]


class Failing(SpoolFile):
    """A file on a disk that is full while *fails* says so."""

    fails = True

    def write(self, *run: Any, **more: Any) -> None:
        if self.fails:
            raise SpoolError("spool: cannot be written (disk is full)")
        super().write(*run, **more)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Failing]]:
    monkeypatch.setattr("datastream_ws.spool.thread.SpoolFile", Failing)
    monkeypatch.setattr("datastream_ws.spool.thread.RETRY_SECONDS", 0.02)
    Failing.fails = True
    yield Failing
    Failing.fails = False


@pytest.mark.parametrize("journal", [False, True])
def test_a_full_disk_blocks_until_it_has_room(
    path: str, journal: bool, full_disk: type[Failing]
) -> None:
    with Rig(path, journal=journal, spool_bytes=40_000) as rig:
        stopped = rig.put(1, 1000, size=500)
        assert stopped < 100, "what cannot be written is bounded"
        while not rig.errors:
            pass
        assert stopped == rig.put(stopped, 1000, size=500) or not journal
        full_disk.fails = False
        assert rig.room.wait(10)
        assert rig.handle(stopped - 1) == list(range(1, stopped))
        assert len(rig.errors) == 1, "one report, not one a second"


def test_without_a_journal_memory_goes_on_while_the_disk_is_full(
    path: str, full_disk: type[Failing]
) -> None:
    with Rig(path, spool_bytes=40_000) as rig:
        stopped = rig.put(1, 1000, size=500)
        assert rig.handle(stopped - 1) == list(range(1, stopped))


def test_what_cannot_be_written_at_the_end_is_counted_and_reported(
    path: str, full_disk: type[Failing]
) -> None:
    with Rig(path) as rig:
        rig.put(1, 30)
    rig.check()
    assert rig.inbox.counts().dropped == {"shutdown": 30}
    assert "messages not written at exit count as dropped (30)" in str(rig.errors[-1])


@pytest.mark.parametrize("journal", [False, True])
def test_nothing_is_moved_into_memory_while_the_gate_is_closed(path: str, journal: bool) -> None:
    with Rig(path, journal=journal) as rig:
        rig.put(1, 50)
        rig.handle(5)
        rig.until_written()
        rig.open_gate = False
        assert rig.inbox.drop("lease_lost") == 0
        rig.until_written()
        rig.check()
        assert rig.inbox.counts().waiting == 0
        assert rows_in(path)[-45:] == list(range(6, 51))
        rig.open_gate = True
        rig.thread.nudge()
        rig.put(51, 60)
        assert rig.handle(55) == list(range(6, 61))


def test_a_portion_is_taken_while_the_file_is_idle(path: str) -> None:
    """At the end those that were not begun with, and the one in hand, go into the file."""
    with Rig(path, size=50) as rig:
        rig.put(1, 10)
        portion = rig.inbox.pop_many()
        assert portion is not None
        taken = []
        for _ in range(3):
            portion.in_hand = next(portion.taken())
            taken.append(portion.in_hand)
        rig.check()
        rig.put(11, 90)  # more than memory takes
        rig.until_written()
        rig.check()
        assert rig.inbox.counts().waiting >= 48
    assert [message.seq for message in taken] == [1, 2, 3]
    assert rows_in(path) == list(range(3, 91))


def test_what_is_in_the_file_has_to_be_popped(path: str) -> None:
    with Rig(path, size=40) as rig:
        rig.put(1, 10)
        portion = rig.inbox.pop_many()
        assert portion is not None
        rig.put(11, 60)
        rig.until_written()
        portion.left.clear()  # as if each had been handled
        assert not rig.inbox.settle(portion), "reading is resumed by the file's thread"
        rig.check()
        assert rig.inbox.pop_many() is None
        assert rig.handle(56) == list(range(5, 61))
        rig.check()
        rig.put(61, 70)
        assert rig.inbox.pop_many() is not None


def test_messages_that_may_be_dropped_from_the_old_end_are_popped(path: str) -> None:
    with Rig(path, overflow="drop_oldest") as rig:
        rig.put(1, 10)
        rig.until_written()
        assert rig.inbox.pop_many() is None


def begin(portion: Portion, count: int) -> None:
    """Do as a worker that has handled all but the last of so many messages, and is at that."""
    taken = portion.taken()
    for _ in range(count):
        portion.in_hand = next(taken)


def test_rows_of_a_portion_leave_the_file_as_they_are_handled(path: str) -> None:
    """Also while its handler is stuck with one: a kill must not bring back all of the portion."""
    with Rig(path, journal=True, size=100) as rig:
        rig.put(1, 30)
        rig.until_written()
        portion = rig.inbox.pop_many(10)
        assert portion is not None
        begin(portion, 5)
        until(lambda: rows_in(path) == list(range(5, 31)))
        rig.check()
        begin(portion, 5)
        portion.in_hand = None
        assert not rig.inbox.settle(portion), "reading is resumed by the file's thread"
        until(lambda: rows_in(path) == list(range(11, 31)))
        rig.check()
        assert rig.handle(20) == list(range(11, 31))
    assert rows_in(path) == []


@pytest.mark.parametrize("begun", [0, 1, 4])
def test_a_portion_that_is_given_up_keeps_its_rows(path: str, begun: int) -> None:
    """What has not been begun with waits in its place; the one in hand is its handler's."""
    with Rig(path, journal=True, size=100) as rig:
        rig.put(1, 30)
        rig.until_written()
        portion = rig.inbox.pop_many(10)
        assert portion is not None
        begin(portion, begun)
        rig.inbox.drop("lease_lost")
        rig.check()
        rig.inbox.settle(portion)
        if portion.in_hand is not None:
            rig.inbox.done(portion.in_hand)
        rig.check()
        assert rig.handle(30 - begun) == list(range(begun + 1, 31))


def test_a_portion_outlives_a_journal_file_that_is_lost(path: str) -> None:
    rig = Rig(path, journal=True, size=100)
    inbox = rig.inbox
    inbox.opened(0, 0, 0, None)
    rig.put(1, 30)
    inbox.stored(inbox.next_batch(), 0)
    while inbox.next_batch().parts:
        inbox.stored(inbox.next_batch(), 0)
    portion = inbox.pop_many(10)
    assert portion is not None
    begin(portion, 5)
    assert inbox.lose_file() == 0
    inbox.settle(portion)
    assert inbox.next_batch().removals == [], "none of the new file's rows"
    rig.check()
    assert portion.in_hand is not None
    inbox.done(portion.in_hand)
    assert rig.handle(25) == list(range(6, 31))
    rig.check()


def test_a_file_corrupted_while_open_is_set_aside(path: str) -> None:
    with Rig(path) as rig:
        rig.put(1, 20_000, size=500)  # more than SQLite keeps in memory
        rig.until_written()
        for name in (path, f"{path}-wal"):
            with open(name, "r+b") as file:
                file.write(b"x" * os.path.getsize(name))
        rig.handle(10)
        while not any("corrupt" in str(error) for error in rig.errors):
            if (found := rig.inbox.pop()) is not None:
                rig.inbox.done(found)
        rig.check()
        assert rig.inbox.counts().dropped["spool"] > 0
        assert rig.put(20_001, 20_020) == 20_021
    assert [each for each in os.listdir(Path(path).parent) if "corrupt" in each]


def test_what_is_in_memory_outlives_a_journal_file_that_is_lost(path: str) -> None:
    """Only rows that were nowhere else are dropped; the others go into the next file (b15)."""
    rig = Rig(path, journal=True)
    inbox = rig.inbox
    inbox.opened(0, 0, 0, None)
    rig.put(1, 100)
    while (run := inbox.next_batch()).parts:
        inbox.stored(run, 0)
    in_hand = inbox.pop()
    counts = inbox.counts()
    assert in_hand is not None
    assert (counts.waiting, counts.spooled) == (10, 90)
    assert inbox.lose_file() == 0
    rig.check()
    counts = inbox.counts()
    assert (counts.received, counts.waiting, counts.spooled) == (100, 100, 0)
    assert counts.dropped == {}
    inbox.done(in_hand)
    assert rig.handle(49) == list(range(2, 51)), "in order"
    with rig:
        rig.put(101, 110)
    rig.check()
    counts = inbox.counts()
    assert (counts.received, counts.handled, counts.spooled) == (110, 50, 60)
    assert counts.dropped == {}
    assert rows_in(path) == list(range(51, 111))
    last = inbox.last_message
    assert last is not None
    assert last.seq == 110


def test_a_journal_file_that_becomes_corrupt_costs_what_was_in_it_only(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(path, journal=True) as rig:
        rig.put(1, 3000, size=100)
        rig.until_written()
        file = rig.thread._file
        write = file.write

        def corrupt(*rows: Any) -> None:
            monkeypatch.setattr(file, "write", write)
            error = SpoolError("spool: cannot be written (database disk image is malformed)")
            raise error from Corrupt()

        monkeypatch.setattr(file, "write", corrupt)
        assert rig.handle(3000) == list(range(1, 3001))
        while not rig.errors:
            pass
        assert "count as dropped (0)" in str(rig.errors[0])
        assert rig.put(3001, 3010) == 3011
        assert rig.handle(10) == list(range(3001, 3011))
        rig.check()
        assert rig.inbox.counts().dropped == {}
    assert rows_in(path) == []


@pytest.mark.parametrize("death", [ZeroDivisionError(), SystemExit()])
def test_a_fault_of_ours_is_reported_and_survived(
    path: str, death: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the file neither ends in silence nor at all."""
    monkeypatch.setattr("datastream_ws.spool.thread.RETRY_SECONDS", 0.02)
    with Rig(path) as rig:
        trim, faults = rig.inbox.trim, [death]

        def broken() -> int:
            if faults:
                raise faults.pop()
            return trim()

        monkeypatch.setattr(rig.inbox, "trim", broken)
        rig.put(1, 50)
        assert rig.handle(50) == list(range(1, 51))
        (error,) = rig.errors
        assert "internal error, please report it" in str(error)
        assert error.__cause__ is death


def test_a_fault_at_the_end_keeps_nobody_waiting(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(path)
    monkeypatch.setattr(rig.inbox, "end", lambda: 1 / 0)
    with rig:
        rig.put(1, 5)
    assert "internal error, please report it" in str(rig.errors[-1])
    SpoolFile(path).close()


def handle_some(rig: Rig, portion: Portion, count: int) -> list[int]:
    """Handle so many messages of a portion, the last of them after it is settled; their numbers."""
    handled: list[int] = []
    with suppress(IndexError):
        for found in islice(portion.taken(), count):
            portion.in_hand = found
            handled.append(int(found.data))
            rig.check()
    last = portion.in_hand
    rig.inbox.settle(portion)
    if last is not None:
        rig.inbox.done(last)
    return handled


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_steps_loses_nothing_and_keeps_the_order(
    path: str, journal: bool, seed: int
) -> None:
    """Puts, handling, failed hands and restarts, in any order."""
    chance = random.Random(seed)
    given, base = 0, 0
    handled: list[int] = []
    for _ in range(4):
        with Rig(path, journal=journal, size=chance.choice([1, 5, 50])) as rig:
            base = given
            for _ in range(30):
                if chance.random() < 0.6:
                    count = chance.choice([1, 5, 100])
                    batch = [message(given - base + n, f"{given + n}") for n in range(1, count + 1)]
                    assert rig.inbox.put(batch, force=True).taken == count
                    given += count
                elif chance.random() < 0.5 and (portion := rig.inbox.pop_many()) is not None:
                    handled += handle_some(rig, portion, chance.randrange(8))
                elif (found := rig.inbox.pop()) is not None:
                    handled.append(int(found.data))
                    rig.inbox.done(found)
                rig.check()
        rig.check()
    with Rig(path, journal=journal) as rig:
        while len(handled) < given:
            with rig.woken:
                found = rig.inbox.pop()
                if found is None:
                    assert rig.woken.wait(10), (len(handled), given, rig.inbox.counts())
                    continue
            handled.append(int(found.data))
            rig.inbox.done(found)
    assert handled == list(range(1, given + 1))


def test_after_a_failure_rows_are_removed_first_and_alone(path: str) -> None:
    """A new row and one old one, tried again and again, never free a page of a full file."""
    inbox = (rig := Rig(path, journal=True)).inbox
    inbox.opened(0, 0, 0, None)
    rig.put(1, 10)
    inbox.stored(inbox.next_batch(), 0)
    while inbox.next_batch().parts:
        inbox.stored(inbox.next_batch(), 0)
    rig.handle(5)
    rig.put(11, 20)
    failed = inbox.next_batch(1, 1)
    assert len(failed) == 1
    inbox.unstorable(failed)
    alone = inbox.next_batch(1, 5000)
    assert (alone.parts, len(alone.removals)) == ([], 5)
    inbox.stored(alone, 0)
    assert len(inbox.next_batch(1, 5000)) == 1


def test_a_new_file_that_cannot_be_made_yet_is_tried_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is corrupt, and the disk is full for a while."""
    monkeypatch.setattr("datastream_ws.spool.thread.RETRY_SECONDS", 0.02)
    with Rig(path, journal=True) as rig:
        file = rig.thread._file
        write, full = file.write, [1, 2]

        def corrupt(*rows: Any) -> None:
            monkeypatch.setattr(file, "write", write)
            raise SpoolError("spool: cannot be written (malformed)") from Corrupt()

        def check(path: str) -> None:
            if full:
                full.pop()
                raise SpoolError(f"spool {path}: cannot be opened (No space left on device)")
            check_files(path)

        monkeypatch.setattr(file, "write", corrupt)
        monkeypatch.setattr(module, "check_files", check)
        rig.put(1, 10)
        assert rig.handle(10) == list(range(1, 11))
        first, second = map(str, rig.errors)
        assert "No space left on device" in first
        assert "was corrupt and is renamed to" in second
    assert rows_in(path) == []
