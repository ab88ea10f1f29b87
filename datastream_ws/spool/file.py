"""
The SQLite file of a spool: runs of messages in, runs out.

Everything here blocks and belongs on one thread. Few steps of SQLite do it all, however many
messages there are: the sqlite3 module gives up the GIL for each step, and beside busy threads it
may take 5 ms to get it back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
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
    -- times: JSON, how many were received when; lengths: of each payload, 32 bits; see run.py
    CREATE TABLE runs (
        first INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, connection INTEGER NOT NULL,
        seq INTEGER NOT NULL, times TEXT NOT NULL, lengths BLOB NOT NULL, data BLOB NOT NULL
    );
    -- of a run that is not handled as a whole yet; marks: 1 for each message that is, else 0
    CREATE TABLE handled (first INTEGER PRIMARY KEY, marks TEXT NOT NULL);
    CREATE TRIGGER gone AFTER DELETE ON runs
        BEGIN DELETE FROM handled WHERE first = OLD.first; END;
    -- the last message received with a journal, once its run above is gone
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
# Marks that make no sense are none: at worst, messages are handled again.
MARKS = """
    CASE length(replace(replace(marks, '0', ''), '1', ''))
    WHEN 0 THEN CAST(marks AS TEXT) ELSE '' END
"""
KEPT = f"SELECT {RUN}, {MARKS} FROM runs LEFT JOIN handled USING (first)"  # noqa: S608
# The run that a message is in begins at it or before it.
AROUND = "first BETWEEN coalesce((SELECT max(first) FROM runs WHERE first <= ?1), ?1) AND ?2"
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
OWN_PAGES = 4  # the first one of each table, and of the schema
KEEP_LAST = f"INSERT OR REPLACE INTO last (one, {COLUMNS}) VALUES (0, ?, ?, ?, ?, ?, ?)"  # noqa: S608
OLD_ROWS = 1000  # of format 1, moved in one transaction, and about so many bytes:
OLD_BYTES = 2**20
# A damaged schema is in SQLite's message, which need not be UTF-8: then decoding it fails.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError, Corrupt)
FAR = 2**63 - 1
NO_LIMIT = 2**32 - 2  # pages
LEAST = 512  # pages a file has on a full disk: they fit into the reserve
MOST = 2048  # runs in one statement; SQLite takes 32,766 values
LARGE = 1000  # pages a file without runs may keep; above, closing gives them back


class SpoolFile:
    """
    The open file.

    Attributes:
        set_aside: Where a corrupt predecessor went; ``None``: there was none.
        count: How many messages it had when opened, from earlier processes.
        size: Bytes that its runs take now.
        end, epoch: The highest position, and the epoch of the last message, ever given out.
        last: The last message that an earlier process received, with a journal, or put here.

    Raises:
        SpoolError: If it cannot, or must not, be used. It says why and what to do.

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
        self._is_tight = False  # the disk was full, and the reserve is gone
        # Handled messages that a full disk had no page to say so for.
        self._unmarked: list[int] = []

    def _open(self) -> None:
        check_files(self.path)
        try:
            self._connect()
        except Corrupt:
            self.set_aside = _set_aside(self.path)
            check_files(self.path)
            self._connect()

    def _connect(self) -> None:
        """Raises Corrupt or SpoolError."""
        self._db = _connect(self.path)
        try:
            with self._errors("cannot be read"):
                self._read_state()
        except BaseException as error:
            self._db.close()
            if isinstance(error, SpoolError) and is_corrupt(error):
                raise Corrupt from None
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
        Note *last* as the last message, add runs, remove messages by position; in this order.

        A position stands for the same message always: what was removed may be added again.
        Each of these is done as a whole or not at all, and all of it may be done again.

        Raises:
            SpoolError: If it cannot be done.

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
        Have rows come and go in the space that the file has now.

        The log keeps what it has taken of the disk, and is used again from its beginning.
        """
        if self._reserve.is_held:
            self._is_tight = True
            self._reserve.give()
            with suppress(sqlite3.Error):
                self._grow()
            self._limit(*self._one("PRAGMA page_count"))
        self.empty_log()

    def _grow(self) -> None:
        """Take what a small file is to have from the disk, before somebody else does."""
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
        """Have SQLite's log written into the file; for a disk that is nearly full."""
        how = "RESTART" if self._is_tight else "TRUNCATE"
        with suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA wal_checkpoint({how})").fetchall()

    def _write(self, runs: Sequence[Run], remove: Sequence[int], last: Row | None) -> None:
        if last is not None:
            self._db.execute(KEEP_LAST, last)
        runs = [part for run in runs for part in self._missing(run)]
        start = 0
        while start < len(runs):
            count = fitting(len(runs) - start)
            _insert(self._db, runs[start : start + count])
            start += count
        self._highest = max([self._highest, *[run.positions[-1] for run in runs]])
        if remove:
            self._remove(sorted({*remove, *self._unmarked}))

    def _missing(self, run: Run) -> list[Run]:
        """Unmark what of a run is in the file, in a run that is not handled; return the rest."""
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
        """Return first position, count and marks of the runs that have some of *positions*."""
        (found,) = self._db.execute(FIND, (positions[0], positions[-1])).fetchone()
        runs: list[tuple[int, int, str]] = json.loads(found)
        return runs

    def _remove(self, positions: Sequence[int]) -> None:
        """Remove runs that are handled as a whole, and mark what is of the others."""
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
        """A full disk is not in the way: a run that is handled as a whole needs no marks."""
        try:
            self._db.execute(MARK, (json.dumps(parts),))
        except sqlite3.OperationalError:
            self._unmarked = [
                first + at for first, marks in parts for at in range(len(marks)) if marks[at] == "1"
            ]
            self._make_do()

    def read(self, after: int, before: int | None, count: int, size: int) -> list[Run]:
        """
        Return the next messages between two positions that are not handled, in order: at most
        *count*, and no more once they have about *size* bytes of payload.

        Raises:
            SpoolError: If they cannot be read.

        """
        found: list[Run] = []
        end = FAR if before is None else before
        limits = after + 1, end - 1
        with self._errors("cannot be read"), closing(self._db.execute(READ, limits)) as rows:
            for *row, marks in rows:
                kept = decode(row)
                first = kept.position
                for run in kept.unmarked(marks, after + 1 - first, end - first):
                    found.append(run.part(0, min(count, run.within(size))))
                    count -= len(found[-1])
                    size -= sum(map(len, found[-1].payloads))
                    if count <= 0 or size <= 0:
                        return found
        return found

    def renew(self) -> None:
        """Begin a new file; the old one, corrupt, is set aside."""
        with suppress(sqlite3.Error):
            self._db.close()
        self.set_aside = _set_aside(self.path)
        check_files(self.path)
        self._connect()
        self._unmarked = []
        self._is_tight = False
        self._reserve.take()

    def close(self) -> None:
        """Close the file; one that is empty but large gives its space back."""
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
    """Tell a file that makes no sense from one that cannot be read or written now."""
    return isinstance(error.__cause__, Corrupt)


