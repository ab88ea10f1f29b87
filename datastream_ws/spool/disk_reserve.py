"""Room on the disk that is set aside for the day it is full."""

from __future__ import annotations

import os
from contextlib import suppress

from ..exceptions import SpoolError
from .file_lock import open_own

__all__ = ["Reserve"]

SIZE = 8 * 2**20  # what SQLite's log holds at most, and has not written into the file yet


class Reserve:
    """
    A file of zeros beside the spool.

    On a full disk SQLite cannot even remove rows: its log must go into the file first, which may
    have to grow for that. The room that this file gives up is enough for it.

    Attributes:
        is_held: Whether it is there. Not where the system cannot allocate, or has no room.

    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}-reserve"
        self.is_held = False

    def take(self) -> bool:
        """Set the room aside if as much again is free; return whether it is there."""
        if not hasattr(os, "posix_fallocate"):
            return False
        with suppress(OSError, SpoolError):
            disk = os.statvfs(os.path.dirname(self._path))
            if disk.f_bavail * disk.f_frsize >= 2 * SIZE:
                self._allocate()
        return self.is_held

    def _allocate(self) -> None:
        descriptor = open_own(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
            self.is_held = True
        finally:
            os.close(descriptor)
            if not self.is_held:
                self.give()

    def give(self) -> None:
        """Let it go."""
        self.is_held = False
        with suppress(OSError):
            os.unlink(self._path)
