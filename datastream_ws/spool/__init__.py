"""
The spool: an inbox continued in a SQLite file.

``claim`` says whose a file is, ``file`` reads and writes it, ``inbox`` knows what is where, and
``keeper`` is the one thread on which all work on the file is done.
"""

from __future__ import annotations

from .inbox import SpooledInbox
from .thread import SpoolThread

__all__ = ["SpoolThread", "SpooledInbox"]
