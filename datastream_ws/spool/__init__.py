"""
The spool: an inbox continued in a SQLite file.

``file_lock`` says whose a file is, ``file`` reads and writes it, ``inbox`` knows what is where, and
``thread`` does all work on the file.
"""

from __future__ import annotations

from .inbox import SpooledInbox
from .thread import SpoolThread

__all__ = ["SpoolThread", "SpooledInbox"]
