"""
The spool, an inbox that continues in a SQLite file.

``file_lock`` guards a file against other processes, and ``file`` reads and writes it. ``inbox``
tracks where each message is, and ``thread`` does all work on the file.
"""

from __future__ import annotations

from .inbox import SpooledInbox
from .thread import SpoolThread

__all__ = ["SpoolThread", "SpooledInbox"]
