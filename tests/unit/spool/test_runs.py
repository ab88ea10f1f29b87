"""What the file keeps: runs of messages, marks of those handled, files of format 1."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastream_ws.codecs import codec_for
from datastream_ws.exceptions import SpoolError
from datastream_ws.handling.lazy_messages import LazyMessages
from datastream_ws.messages import Message, Origin
from datastream_ws.spool import file as module
from datastream_ws.spool.file import SpoolFile, is_corrupt
from datastream_ws.spool.message_queue import MessageQueue, space
from datastream_ws.spool.run import Row, Run, decode, encode, run_of, runs_of
from kit.spoolfile import rows_in

FORMAT_1 = """
    CREATE TABLE messages (
        position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, connection INTEGER NOT NULL,
        seq INTEGER NOT NULL, received_at REAL NOT NULL, data NOT NULL
    );
    CREATE TABLE last (
        one INTEGER PRIMARY KEY, position INTEGER, epoch INTEGER, connection INTEGER,
        seq INTEGER, received_at REAL, data
    );
    PRAGMA user_version = 1;
    PRAGMA journal_mode = WAL;
"""
SHAPES: list[Any] = ["", "text", "ü – 🙂", "before\0after", "lone \ud800", b"", b"\x00\xff"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


def row(position: int, data: str | bytes = "{}") -> Row:
    return Row(position, 1_700_000_000_000, 3, position + 7, 1_763_876_711.1234567, data)


def read(file: SpoolFile, after: int = -1) -> list[Row]:
    return [found for run in file.read(after, None, 10**6, 2**30) for found in run.rows()]


# --- the row ---


@given(st.lists(st.sampled_from(SHAPES), min_size=1), st.data())
def test_a_run_comes_back_as_it_was(payloads: list[str | bytes], data: st.DataObject) -> None:
    times = data.draw(st.lists(st.floats(0, 2e9), min_size=len(payloads), max_size=len(payloads)))
    rows = [Row(5 + n, 1, 2, 3 + n, *each) for n, each in enumerate(zip(times, payloads))]  # noqa: B905
    [run] = runs_of(map(run_of, rows))
    found = decode(encode(run))
    assert found.rows() == rows
    assert [type(each.data) for each in found.rows()] == [type(each) for each in payloads]
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert found.part(start, stop).rows() == rows[start:stop]


def test_only_what_follows_joins_a_run() -> None:
    others = [row(4)._replace(seq=1), row(5), row(6)._replace(epoch=1), row(7)._replace(epoch=1)]
    rows = [row(1), row(2), *others, row(8)._replace(connection=4)]
    assert [len(run) for run in runs_of(map(run_of, rows))] == [2, 1, 1, 2, 1]


# --- runs in the file ---


class Model:
    """The file beside the messages that it is to have."""

    def __init__(self, path: str, seed: int) -> None:
        self.path, self.chance = path, random.Random(seed)
        self.file = SpoolFile(path)
        self.kept: dict[int, Row] = {}
        self.removed: dict[int, Row] = {}
        self.next = 1

    def add(self) -> None:
        self.next += self.chance.randrange(2)
        new = [row(self.next + n, f"{self.next + n}") for n in range(self.chance.randint(1, 12))]
        self.next += len(new)
        self.write(new)

    def add_again(self) -> None:
        some = [self.removed.pop(position) for position in self.some(self.removed)]
        self.write(sorted(some))

    def write(self, rows: list[Row]) -> None:
        self.file.write(runs_of(map(run_of, rows)), [])
        self.kept.update({each.position: each for each in rows})

    def remove(self) -> None:
        some = self.some(self.kept)
        self.file.write([], some)
        self.removed.update({position: self.kept.pop(position) for position in some})

    def some(self, rows: dict[int, Row]) -> list[int]:
        chosen = sorted(rows)
        if self.chance.random() < 0.5:
            return chosen[: self.chance.randrange(20)]
        return self.chance.sample(chosen, self.chance.randint(0, len(chosen)))

    def reopen(self) -> None:
        self.file.close()
        self.file = SpoolFile(self.path)
        assert self.file.count == len(self.kept)
        if self.kept:
            assert self.file.end >= max(self.kept)
        else:
            assert self.file.size == 0
            self.removed.clear()  # a new process gives them out anew

    def check(self) -> None:
        rows = [self.kept[position] for position in sorted(self.kept)]
        assert read(self.file) == rows
        after, count = self.chance.randrange(self.next), self.chance.randint(1, 9)
        found = self.file.read(after, self.next - 3, count, 2**20)
        expected = [each for each in rows if after < each.position < self.next - 3]
        assert [each for run in found for each in run.rows()] == expected[:count]


@pytest.mark.parametrize("block", range(4))
def test_a_file_has_what_was_added_and_not_removed(path: str, block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        model = Model(f"{path}-{seed}", seed)
        moves = [Model.add, Model.add, Model.remove, Model.remove, Model.add_again, Model.reopen]
        for _ in range(40):
            model.chance.choice(moves)(model)
            model.check()
        model.file.close()


def test_marks_go_with_their_run(path: str) -> None:
    """A new process may give positions out anew, and a mark of old would cost a message."""
    with closing(SpoolFile(path)) as file:
        file.write(runs_of(map(run_of, [row(1), row(2)])), [])
        file.write([], [1])
        file.write([], [2])
    with closing(SpoolFile(path)) as file:
        assert file.end == 0
        file.write(runs_of(map(run_of, [row(1), row(2)])), [])
        assert read(file) == [row(1), row(2)]


# --- a full disk ---


@pytest.fixture
def full(path: str) -> Iterator[SpoolFile]:
    """A file without a free page, whose marks don't fit into those it has."""
    file = SpoolFile(path)
    for first in range(0, 30_000, 3000):
        file.write(runs_of(run_of(row(first + n)) for n in range(3000)), [])
    file._reserve.give()
    file._db.execute("PRAGMA max_page_count = 1")  # as many as there are
    yield file
    file.close()


