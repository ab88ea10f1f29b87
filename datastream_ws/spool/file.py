"""
The SQLite file of a spool, which stores runs of messages.

Everything here blocks and must run on one thread. The number of SQLite steps does not grow with the
number of messages. The sqlite3 module releases the GIL for each step, and it may take 5 ms to get
it back while other threads are busy.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import chain
from typing import Any

from ..exceptions import SpoolError
from .disk_reserve import Reserve
from .file_lock import FileLock, check_companions, check_files, fcntl
from .run import Corrupt, Row, Run, checked, decode, encode, run_of, runs_of

__all__ = ["SpoolFile"]

VERSION = 2
SCHEMA = f"""
    BEGIN;
    -- run.py describes the values: times is JSON, and lengths has 32 bits for each payload
    CREATE TABLE runs (
        first INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, connection INTEGER NOT NULL,
        seq INTEGER NOT NULL, times TEXT NOT NULL, lengths BLOB NOT NULL, data BLOB NOT NULL
    );
    -- the runs that are partly handled: marks has a 1 for each handled message, otherwise a 0
    CREATE TABLE handled (first INTEGER PRIMARY KEY, marks TEXT NOT NULL);
    CREATE TRIGGER gone AFTER DELETE ON runs
        BEGIN DELETE FROM handled WHERE first = OLD.first; END;
    -- with a journal, the last received message, once its run is deleted
    CREATE TABLE IF NOT EXISTS last (
        one INTEGER PRIMARY KEY, position INTEGER, epoch INTEGER, connection INTEGER,
        seq INTEGER, received_at REAL, data
    );
    PRAGMA user_version = {VERSION};
    COMMIT;
"""  # noqa: S608
COLUMNS = "position, epoch, connection, seq, received_at, data"
RUN = "first, epoch, connection, seq, times, lengths, data"
PLACES = "(?,?,?,?,?,?,?)"
# Invalid marks count as none. At worst, messages are handled again.
MARKS = """
    CASE length(replace(replace(marks, '0', ''), '1', ''))
    WHEN 0 THEN CAST(marks AS TEXT) ELSE '' END
"""
KEPT = f"SELECT {RUN}, {MARKS} FROM runs LEFT JOIN handled USING (first)"  # noqa: S608
# The run of a message begins at its position or before it. Python 3.12.0 and 3.12.1 warn of ?1.
AROUND = "first BETWEEN coalesce((SELECT max(first) FROM runs WHERE first <= :from), :from) AND :to"
READ = f"{KEPT} WHERE {AROUND} ORDER BY first"
FIND = f"""
    SELECT json_group_array(json_array(first, length(lengths) / 4, {MARKS}))
    FROM runs LEFT JOIN handled USING (first) WHERE {AROUND}
"""  # noqa: S608
REMOVE = "DELETE FROM runs WHERE first IN (SELECT value FROM json_each(?))"
MARK = """
    INSERT OR REPLACE INTO handled
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)
"""
COUNT = f"""
    SELECT coalesce(sum(length(lengths) / 4), 0) FROM runs UNION ALL
    SELECT coalesce(sum(length(replace({MARKS}, '0', ''))), 0) FROM handled
