"""The output of the demo, with a line for each event, and a live line on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import datetime

__all__ = ["Terminal"]

HERE = datetime.now().astimezone().tzinfo  # before Django changes TZ for the whole process
LINE = 80  # characters in a line without a terminal
RESET, ERASE = "\x1b[0m", "\r\x1b[K"
COLORS = {"lost": "\x1b[31m", "ready": "\x1b[32m", "restarted": "\x1b[33m", "quiet": "\x1b[2m"}


class Terminal:
    """
    The standard output.

    Attributes:
        is_gone: Whether the reader has exited, as in ``… | head``.

    """

    def __init__(self) -> None:
        self.is_gone = False
        self._is_live = sys.stdout.isatty()
        self._colors = COLORS if self._is_live and "NO_COLOR" not in os.environ else {}

    def print(self, text: str = "") -> None:
        self._write(f"{self._erased}{text}\n")

    def tell(self, who: str, kind: str, text: str, at: float | None = None) -> None:
        """Print an event in one line. *at* is a UNIX time, and ``None`` means now."""
        clock = datetime.fromtimestamp(at or time.time(), HERE).strftime("%H:%M:%S")
        line = f"{clock}  {who:<9} {kind:<10} {text}"
        self.print(self._painted(line[: self._width], kind))

    def count(self, text: str) -> None:
        """Show *text* in the live line of a terminal, until another line is printed."""
        if self._is_live:
            self._write(self._erased + self._painted(text[: self._width], "quiet"))

    @property
    def _erased(self) -> str:
        return ERASE if self._is_live else ""

    @property
    def _width(self) -> int:
        return shutil.get_terminal_size().columns - 1 if self._is_live else LINE

    def _painted(self, line: str, kind: str) -> str:
        color = self._colors.get(kind)
        return f"{color}{line}{RESET}" if color else line

    def _write(self, text: str) -> None:
        if self.is_gone:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:  # the reader of a pipe has exited, or the terminal was closed
            self.is_gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