def test_marks_that_do_not_fit_are_in_nobodys_way(full: SpoolFile) -> None:
    """Runs that are handled as a whole leave, and then there is room for marks again."""
    full.write([], range(0, 30_000, 2))
    with pytest.raises(SpoolError, match="full"):
        full.write([Run(50_000, 1, 1, 1, [(1, 1.0)], ["x" * 100_000])], [])
    full.write([], range(1, 15_000, 2))
    assert [each.position for each in read(full)] == list(range(15_001, 30_000, 2))
    full.write([Run(50_000, 1, 1, 1, [(1, 1.0)], ["x" * 10_000])], [])


# --- files of format 1 ---


def write_format_1(path: str, rows: list[Any], last: Row | None = None) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(FORMAT_1)
        db.execute("BEGIN")
        db.executemany("INSERT INTO messages VALUES (?,?,?,?,?,?)", rows)
        if last is not None:
            db.execute("INSERT INTO last VALUES (0,?,?,?,?,?,?)", last)
        db.execute("COMMIT")


def old_data(n: int) -> str | bytes:
    return b"\xff" if n % 3 == 1 else f"text {n} ü" if n % 3 else "x" * n


OLD = [row(n, old_data(n)) for n in range(5, 2500) if n % 700]


def test_a_file_of_format_1_is_read_and_goes_on_as_format_2(path: str) -> None:
    write_format_1(path, OLD, row(3000))
    with closing(SpoolFile(path)) as file:
        assert file.set_aside is None
        assert (file.count, file.end, file.last) == (len(OLD), 3000, row(3000))
        assert read(file) == OLD
        file.write(runs_of([run_of(row(3001))]), [5, 7])
    assert rows_in(path) == [each for each in OLD if each.position not in (5, 7)] + [row(3001)]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert "messages" not in tables


def test_large_messages_of_format_1_are_moved_a_few_at_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OLD_BYTES", 250_000)
    rows = [row(n, "x" * 100_000) for n in range(7)]
    write_format_1(path, rows)
    with closing(SpoolFile(path)) as file:
        assert read(file) == rows
        sizes = file._db.execute("SELECT length(data) FROM runs").fetchall()
        assert sizes == [(300_000,), (300_000,), (100_000,)]


def test_an_empty_file_of_format_1_keeps_the_last_message(path: str) -> None:
    write_format_1(path, [], row(3000))
    with closing(SpoolFile(path)) as file:
        assert (file.count, file.end, file.last, file.size) == (0, 3000, row(3000), 0)


