"""
The SQLite file of a spool: rows in, rows out, in runs.

Everything here blocks and belongs on one thread. Each run is one step of SQLite, however many
rows it has: the sqlite3 module gives up the GIL for each step, and beside busy threads it may
take 5 ms to get it back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any, NamedTuple

from ..exceptions import SpoolError
from .disk_reserve import Reserve
from .file_lock import FileLock, check_companions, check_files, fcntl

__all__ = ["Row", "SpoolFile"]

VERSION = 1
COLUMNS = "position, epoch, connection, seq, received_at, data"
SCHEMA = f"""
    BEGIN;
    -- data: TEXT for a text frame, BLOB for a binary one
    CREATE TABLE messages (
        position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, connection INTEGER NOT NULL,
        seq INTEGER NOT NULL, received_at REAL NOT NULL, data NOT NULL
    );
    -- the last message received with a journal, once its row above is gone
    CREATE TABLE last (
        one INTEGER PRIMARY KEY, position INTEGER, epoch INTEGER, connection INTEGER,
        seq INTEGER, received_at REAL, data
    );
    PRAGMA user_version = {VERSION};
    COMMIT;
"""
# JSON carries no bytes, and text forms of a REAL lose its last bits: seconds go as whole 2^-22ths,
# which a time after 2004 in a double consists of.
TICKS = 2**22
AS_JSON = f"""
    SELECT json_group_array(json_array(
        position, epoch, connection, seq, CAST(received_at * {TICKS} AS INTEGER),
        typeof(data) = 'blob', CASE typeof(data) WHEN 'blob' THEN hex(data) ELSE data END
    ))
"""
NEXT = "SELECT * FROM messages WHERE position > ? AND position < ? ORDER BY position LIMIT ?"
READ = f"{AS_JSON} FROM ({NEXT})"
# Looking at sizes takes longer than all the rest.
READ_WITHIN = f"""
    {AS_JSON} FROM (
        SELECT *, sum(length(data)) OVER (ORDER BY position) - length(data) AS before FROM ({NEXT})
    ) WHERE before < ?
"""  # noqa: S608
REMOVE = "DELETE FROM messages WHERE position IN (SELECT value FROM json_each(?))"
REMOVE_RANGE = "DELETE FROM messages WHERE position BETWEEN ? AND ?"
LAST = f"""
    SELECT {COLUMNS} FROM last UNION ALL SELECT {COLUMNS} FROM messages WHERE position = ?
    ORDER BY position DESC LIMIT 1
