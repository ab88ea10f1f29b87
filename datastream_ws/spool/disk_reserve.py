"""Reserved disk space for the case that the disk is full."""

from __future__ import annotations

import os
from contextlib import suppress

from ..exceptions import SpoolError
from .file_lock import open_own

__all__ = ["Reserve"]

SIZE = 8 * 2**20  # bytes; SQLite's write-ahead log is never larger


class Reserve:
    """
    A file of zeros beside the spool, which is deleted when the disk is full.

    On a full disk SQLite cannot even remove rows, because writing its log into the file may make
    the file grow. The space of the deleted reserve is enough for that. The methods block.

    Attributes:
        is_held: Whether the reserve exists. It does not if the system cannot allocate files or
            lacks the space.

    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}-reserve"
        self.is_held = False

    def take(self) -> bool:
        """Reserve the space if twice as much is free. Return whether the reserve exists."""
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
        """Delete the reserve. Calling it again has no effect."""
        self.is_held = False
        with suppress(OSError):
            os.unlink(self._path)