"""  # noqa: S608
OWN_PAGES = 4  # the schema's first page, and one for each table
KEEP_LAST = f"INSERT OR REPLACE INTO last (one, {COLUMNS}) VALUES (0, ?, ?, ?, ?, ?, ?)"  # noqa: S608
OLD_ROWS = 1000  # rows of format 1 that one transaction moves
OLD_BYTES = 2**20  # bytes of them, about
# SQLite's message may quote a damaged schema, and then decoding it as UTF-8 fails.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError, Corrupt)
FAR = 2**63 - 1
NO_LIMIT = 2**32 - 2  # pages
LEAST = 512  # pages that a file gets on a full disk; they fit into the reserve
MOST = 2048  # runs in one statement, because SQLite allows 32,766 values
LARGE = 1000  # pages that an empty file keeps; closing shrinks a larger one


class SpoolFile:
    """
    The open file of a spool. Creating the object opens the file or makes it.

    Args:
        path: The path of the file.

    Attributes:
        set_aside: The new path of a corrupt file. ``None`` means that no file was corrupt.
        count: How many messages of earlier processes the file had when it was opened.
        size: Bytes that the runs take now.
        end: The highest position ever used.
        epoch: The epoch of the last message.
        last: The last message of earlier processes that the file has. With a journal it is the last
            one that they received. ``None`` means that there is none.

    Raises:
        SpoolError: If the file cannot or must not be used.

    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.set_aside: str | None = None
        self._lock = FileLock(path)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        self._reserve = Reserve(path)
        self._reserve.take()
        self._is_renewing = False  # the corrupt file is renamed, and there is no new one yet
        self._is_tight = False  # the disk was full, and the reserve was deleted
        # Positions of handled messages that could not be marked, because the disk was full.
        self._unmarked: list[int] = []

    def _open(self) -> None:
        try:
            self._connect()
        except SpoolError as error:
            if not is_corrupt(error):
                raise
            self.set_aside = _set_aside(self.path)
            self._connect()

    def _connect(self) -> None:
        """Open the database and read its state. Raises SpoolError."""
        check_files(self.path)
        with self._errors("cannot be opened"):
            self._db = sqlite3.connect(self.path, isolation_level=None, cached_statements=32)
            try:
                _prepare(self._db, self.path)
                check_companions(self.path)
                self._read_state()
            except BaseException:
                self._db.close()
                raise

    def _read_state(self) -> None:
        (kept,), (handled,) = self._db.execute(COUNT).fetchall()
        self.count: int = max(0, kept - handled)
        (self._page_bytes,) = self._one("PRAGMA page_size")
        self._measure()
        last = self._db.execute(f"SELECT {COLUMNS} FROM last").fetchone()  # noqa: S608
        newest = self._db.execute(f"{KEPT} ORDER BY first DESC LIMIT 1").fetchone()
        newest_rows = decode(newest[:-1]).rows() if newest else []
        found = [*([checked(Row(*last))] if last else []), *newest_rows[-1:]]
        self.last = max(found, default=None)
        self._highest = newest_rows[-1].position if newest_rows else -1
        self.end, self.epoch = (0, 0) if self.last is None else self.last[:2]

    def _measure(self) -> None:
        (pages,), (free,) = self._one("PRAGMA page_count"), self._one("PRAGMA freelist_count")
        self.size: int = max(0, pages - free - OWN_PAGES) * self._page_bytes

    def _one(self, query: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._db.execute(query).fetchone()
        return found

    def write(self, runs: Sequence[Run], remove: Sequence[int], last: Row | None = None) -> None:
        """
        Store *last*, add runs and remove messages by position, in this order.

        After an error, the file has all of the runs or none of them. Call it again with the same
        arguments. A position always stands for the same message, so adding it twice is safe.

        Args:
            runs: The runs to add.
            remove: The positions of handled messages.
            last: The last received message, if it is among the removed ones. ``None`` means that it
                is not.

        Raises:
            SpoolError: If the file cannot be written.

        """
        with self._errors("cannot be written"):
            if self._is_tight and self._reserve.take():
                self._limit(NO_LIMIT)
            try:
                self._write(runs, remove, last)
            except sqlite3.OperationalError:
                self._make_do()
                raise
            if self._is_tight:
                self.empty_log()
            self._measure()

    def _make_do(self) -> None:
        """
        Limit the file to its current space, in which rows can still be replaced.

        The log keeps its space on the disk, and SQLite writes it again from its beginning.
        """
        if self._reserve.is_held:
            self._is_tight = True
            self._reserve.give()
            with suppress(sqlite3.Error):
                self._grow()
            self._limit(*self._one("PRAGMA page_count"))
        self.empty_log()

    def _grow(self) -> None:
        """Extend a small file to its least size, before another program takes the space."""
        self.empty_log()
        (pages,), (size,) = self._one("PRAGMA page_count"), self._one("PRAGMA page_size")
        if pages < LEAST:
            self._db.execute("CREATE TABLE IF NOT EXISTS room (data)")
            self._db.execute("INSERT INTO room VALUES (zeroblob(?))", ((LEAST - pages) * size,))
            self.empty_log()
            self._db.execute("DROP TABLE room")

    def _limit(self, pages: int) -> None:
        self._one(f"PRAGMA max_page_count = {pages}")
        self._is_tight = pages != NO_LIMIT

    def empty_log(self) -> None:
        """Write SQLite's log into the file, because the disk is nearly full."""
        how = "RESTART" if self._is_tight else "TRUNCATE"
        with suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA wal_checkpoint({how})").fetchall()

    def _write(self, runs: Sequence[Run], remove: Sequence[int], last: Row | None) -> None:
        if last is not None:
            self._db.execute(KEEP_LAST, last)
        start = 0
        runs = [part for run in runs for part in self._missing(run)]
        with _transaction(self._db) if len(runs) > 1 else nullcontext():
            while start < len(runs):
                count = fitting(len(runs) - start)
                _insert(self._db, runs[start : start + count])
                start += count
        self._highest = max([self._highest, *[run.positions[-1] for run in runs]])
        if remove:
            self._remove(sorted({*remove, *self._unmarked}))

    def _missing(self, run: Run) -> list[Run]:
        """Return the parts of a run that the file lacks, and unmark those that it has."""
        if run.position > self._highest:
            return [run]
        had, parts = "0" * len(run), []
        for first, count, marks in self._around(run.positions):
            start, stop = max(first, run.position), min(first + count, run.positions.stop)
            if start < stop:
                marks = marks.ljust(count, "0")
                parts.append((first, _replaced(marks, start - first, "0" * (stop - start))))
                had = _replaced(had, start - run.position, "1" * (stop - start))
        if parts:
            self._db.execute(MARK, (json.dumps(parts),))
        return list(run.unmarked(had))

    def _around(self, positions: Sequence[int]) -> list[tuple[int, int, str]]:
        """Return position, count and marks of the runs that may contain some of *positions*."""
        (found,) = self._db.execute(FIND, {"from": positions[0], "to": positions[-1]}).fetchone()
        runs: list[tuple[int, int, str]] = json.loads(found)
        return runs

    def _remove(self, positions: Sequence[int]) -> None:
        """Delete runs that are wholly handled, and mark the handled messages of the others."""
        whole, parts = [], []
        for first, count, marks in self._around(positions):
            start, stop = bisect_left(positions, first), bisect_left(positions, first + count)
            if start == stop:
                continue
            marks = _marked(marks, count, [each - first for each in positions[start:stop]])
            if "0" in marks:
                parts.append((first, marks))
            else:
                whole.append(first)
        if whole:
            self._db.execute(REMOVE, (json.dumps(whole),))
        self._unmarked = []
        if parts:
            self._mark(parts)

    def _mark(self, parts: Sequence[tuple[int, str]]) -> None:
        """
        Store marks. If the disk is full, keep their positions for the next attempt.

        That is no failure of the write, because later the whole run may be handled and deleted.
        """
        try:
            self._db.execute(MARK, (json.dumps(parts),))
        except sqlite3.OperationalError:
            self._unmarked = [
                first + at for first, marks in parts for at in range(len(marks)) if marks[at] == "1"
            ]
            self._make_do()

    def read(self, after: int, before: int | None, most: int, size: int) -> list[Run]:
        """
        Return the next unhandled messages between two positions, in order.

        Args:
            after: The position before the first one.
            before: The position after the last one. ``None`` means no limit.
            most: Maximum number of messages to return.
            size: Bytes of payload, about, after which to stop.

        Raises:
            SpoolError: If the file cannot be read.

        """
        found: list[Run] = []
        end = FAR if before is None else before
        limits = {"from": after + 1, "to": end - 1}
        with self._errors("cannot be read"), closing(self._db.execute(READ, limits)) as rows:
            for *row, marks in rows:
                kept = decode(row)
                first = kept.position
                for run in kept.unmarked(marks, after + 1 - first, end - first):
                    found.append(run.part(0, min(most, run.within(size))))
                    most -= len(found[-1])
                    size -= sum(map(len, found[-1].payloads))
                    if most <= 0 or size <= 0:
                        return found
        return found

    def renew(self) -> None:
        """
        Rename the corrupt file and open a new one. After an error, call it again.

        Raises:
            SpoolError: If the file cannot be renamed, or a new one cannot be made.

        """
        with suppress(sqlite3.Error):
            self._db.close()
        if not self._is_renewing:
            self.set_aside = _set_aside(self.path)
            self._is_renewing = True
        self._connect()
        self._is_renewing = False
        self._unmarked = []
        self._is_tight = False
        self._reserve.take()

    def close(self) -> None:
        """Close the file. An empty but large file is shrunk first."""
        with suppress(sqlite3.Error):
            (empty,) = self._one("SELECT NOT EXISTS (SELECT 1 FROM runs)")
            if empty and self._one("PRAGMA page_count")[0] > LARGE:
                self._db.execute("VACUUM")
        with suppress(sqlite3.Error):
            self._db.close()
        self._reserve.give()
        self._lock.release()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except DATABASE_ERRORS as error:
            failure = SpoolError(f"spool {self.path}: {what} ({error})")
            failure.__cause__ = Corrupt() if _is_corrupt(error) else None
            raise failure from failure.__cause__


def is_corrupt(error: SpoolError) -> bool:
    """Return whether the error means a corrupt file, and not one that fails temporarily."""
    return isinstance(error.__cause__, Corrupt)


def _is_corrupt(error: sqlite3.Error | UnicodeDecodeError | Corrupt) -> bool:
    if not isinstance(error, sqlite3.Error):
        return True
    if "Could not decode to UTF-8" in str(error):  # sqlite3 has no error code for that
        return True
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def fitting(count: int) -> int:
    """
    Return how many of *count* runs to insert with the next statement, a power of two.

    With powers of two there are few different statements, so SQLite keeps all of them compiled.
    Compiling a statement takes longer than executing it.
    """
    return 1 << min(count, MOST).bit_length() - 1


def _insert(db: sqlite3.Connection, runs: Sequence[Run]) -> None:
    places = ",".join([PLACES] * len(runs))
    values = list(chain.from_iterable(map(encode, runs)))
    db.execute(f"INSERT OR REPLACE INTO runs VALUES {places}", values)  # noqa: S608


def _marked(marks: str, count: int, numbers: Sequence[int]) -> str:
    """Return the marks of *count* messages, with the sorted indexes *numbers* added."""
    first, last = numbers[0], numbers[-1]
    marks = marks.ljust(count, "0")[:count]
    if last - first == len(numbers) - 1:  # consecutive, which is the usual case
        return _replaced(marks, first, "1" * len(numbers))
    found = list(marks)
    for number in numbers:
        found[number] = "1"
    return "".join(found)


def _replaced(marks: str, at: int, by: str) -> str:
    return f"{marks[:at]}{by}{marks[at + len(by) :]}"


def _prepare(db: sqlite3.Connection, path: str) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version not in (1, VERSION) and (version or tables):
        raise SpoolError(
            f"spool {path}: has format {version}, and this version reads format {VERSION}. Run the "
            "version that wrote it until it is empty, or set another path."
        )
    if fcntl is None:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    # A commit survives a crash of the process. A power failure may lose the newest commits.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 4194304")
    # Some systems build SQLite to overwrite deleted data, which doubles the time of a write.
    db.execute("PRAGMA secure_delete = FAST")
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise Corrupt
    if not tables or version == 1:
        db.executescript(SCHEMA)
    # Moving a few at a time needs little disk space, and can continue after a crash.
    while db.execute("SELECT 1 FROM sqlite_master WHERE name = 'messages'").fetchone():
        _move_old(db)


def _move_old(db: sqlite3.Connection) -> None:
    """Move some rows of format 1, which has a row per message, into runs."""
    query = f"SELECT {COLUMNS} FROM messages ORDER BY position LIMIT {OLD_ROWS}"  # noqa: S608
    rows, size = [], 0
    with closing(db.execute(query)) as found:
        for values in found:
            rows.append(checked(Row(*values)))
            size += len(rows[-1].data)
            if size >= OLD_BYTES:
                break
    with _transaction(db):
        if not rows:
            db.execute("DROP TABLE messages")
            return
        for run in runs_of(map(run_of, rows)):
            _insert(db, [run])
        db.execute("DELETE FROM messages WHERE position <= ?", (rows[-1].position,))


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _set_aside(path: str) -> str:
    """
    Rename a corrupt file and its companions, and return the new path.

    Raises:
        SpoolError: If it cannot be renamed.

    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = f"{path}.corrupt-{stamp}"
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = f"{path}.corrupt-{stamp}-{number}"
    try:
        os.rename(path, aside)
        for end in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.rename(path + end, aside + end)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SpoolError(f"spool {path}: is corrupt and cannot be renamed ({reason})") from None
    return aside