@pytest.mark.parametrize("statements", range(1, 40, 3))
def test_a_crash_while_a_file_of_format_1_is_moved_costs_nothing(
    path: str, statements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException): ...

    class Dying(sqlite3.Connection):
        left = statements

        def execute(self, *statement: Any) -> sqlite3.Cursor:
            if not self.left:
                self.close()  # rolls back, as the next process does
                raise Crash
            self.left -= 1
            return super().execute(*statement)

    write_format_1(path, OLD)
    connect = sqlite3.connect
    monkeypatch.setattr(module, "OLD_ROWS", 300)
    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, **options: connect(*a, factory=Dying, **options)
    )
    with pytest.raises(Crash):
        SpoolFile(path)
    monkeypatch.undo()
    with closing(SpoolFile(path)) as file:
        assert file.set_aside is None
        assert read(file) == OLD


@pytest.mark.parametrize(
    "damaged", [(9, 1, 1, 9, 1.5, 12), (9, 1, 1, 9, "soon", "x"), (9, 1, b"1", 9, 1.5, "x")]
)
def test_a_file_of_format_1_that_makes_no_sense_is_set_aside(path: str, damaged: Any) -> None:
    write_format_1(path, [*OLD[:3], damaged])
    with closing(SpoolFile(path)) as file:
        assert file.set_aside is not None
        assert file.count == 0


# --- damaged rows ---


@pytest.mark.parametrize(
    "change",
    [
        "data = substr(data, 2)",
        "data = data || x'00'",
        "data = 'text'",
        "data = replace(data, x'00', x'80')",
        "lengths = zeroblob(0)",
        "lengths = zeroblob(12)",
        "lengths = randomblob(11)",
        "lengths = x'FFFFFFFFFFFFFFFFFFFFFFFF'",
        "lengths = 'text'",
        "times = '[]'",
        "times = '[[3, 1.5]'",
        "times = '[[-1, 1.5], [4, 1.5]]'",
        "times = '[[1e400, 1.5]]'",
        "times = '[[3, null]]'",
        "times = 3",
        "seq = 'x'",
        "epoch = x'00'",
    ],
)
@pytest.mark.parametrize("first", [1, 10])
def test_a_run_that_makes_no_sense_is_noticed(path: str, change: str, first: int) -> None:
    """When the file is opened, if it is the newest, or when it is read."""
    with closing(SpoolFile(path)) as file:
        for begin in (1, 10):
            file.write(runs_of(run_of(row(begin + n, "a\0")) for n in range(3)), [])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE runs SET {change} WHERE first = {first}")
    with closing(SpoolFile(path)) as file:
        assert (file.set_aside is not None) is (first == 10)
        if file.set_aside is None:
            with pytest.raises(SpoolError, match="cannot be read") as caught:
                read(file)
            assert is_corrupt(caught.value)


@pytest.mark.parametrize("marks", ["x'FF'", "x'3030'", "'1111111'", "'abc'", "17", "1.5"])
def test_marks_that_make_no_sense_are_no_accident(path: str, marks: str) -> None:
    with closing(SpoolFile(path)) as file:
        file.write(runs_of(run_of(row(n)) for n in range(3)), [1])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE handled SET marks = {marks}")
    with closing(SpoolFile(path)) as file:
        assert set(read(file)) <= {row(n) for n in range(3)}
        file.write([], [0])
        assert row(2) in read(file) or marks.startswith("'1")
        file.write([], [0, 1, 2])
        assert read(file) == []


# --- a line ---


@given(st.data())
@settings(max_examples=100)
def test_a_line_is_a_list_in_parts(data: st.DataObject) -> None:
    origin = Origin("test", 1, 5, codec_for("json"), "type")
    line, seq = MessageQueue(), 0
    model: list[Message] = []
    for _ in range(data.draw(st.integers(1, 12))):
        size = data.draw(st.integers(0, 5))
        texts: list[Any] = ["xü"[n % 2] * n for n in range(size)]
        new = LazyMessages(texts, origin, seq + 1, 1.0)
        is_made = data.draw(st.booleans())
        line.append(list(new) if is_made else new)
        model += list(new)
        seq += size
        pops = data.draw(st.booleans())
        if model and pops:
            at = data.draw(st.integers(0, len(model) - 1))
            assert line.pop(at) == model.pop(at)
        most, room = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 60))
        first = [message for part in line.first(most, room) for message in part]
        assert first == model[: len(first)]
        assert len(first) <= most
        assert len(first) >= min(1, len(model))
        assert len(first) == 1 or space(first) <= room
        line.drop(count := data.draw(st.integers(0, len(first))))
        del model[:count]
        assert list(line) == model
        assert len(line) == len(model)
        assert line.bytes == space(model)
