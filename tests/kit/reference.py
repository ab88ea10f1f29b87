"""
A slow and simple reader of the bytes from a server, written from RFC 6455 and RFC 7692.

Unlike the engine, it does not get the boundaries of reads.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from .rawsteps import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from .wire import Wire

__all__ = ["LIMIT", "Meaning", "check", "meaning", "read", "reads"]

LIMIT = 300  # max_size, so small that random messages exceed it
DEFLATE = ["Sec-WebSocket-Extensions: permessage-deflate"]
MOST_FRAGMENTS = 4096
TAIL = b"\x00\x00\xff\xff"


@dataclass
class Meaning:
    """
    The meaning of the bytes of a connection.

    Attributes:
        messages: The complete messages before the end.
        closed: The code and reason of the close frame. ``None`` without one.
        faults: The acceptable close codes after a violation of the protocol.
        pings: The payloads of the pings, in order.
        unfinished: Whether the end is within a message, which may be valid or not.

    """

    messages: list[str | bytes] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    faults: tuple[int, ...] = ()
    pings: list[bytes] = field(default_factory=list)
    unfinished: bool = False


class Fault(Exception):
    """A violation of the protocol. Its arguments are the acceptable close codes, if known."""


@dataclass
class Frame:
    """A frame without its header."""

    fin: bool
    rsv: int
    opcode: int
    payload: bytes


def meaning(data: bytes, limit: int, *, deflate: bool = False) -> Meaning:
    """Return the meaning of *data* after the handshake, with *limit* as ``max_size``."""
    found = Meaning()
    reader = Reader(data, limit, found, deflate)
    try:
        while reader.take_frame():
            pass
    except Fault as fault:
        found.faults = fault.args
    found.unfinished = reader.is_within_message
    return found


class Reader:
    """A reader of frames, which writes their meaning into *found*."""

    def __init__(self, data: bytes, limit: int, found: Meaning, deflate: bool) -> None:
        self._data = data
        self._limit = limit
        self._found = found
        self._inflater = zlib.decompressobj(-15) if deflate else None
        self._fragments: list[Frame] = []

    @property
    def is_within_message(self) -> bool:
        return bool(self._fragments)

    def take_frame(self) -> bool:
        """Read a frame. Return ``False`` after the last one, and after a close frame."""
        frame = self._frame()
        if frame is None:
            return False
        if frame.opcode == PING:
            self._found.pings.append(frame.payload)
        elif frame.opcode == CLOSE:
            self._found.closed = self._close(frame.payload)
            return False
        elif frame.opcode != PONG:
            self._data_frame(frame)
        return True

    def _frame(self) -> Frame | None:
        if len(self._data) < 2:
            return None
        first, second = self._data[:2]
        opcode, fin, size = first & 15, bool(first & 128), second & 127
        wrong = set()
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            wrong.add(1002)
        if opcode >= CLOSE and (not fin or size > 125 or first & 0x70):
            wrong.add(1002)
        if second & 128 or first & 0x30 or (first & 0x40 and not self._may_be_deflated(opcode)):
            wrong.add(1002)
        if opcode < CLOSE and (opcode == CONTINUATION) is not bool(self._fragments):
            wrong.add(1002)
        start = 2 + {126: 2, 127: 8}.get(size, 0)
        if size > 125 and len(self._data) >= start:
            size = int.from_bytes(self._data[2:start], "big")
            if size > self._limit:
                wrong.add(1009)
        if wrong:  # the engine may report it early, and a size immediately
            whole = len(self._data) >= start + size
            raise Fault(*wrong) if whole or 1009 in wrong else Fault
        if len(self._data) < start + size:
            return None
        payload, self._data = self._data[start : start + size], self._data[start + size :]
        return Frame(fin, first >> 4 & 7, opcode, payload)

    def _may_be_deflated(self, opcode: int) -> bool:
        return self._inflater is not None and opcode in (TEXT, BINARY)

    def _data_frame(self, frame: Frame) -> None:
        self._fragments.append(frame)
        whole = b"".join(each.payload for each in self._fragments)
        if len(whole) > self._limit or len(self._fragments) > MOST_FRAGMENTS:
            raise Fault(1009)
        if frame.fin:
            first, self._fragments = self._fragments[0], []
            self._message(whole, first)

    def _message(self, payload: bytes, first: Frame) -> None:
        if first.rsv and self._inflater is not None:
            payload = self._inflate(payload + TAIL)
        if len(payload) > self._limit:
            raise Fault(1009)
        self._found.messages.append(payload if first.opcode == BINARY else self._text(payload))

    def _inflate(self, data: bytes) -> bytes:
        """Inflate *data*, with a new window after each final block."""
        inflated = b""
        while True:
            assert self._inflater is not None
            try:
                inflated += self._inflater.decompress(data)
            except zlib.error:
                raise Fault(1002) from None
            if not self._inflater.eof:
                return inflated
            data, self._inflater = self._inflater.unused_data, zlib.decompressobj(-15)

    def _close(self, payload: bytes) -> tuple[int, str]:
        if not payload:
            return 1005, ""
        code = int.from_bytes(payload[:2], "big")
        known = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
        if len(payload) == 1 or code not in known:
            raise Fault(1002, 1007)  # the reason may also be invalid
        return code, self._text(payload[2:])

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Fault(1007) from None


# --- the engine for comparison -----------------------------------------------------------------


def reads(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut *data* into parts of these sizes, which repeat."""
    parts, sizes = [], itertools.cycle(cuts or [len(data) or 1])
    while data:
        size = next(sizes)
        parts.append(data[:size])
        data = data[size:]
    return parts


def read(parts: Sequence[bytes], *, deflate: bool = False) -> Wire:
    """Return a wire after these reads and FIN. The first read includes the handshake."""
    with Wire(max_size=LIMIT) as wire:
        first, *others = [*parts, b""]
        wire.open(first, headers=DEFLATE if deflate else ())
        wire.feed(*others)
    assert wire.escaped == []
    return wire


def check(wire: Wire, expected: Meaning) -> None:
    """Assert that the engine found the same meaning."""
    ended = wire.end_seen
    assert ended is not None
    assert wire.messages == expected.messages
    if expected.unfinished:
        assert ended.peer_fault or not expected.faults
    elif expected.closed is not None:
        assert (ended.code, ended.reason) == expected.closed
        assert not ended.peer_fault
    elif expected.faults:
        assert ended.peer_fault
        assert ended.code in expected.faults
    else:
        assert ended.code == 1006 or ended.peer_fault  # ended within a frame
