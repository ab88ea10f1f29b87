"""What the demo prints: a line for each thing that happens, and on a terminal one that counts."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import datetime

__all__ = ["Terminal"]

HERE = datetime.now().astimezone().tzinfo  # Django will have changed TZ, for the whole process
LINE = 80  # characters of a line that no terminal shows
RESET, ERASE = "\x1b[0m", "\r\x1b[K"
COLOURS = {"lost": "\x1b[31m", "ready": "\x1b[32m", "restarted": "\x1b[33m", "quiet": "\x1b[2m"}


class Terminal:
    """
    Standard output.

    Attributes:
        is_gone: Whether nobody reads any more, as after ``… | head``.

    """

    def __init__(self) -> None:
        self.is_gone = False
        self._is_live = sys.stdout.isatty()
        self._colours = COLOURS if self._is_live and "NO_COLOR" not in os.environ else {}

    def print(self, text: str = "") -> None:
        self._write(f"{self._erased}{text}\n")

    def tell(self, who: str, kind: str, text: str, at: float | None = None) -> None:
        """Print what happened, at a UNIX time (``None``: now), in one line."""
        clock = datetime.fromtimestamp(at or time.time(), HERE).strftime("%H:%M:%S")
        line = f"{clock}  {who:<9} {kind:<10} {text}"
        self.print(self._painted(line[: self._width], kind))

    def count(self, text: str) -> None:
        """Show *text* in the last line until something else is printed; on a terminal only."""
        if self._is_live:
            self._write(self._erased + self._painted(text[: self._width], "quiet"))

    @property
    def _erased(self) -> str:
        return ERASE if self._is_live else ""

    @property
    def _width(self) -> int:
        return shutil.get_terminal_size().columns - 1 if self._is_live else LINE

    def _painted(self, line: str, kind: str) -> str:
        colour = self._colours.get(kind)
        return f"{colour}{line}{RESET}" if colour else line

    def _write(self, text: str) -> None:
        if self.is_gone:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:  # a pipe without a reader, a terminal that was closed
            self.is_gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
