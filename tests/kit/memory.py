"""The memory of another process, and its peak since a moment that the test sets."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

__all__ = ["MEGABYTE", "Memory"]

MEGABYTE = 2**20


class Memory:
    """
    The memory of a process in bytes. Without Linux, the test is skipped.

    Args:
        pid: The id of a process of the same user.

    Attributes:
        before: The memory at the last :meth:`reset`.

    """

    def __init__(self, pid: int) -> None:
        if sys.platform != "linux":
            pytest.skip("only Linux reports the peak of another process's memory")
        self._folder = Path(f"/proc/{pid}")
        self.reset()

    def reset(self) -> None:
        """Measure the growth from now on."""
        (self._folder / "clear_refs").write_text("5")
        self.before = self.now

    @property
    def now(self) -> int:
        return self._read("VmRSS")

    @property
    def growth(self) -> int:
        """The peak since :meth:`reset`, minus the memory at that time."""
        return self._read("VmHWM") - self.before

    def _read(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", (self._folder / "status").read_text())
        assert found is not None
        return int(found[1]) * 1024
