"""
Cuts whole messages out of the received bytes, in front of the library's parser.

Nearly all traffic is messages in one uncompressed frame. In one loop they cost a fraction of
what any call per frame does, a C parser's call-back included (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

__all__ = ["FrameCutter", "read_in_pieces"]

header = struct.Struct(">HH").unpack_from  # the header of a short frame, or of one below 64 KiB

EXTENDED = 126  # in the place of the length: it is in the next two bytes
TEXT, BINARY = 0x8100, 0x8200  # the first two bytes of a final, unmasked frame, less its length
LONG_TEXT, LONG_BINARY = TEXT + EXTENDED, BINARY + EXTENDED
NO_LIMIT = 2**63
READ_BYTES = 2**16


class FrameCutter:
    """
    Takes messages that fill one uncompressed frame, gives every other frame to the library.

    The library is given whole frames only, so that its parser stands between two frames
    whenever one is taken here. Source: RFC 6455 section 5.2.

    Args:
        max_size: Largest message, in bytes; ``None``: no limit.
        library: Given bytes that are for the library, a whole frame unless it is wrong or too
            big. It may set :attr:`takes` and :attr:`is_over`.

    Attributes:
        takes: Whole messages may be taken; not amid the fragments of one, for example.
        is_over: From here on all bytes are the library's.
        messages, size: What was taken, and the size of the payloads in bytes.

    """

    __slots__ = (
        "_cut",
        "_later",
        "_library",
        "_limit",
        "_missing",
        "is_over",
        "messages",
        "size",
        "takes",
    )

    def __init__(self, max_size: int | None, library: Callable[[bytes], None]) -> None:
        self._limit = NO_LIMIT if max_size is None else max_size
        self._library = library
        self._cut = b""  # the beginning of a frame
        self._later: list[bytes] = []  # what came of it since
        self._missing = 0  # bytes until it is worth another look
        self.takes = True
        self.is_over = False
        self.messages: list[str | bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Take what has been received."""
        if len(data) < self._missing:
            self._later.append(data)
            self._missing -= len(data)
            return
        if self._cut or self._later:
            data = b"".join((self._cut, *self._later, data))
            self._cut = b""
            self._later.clear()
        position = 0
        while not self.is_over:
            if self.takes:
                position = self._take(data, position)
            start, length = payload_at(data, position)
            if length < 0 or (length > self._limit and data[position] & 0x08 == 0):
                self.is_over = True  # wrong or too big: the library's to judge
            elif start + length > len(data):
                self._keep(data[position:], start + length - len(data))
                return
            else:
                self._library(data[position : start + length])
                position = start + length
        if position < len(data):
            self._library(data[position:])

    def _take(self, data: bytes, position: int) -> int:
        """Take messages from *position* on; return where something else stands."""
        append, limit, end = self.messages.append, self._limit, len(data)
        size = 0
        try:
            while position + 4 <= end:
                head, length = header(data, position)
                if head == LONG_TEXT and length >= EXTENDED:
                    start = position + 4
                elif TEXT <= head < LONG_TEXT:
                    start, length = position + 2, head - TEXT
                elif BINARY <= head < LONG_BINARY:
                    start, length = position + 2, head - BINARY
                elif head == LONG_BINARY and length >= EXTENDED:
                    start = position + 4
                else:
                    break
                stop = start + length
                if stop > end or length > limit:
                    break
                append(data[start:stop].decode() if head < BINARY else data[start:stop])
                size += length
                position = stop
        except UnicodeDecodeError:
            pass  # the library's to judge
        self.size += size
        return position

    def _keep(self, cut: bytes, missing: int) -> None:
        """Keep the beginning of a frame, and how much of it, or of its header, is missing."""
        self._cut = cut
        self._missing = missing

    def handed_over(self) -> tuple[list[str | bytes], int]:
        """Return what was taken since the last call."""
        taken = self.messages, self.size
        self.messages, self.size = [], 0
        return taken


def read_in_pieces(transport: asyncio.BaseTransport) -> None:
    """
    Have asyncio read 64 KiB at a time, not 256.

    That fits a processor's cache, and mostly the inbox, so that reading need not stop and go.
    """
    if hasattr(transport, "max_size"):  # of asyncio's own transports, not of uvloop's
        transport.max_size = READ_BYTES


def payload_at(data: bytes, position: int) -> tuple[int, int]:
    """
    Return where the payload of the frame at *position* starts, and its length.

    A length of 0 with a start beyond the data: the header is cut. -1: masked, which a server
    must not do.
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
