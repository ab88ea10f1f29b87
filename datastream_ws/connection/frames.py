"""
Parses unfragmented messages out of the received bytes, in front of the library's parser.

Nearly all messages are unfragmented. One loop for all of them costs a fraction of one call per
frame, even of a C parser's callback (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import struct
import sys
import zlib
from collections.abc import Callable

from .deflate import TooBig

__all__ = ["READ_BYTES", "FrameCutter", "set_read_size"]

header = struct.Struct(">HH").unpack_from  # the header of a short frame, or of one below 64 KiB

EXTENDED = 126  # this length means that the next two bytes hold the length
LONGEST = 127  # the same with eight bytes
TEXT, BINARY = 0x8100, 0x8200  # the first two bytes of a final, unmasked frame, less its length
LONG_TEXT = TEXT + EXTENDED
PACKED = 0x4000  # the bit RSV1 of a compressed message (RFC 7692 section 6)
WRONG = (UnicodeDecodeError, TooBig, zlib.error)  # the errors of an invalid message

# Decoders of a payload, by the first two bytes of its frame, less the length.
PLAIN: dict[int, Callable[[bytes], str | bytes]] = {TEXT: bytes.decode, BINARY: bytes}
NO_LIMIT = sys.maxsize - 1  # Deflate.inflate() adds one to it
READ_BYTES = 2**16
LONG_READ_BYTES = 2**19  # for long messages
LONG = 2**10  # bytes of a long message, on average
MOST_READ_BYTES = 2**20

Inflate = Callable[[bytes, int], bytes]


class FrameCutter:
    """
    Parses unfragmented messages and passes every other frame to the library (RFC 6455 section 5.2).

    The library gets whole frames only. Its parser is therefore between two frames whenever a
    message is parsed here.

    Args:
        max_size: Largest message, in bytes. ``None`` means no limit.
        library: Called with a frame for the library. The frame is whole unless it is invalid or
            too big. The callback may set :attr:`takes` and :attr:`is_over`.
        broken: Called with the close code and the error of a message that ends the connection.

    Attributes:
        takes: Whether messages may be parsed here. They may not between two fragments.
        is_over: Whether all further bytes go to the library.
        messages: The messages parsed since the last :meth:`handed_over`.
        size: The size of their payloads, in bytes.
        missing: Bytes that the current frame still lacks.

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
        self._head = b""  # the header of an incomplete frame, or a part of the header
        self._parts: list[bytes] = []  # the received parts of its payload
        self.missing = 0
        self._kinds = PLAIN
        self.takes = True
        self.is_over = False
        self.messages: list[str | bytes] = []
        self.size = 0

    def inflates(self, inflate: Inflate) -> None:
        """Expect compressed messages. *inflate* is called with a payload and the limit."""
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
        """Parse received bytes. An incomplete frame waits for the next call."""
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
        """Parse all frames of *data* from *position* on, and keep an incomplete last one."""
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
                self.is_over = True  # the library closes the connection with the right code
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
        Parse messages from *position* on, and return the position of the first other frame.

        This loop is the hot path, and its structure was measured. It tests for the commonest frame
        first, and it makes no call except those that decode the message.

        Raises:
            UnicodeDecodeError, TooBig, zlib.error: If a message is invalid.

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
                elif head & 0x7F == LONGEST:
                    kind = head - LONGEST
                    start, length = payload_at(data, position)
                else:
                    kind, start, length = head & 0xFF80, position + 2, head & 0x7F
                stop = start + length
                if stop > end or length > limit:
                    break
                if kind == TEXT:
                    append(data[start:stop].decode())
                elif kind == BINARY:
                    append(data[start:stop])
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
        """Parse a frame that arrived in several reads, or pass it to the library."""
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
        """Report an invalid message with its code (RFC 6455 section 7.4.1, RFC 7692 section 7)."""
        self.is_over = True
        if isinstance(error, UnicodeDecodeError):
            self._broken(1007, error)
        else:
            self._broken(1009 if isinstance(error, TooBig) else 1002, error)

    def next_read(self, read: int) -> int:
        """
        Return how many bytes to read next, after a read of *read* bytes.

        The usual size is 64 KiB instead of asyncio's 256 KiB, because 64 KiB fit into a processor's
        cache. They usually fit into the inbox, so reading rarely has to pause. If messages are
        long, a read brings 512 KiB of payloads. The rest of an incomplete frame is read at once, up
        to 1 MiB.
        """
        usual = READ_BYTES
        if read >= READ_BYTES // 2 and len(self.messages) * LONG < read:
            usual = max(usual, LONG_READ_BYTES * read // max(read, self.size))
        return usual if self.missing <= usual else min(self.missing, MOST_READ_BYTES)

    def handed_over(self) -> tuple[list[str | bytes], int]:
        """Return the messages parsed since the last call, and the size of their payloads."""
        taken = self.messages, self.size
        self.messages, self.size = [], 0
        return taken


def set_read_size(transport: asyncio.BaseTransport, size: int) -> None:
    """Have asyncio read up to *size* bytes at a time. Other transports stay unchanged."""
    if hasattr(transport, "max_size"):  # uvloop's transports have none
        transport.max_size = size


def payload_at(data: bytes, position: int) -> tuple[int, int]:
    """
    Return the start and the length of the payload of the frame at *position*.

    If the header is incomplete, the start is beyond the data and the length is 0. A length of -1
    means that the frame is masked, which is an error of the server (RFC 6455 section 5.1).
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
