"""Read the messages in the file of a spool while another process has it open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from datastream_ws.spool.run import Row, decode

__all__ = ["rows_in"]


def rows_in(path: str | Path) -> list[Row]:
    """Return the messages in the file that are not handled yet, in order."""
    if not Path(path).exists():
        return []
    query = "SELECT runs.*, coalesce(marks, '') FROM runs LEFT JOIN handled USING (first)"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return []  # the file was just created
        found = db.execute(f"{query} ORDER BY first").fetchall()
    parts = (part for *row, marks in found for part in decode(row).unmarked(marks))
    return [row for part in parts for row in part.rows()]
