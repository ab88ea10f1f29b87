"""The conversion of bytes from stdin into lines, for a terminal and for a pipe."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass, field

__all__ = ["LONGEST_LINE", "Cutter", "Editor", "Unsent"]

LONGEST_LINE = 2**20  # bytes; the default limit of many servers
TOO_LONG = f"a line is longer than {LONGEST_LINE // 2**20} MiB"
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.)?")  # arrows, function keys (ECMA-48, 5.4)
LAST_WORD = re.compile(r"\S*\s*\Z")

ENTER, CTRL_D, CTRL_U, CTRL_W = "\r\n", "\x04", "\x15", "\x17"
BACKSPACE = "\x7f\b"


@dataclass(frozen=True, slots=True)
class Unsent:
    """A line that can't be sent, and the reason."""

    why: str


@dataclass(slots=True)
class Cutter:
    """A splitter that cuts the bytes of a pipe into lines. It holds at most one line."""

    longest: int = LONGEST_LINE
    has_ended: bool = False
    _rest: bytearray = field(default_factory=bytearray)
    _is_too_long: bool = False

    def feed(self, data: bytes) -> list[str | Unsent]:
        """Return the non-empty lines that *data* completes. Empty data means the end."""
        self.has_ended = not data
        *pieces, rest = [*data.split(b"\n"), b""] if self.has_ended else data.split(b"\n")
        lines = [self._line(piece) for piece in pieces]
        self._add(rest)
        return [line for line in lines if line != ""]

    def _add(self, piece: bytes) -> None:
        self._is_too_long |= len(self._rest) + len(piece) > self.longest
        if self._is_too_long:
            self._rest.clear()
        else:
            self._rest += piece

    def _line(self, piece: bytes) -> str | Unsent:
        self._add(piece)
        line, is_too_long = bytes(self._rest), self._is_too_long
        self._rest.clear()
        self._is_too_long = False
        if is_too_long:
            return Unsent(TOO_LONG)
        try:
            return line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            return Unsent("a line is not UTF-8")


class Editor:
    """
    The editor of the line that the user types, if the terminal delivers single keys.

    Attributes:
        has_ended: Whether Ctrl-D was pressed on an empty line.

    """

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self.has_ended = False
        self._longest = longest
        self._size = 0  # bytes
        self._typed: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def tail(self, length: int) -> str:
        """Return at most the last *length* characters."""
        return "".join(self._typed[-length:])

    def feed(self, keys: bytes) -> list[str | Unsent]:
        """Return the non-empty lines that Enter completes."""
        if not keys:
            self.has_ended = True
        lines = []
        for key in ESCAPES.sub("", self._decoder.decode(keys)):
            if key in ENTER:
                lines.append(self._finish())
            else:
                self._press(key)
        return [line for line in lines if line != ""]

    def _finish(self) -> str | Unsent:
        line = Unsent(TOO_LONG) if self._is_too_long else "".join(self._typed)
        self._replace("")
        return line

    @property
    def _is_too_long(self) -> bool:
        """Whether characters were ignored, so that the line must not be sent."""
        return self._size > self._longest

    def _press(self, key: str) -> None:
        if key == CTRL_D:
            self.has_ended |= not self._typed
        elif key == CTRL_U:
            self._replace("")
        elif self._is_too_long:
            return
        elif key in BACKSPACE:
            self._size -= len(self._typed.pop().encode()) if self._typed else 0
        elif key == CTRL_W:
            self._replace(LAST_WORD.sub("", "".join(self._typed)))
        elif key == "\t" or unicodedata.category(key) != "Cc":
            self._insert(key)

    def _insert(self, key: str) -> None:
        self._size += len(key.encode())
        if not self._is_too_long:
            self._typed.append(key)

    def _replace(self, text: str) -> None:
        self._typed = list(text)
        self._size = len(text.encode())