def _is_corrupt(error: sqlite3.Error | UnicodeDecodeError | Corrupt) -> bool:
    if not isinstance(error, sqlite3.Error):
        return True
    if "Could not decode to UTF-8" in str(error):  # sqlite3's own words
        return True
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def fitting(count: int) -> int:
    """
    Return how many of so many runs go into the next statement, a power of two.

    There are few different statements then, and SQLite keeps them all compiled. Compiling a
    statement takes longer than executing it.
    """
    return 1 << min(count, MOST).bit_length() - 1


def _insert(db: sqlite3.Connection, runs: Sequence[Run]) -> None:
    places = ",".join([PLACES] * len(runs))
    values = list(chain.from_iterable(map(encode, runs)))
    db.execute(f"INSERT OR REPLACE INTO runs VALUES {places}", values)  # noqa: S608


def _marked(marks: str, count: int, numbers: Sequence[int]) -> str:
    """Return the marks of so many messages with *numbers*, which are sorted, marked as well."""
    first, last = numbers[0], numbers[-1]
    marks = marks.ljust(count, "0")[:count]
    if last - first == len(numbers) - 1:  # most often
        return _replaced(marks, first, "1" * len(numbers))
    found = list(marks)
    for number in numbers:
        found[number] = "1"
    return "".join(found)


def _replaced(marks: str, at: int, by: str) -> str:
    return f"{marks[:at]}{by}{marks[at + len(by) :]}"


def _connect(path: str) -> sqlite3.Connection:
    """Raises Corrupt or SpoolError."""
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(path, isolation_level=None, cached_statements=32)
        _prepare(db, path)
        check_companions(path)
        return db
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, DATABASE_ERRORS):
            if _is_corrupt(error):
                raise Corrupt from None
            raise SpoolError(f"spool {path}: cannot be opened ({error})") from None
        raise


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
    # What was committed survives the death of the process; that of the machine may cost the newest.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 4194304")
    # Where SQLite is built to overwrite what it deletes, that takes as long as all the rest.
    db.execute("PRAGMA secure_delete = FAST")
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise Corrupt
    if not tables or version == 1:
        db.executescript(SCHEMA)
    # That they are moved one by one needs no more disk than they have; a crash is no harm.
    while db.execute("SELECT 1 FROM sqlite_master WHERE name = 'messages'").fetchone():
        _move_old(db)


def _move_old(db: sqlite3.Connection) -> None:
    """Move some rows of format 1, one for each message, into runs."""
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
    """Rename the file and its companions; return the new name."""
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