"""  # noqa: S608
KEEP_LAST = f"INSERT OR REPLACE INTO last (one, {COLUMNS}) VALUES (0, ?, ?, ?, ?, ?, ?)"  # noqa: S608
# A damaged schema is in SQLite's message, which need not be UTF-8: then decoding it fails.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
FAR = 2**63 - 1
NO_LIMIT = 2**32 - 2  # pages
LEAST = 512  # pages a file has on a full disk: they fit into the reserve
MOST = 4096  # rows in one statement; SQLite takes 32,766 values
FEW = 4  # ranges of rows that are removed one by one
LARGE = 1000  # pages a file without rows may keep; above, closing gives them back


class Row(NamedTuple):
    """A message in the file; *position* is its place in the order of receipt."""

    position: int
    epoch: int
    connection: int
    seq: int
    received_at: float
    data: str | bytes


Record = tuple[int, int, int, int, float, str | bytes]  # what a Row is, where speed counts


class Corrupt(Exception):
    """SQLite cannot make sense of the file."""


class SpoolFile:
    """
    The open file.

    Attributes:
        set_aside: Where a corrupt predecessor went; ``None``: there was none.
        rows: How many rows it had when opened, from earlier processes.
        size: Bytes they take.
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
            self._db = self._open()
            try:
                self._read_state()
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._reserve = Reserve(path)
        self._reserve.take()
        self._is_tight = False  # the disk was full, and the reserve is gone

    def _open(self) -> sqlite3.Connection:
        check_files(self.path)
        try:
            return _connect(self.path)
        except Corrupt:
            self.set_aside = _set_aside(self.path)
            check_files(self.path)
            return _connect(self.path)

    def _read_state(self) -> None:
        with self._errors("cannot be read"):
            count, end = self._one("SELECT count(*), coalesce(max(position), 0) FROM messages")
            last = self._db.execute(LAST, (end,)).fetchone()
            self.rows: int = count
            self.last = None if last is None else Row(*last)
            self.end, self.epoch = (0, 0) if self.last is None else self.last[:2]
            self.size: int = self._used() if count else 0
            (self._largest,) = self._one("SELECT coalesce(max(length(data)), 0) FROM messages")

    def _one(self, query: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._db.execute(query).fetchone()
        return found

    def _used(self) -> int:
        (pages,), (free,) = self._one("PRAGMA page_count"), self._one("PRAGMA freelist_count")
        (size,) = self._one("PRAGMA page_size")
        return int((pages - free) * size)

    def write(self, rows: Sequence[Record], remove: Sequence[int], last: Any = None) -> None:
        """
        Note *last* as the last message, remove rows, add rows; in this order.

        Each of these is done as a whole or not at all, and all of it may be done again.

        Raises:
            SpoolError: If it cannot be done.

        """
        with self._errors("cannot be written"):
            if self._is_tight and self._reserve.take():
                self._limit(NO_LIMIT)
            try:
                self._write(rows, remove, last)
            except sqlite3.OperationalError:
                self._make_do()
                raise
            if self._is_tight:
                self.empty_log()

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

    def _write(self, rows: Sequence[Record], remove: Sequence[int], last: Any) -> None:
        if last is not None:
            self._db.execute(KEEP_LAST, last)
        if remove:
            self._remove(sorted(set(remove)))
        start = 0
        while start < len(rows):
            count = fitting(len(rows) - start)
            self._insert(rows[start : start + count])
            start += count

    def _remove(self, positions: Sequence[int]) -> None:
        """Remove rows by the ends of their ranges, as long as those are few."""
        ends = list(islice(ranges(positions), FEW + 1))
        if len(ends) > FEW:
            self._db.execute(REMOVE, (json.dumps(positions),))
            return
        for first_and_last in ends:
            self._db.execute(REMOVE_RANGE, first_and_last)

    def _insert(self, rows: Sequence[Record]) -> None:
        self._largest = max(self._largest, *[len(row[-1]) for row in rows])
        places = ",".join(["(?,?,?,?,?,?)"] * len(rows))
        values = list(chain.from_iterable(rows))
        self._db.execute(f"INSERT OR REPLACE INTO messages VALUES {places}", values)  # noqa: S608

    def read(self, after: int, before: int | None, count: int, size: int) -> list[Row]:
        """
        Return the next rows between two positions, in order: at most *count*, and no more once
        they have about *size* bytes of payload.

        Raises:
            SpoolError: If they cannot be read.

        """
        with self._errors("cannot be read"):
            limits = (after, FAR if before is None else before, count)
            if self._largest * count <= 4 * size:
                (found,) = self._db.execute(READ, limits).fetchone()
            else:
                (found,) = self._db.execute(READ_WITHIN, (*limits, size)).fetchone()
        rows = [
            Row(position, epoch, connection, seq, ticks / TICKS, _payload(is_blob, data))
            for position, epoch, connection, seq, ticks, is_blob, data in json.loads(found)
        ]
        return sorted(rows)

    def renew(self) -> None:
        """Begin a new file; the old one, corrupt, is set aside."""
        with suppress(sqlite3.Error):
            self._db.close()
        self.set_aside = _set_aside(self.path)
        check_files(self.path)
        self._db = _connect(self.path)
        self._is_tight = False
        self._reserve.take()

    def close(self) -> None:
        """Close the file; one that is empty but large gives its space back."""
        with suppress(sqlite3.Error):
            (empty,) = self._one("SELECT NOT EXISTS (SELECT 1 FROM messages)")
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


def _is_corrupt(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    if isinstance(error, UnicodeDecodeError):
        return True
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def fitting(count: int) -> int:
    """
    Return how many of so many rows go into the next statement: a power of two.

    So there are few different statements, and SQLite keeps them all: for as many rows as it has
    not seen yet it would take longer to compile the statement than to carry it out.
    """
    return 1 << min(count, MOST).bit_length() - 1


def ranges(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each range without a gap; they are sorted, each once."""
    if positions and positions[-1] - positions[0] == len(positions) - 1:
        yield positions[0], positions[-1]  # most often
        return
    start = 0
    for end in range(1, len(positions) + 1):
        if end == len(positions) or positions[end] != positions[end - 1] + 1:
            yield positions[start], positions[end - 1]
            start = end


def _payload(is_blob: int, data: str) -> str | bytes:
    return bytes.fromhex(data) if is_blob else data


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
    if version != VERSION and (version or tables):
        raise SpoolError(
            f"spool {path}: has format {version}, this version of datastream-ws knows {VERSION}; "
            "run the version that wrote it until it is empty, or name another path"
        )
    if fcntl is None:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    # What was committed survives the death of the process; that of the machine may cost the newest.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 4194304")
    if not tables:
        db.executescript(SCHEMA)
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise Corrupt


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
        raise SpoolError(f"spool {path}: is corrupt and cannot be set aside ({reason})") from None
    return aside
