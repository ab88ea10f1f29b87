"""
Cuts whole messages out of the received bytes, and inflates them, in front of the library's parser.

Nearly all traffic is messages in one frame. In one loop they cost a fraction of what any call per
frame does, a C parser's call-back included (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import struct
import sys
import zlib
from collections.abc import Callable

from .deflate import TooBig

__all__ = ["FrameCutter", "read_in_pieces"]

header = struct.Struct(">HH").unpack_from  # the header of a short frame, or of one below 64 KiB

EXTENDED = 126  # in the place of the length: it is in the next two bytes
TEXT, BINARY = 0x8100, 0x8200  # the first two bytes of a final, unmasked frame, less its length
LONG_TEXT = TEXT + EXTENDED
PACKED = 0x4000  # the bit RSV1: compressed (RFC 7692 section 6)
WRONG = (UnicodeDecodeError, TooBig, zlib.error)  # what a message may turn out to be
# What makes a message of a payload, by the first two bytes of its frame, less the length.
PLAIN: dict[int, Callable[[bytes], str | bytes]] = {TEXT: bytes.decode, BINARY: bytes}
NO_LIMIT = sys.maxsize - 1  # zlib wants to be told one more
READ_BYTES = 2**16
LONG_READ_BYTES = 2**17 - 2**10  # of long messages; from 128 KiB on malloc would map new pages
LONG = 2**10  # bytes of a message, on average
MOST_READ_BYTES = 2**20

Inflate = Callable[[bytes, int], bytes]


class FrameCutter:
    """
    Takes messages that fill one frame, gives every other frame to the library.

    The library is given whole frames only, so that its parser stands between two frames
    whenever one is taken here. Source: RFC 6455 section 5.2.

    Args:
        max_size: Largest message, in bytes; ``None``: no limit.
        library: Given bytes that are for the library, a whole frame unless it is wrong or too
            big. It may set :attr:`takes` and :attr:`is_over`.
        broken: Given the close code and the error of a message that ends the connection.

    Attributes:
        takes: Whole messages may be taken; not amid the fragments of one, for example.
        is_over: From here on all bytes are the library's.
        messages, size: What was taken, and the size of the payloads in bytes.
        missing: Bytes until it is worth another look.

    """

    __slots__ = (
        "_broken",
        "_head",
        "_inflate",
        "_kinds",
        "_library",
        "_limit",
        "_parts",
        "is_over",
        "messages",
        "missing",
        "size",
        "takes",
    )

    def __init__(
        self,
        max_size: int | None,
        library: Callable[[bytes], None],
        broken: Callable[[int, Exception], None],
    ) -> None:
        self._limit = NO_LIMIT if max_size is None else max_size
        self._library = library
        self._broken = broken
        self._head = b""  # of a frame that is cut, or a part of it
        self._parts: list[bytes] = []  # of its payload
        self.missing = 0
        self._kinds = PLAIN
        self.takes = True
        self.is_over = False
        self.messages: list[str | bytes] = []
        self.size = 0

    def inflates(self, inflate: Inflate) -> None:
        """Take compressed messages, too; *inflate* is given a payload and the limit."""
        self._inflate = inflate
        self._kinds = PLAIN | {PACKED | TEXT: self._packed_text, PACKED | BINARY: self._packed}

    def _packed(self, payload: bytes) -> bytes:
        inflated = self._inflate(payload, self._limit)
        self.size += len(inflated) - len(payload)
        return inflated

    def _packed_text(self, payload: bytes) -> str:
        inflated = self._inflate(payload, self._limit)
        text = inflated.decode()
        self.size += len(inflated) - len(payload)
        return text

    def feed(self, data: bytes) -> None:
        """Take what has been received."""
        position = 0
        if self.missing:
            if len(data) < self.missing:
                self._parts.append(data)
                self.missing -= len(data)
                return
            position, self.missing = self.missing, 0
            self._parts.append(data[:position])
            self._put_together()
        elif self._head:
            data, self._head = self._head + data, b""
        self._cut(data, position)

    def _cut(self, data: bytes, position: int) -> None:
        """Cut frames out of *data* from *position* on; keep the beginning of the last."""
        while not self.is_over:
            if self.takes:
                try:
                    position = self._take(data, position)
                except WRONG as error:
                    self._fail(error)
                    return
            start, length = payload_at(data, position)
            if start > len(data):
                self._head = data[position:]
                return
            if length < 0 or (length > self._limit and data[position] & 0x08 == 0):
                self.is_over = True  # wrong or too big: the library's to judge
            elif start + length > len(data):
                self._head, self._parts = data[position:start], [data[start:]]
                self.missing = start + length - len(data)
                return
            else:
                self._library(data[position : start + length])
                position = start + length
        if position < len(data):
            self._library(data[position:])

    def _take(self, data: bytes, position: int) -> int:
        """
        Take messages from *position* on; return where something else stands. Raises WRONG.

        The loop is as it is because it was measured: the commonest frame first, no call but those
        that make the message.
        """
        append, kinds, limit, end = self.messages.append, self._kinds, self._limit, len(data)
        taken = 0
        try:
            while position + 4 <= end:
                head, length = header(data, position)
                if head == LONG_TEXT:
                    kind, start = TEXT, position + 4
                elif head & 0x7F == EXTENDED:
                    kind, start = head - EXTENDED, position + 4
                else:
                    kind, short = head & 0xFF80, head & 0x7F
                    start, length = (
                        (position + 2, short) if short < EXTENDED else payload_at(data, position)
                    )
                stop = start + length
                if stop > end or length > limit:
                    break
                if kind == TEXT:
                    append(data[start:stop].decode())
                elif kind in kinds:
                    append(kinds[kind](data[start:stop]))
                else:
                    break
                taken += length
                position = stop
        finally:
            self.size += taken
        return position

    def _put_together(self) -> None:
        """Take a message that came in several reads, or give its frame to the library."""
        head, payload = self._head, b"".join(self._parts)
        self._head, self._parts = b"", []
        made_of = self._kinds.get(head[0] << 8) if self.takes else None
        if made_of is None:
            self._library(head + payload)
            return
        try:
            self.messages.append(made_of(payload))
            self.size += len(payload)
        except WRONG as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """RFC 6455 section 7.4.1, RFC 7692 section 7: what a message that is wrong ends with."""
        self.is_over = True
        if isinstance(error, UnicodeDecodeError):
            self._broken(1007, error)
        else:
            self._broken(1009 if isinstance(error, TooBig) else 1002, error)

    def are_long(self, read: int) -> bool:
        """Whether a read of so many bytes, and no small one, brought long messages."""
        return read >= READ_BYTES // 2 and len(self.messages) * LONG < read

    def handed_over(self) -> tuple[list[str | bytes], int]:
        """Return what was taken since the last call."""
        taken = self.messages, self.size
        self.messages, self.size = [], 0
        return taken


def read_in_pieces(
    transport: asyncio.BaseTransport, missing: int = 0, *, long: bool = False
) -> None:
    """
    Have asyncio read 64 KiB at a time, not 256; up to 1 MiB of a message of which more is missing.

    64 KiB fit a processor's cache, and mostly the inbox, so that reading need not stop and go.

    Args:
        long: Messages are long: reads may be, too, so that each brings a few.

    """
    if hasattr(transport, "max_size"):  # of asyncio's own transports, not of uvloop's
        usual = LONG_READ_BYTES if long else READ_BYTES
        transport.max_size = min(max(missing, usual), MOST_READ_BYTES)


def payload_at(data: bytes, position: int) -> tuple[int, int]:
    """
    Return where the payload of the frame at *position* starts, and its length.

    A length of 0 with a start beyond the data means that the header is incomplete. -1 means that
    the frame is masked, which a server must not do.
    """
    start = position + 2
    if start > len(data):
        return start, 0
    length = data[position + 1]
    if length > 127:
        return start, -1
    if length < EXTENDED:
        return start, length
    start += 2 if length == EXTENDED else 8
    if start > len(data):
        return start, 0
    return start, int.from_bytes(data[position + 2 : start], "big")
