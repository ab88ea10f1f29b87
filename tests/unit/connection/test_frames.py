"""The splitter: whole messages out of any bytes, in any pieces; the rest is the library's."""

from __future__ import annotations

import asyncio
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws.connection.deflate import Deflate
from datastream_ws.connection.frames import FrameCutter, set_read_size

TEXT, BINARY, CONTINUATION, PING, FIN = 0x1, 0x2, 0x0, 0x9, 0x80


def frame(first: int, payload: bytes) -> bytes:
    """Encode a frame of a server; *first* is its first byte (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB", first, size) + payload
    if size < 2**16:
        return struct.pack(">BBH", first, 126, size) + payload
    return struct.pack(">BBQ", first, 127, size) + payload


class Seen:
    """A splitter before a library that keeps what it is given, as it came among the messages."""

    def __init__(self, max_size: int | None = None) -> None:
        self.splitter = FrameCutter(max_size, self._library, self._broken)
        self.all: list[str | bytes | tuple[bytes]] = []
        self.broken: list[int] = []

    def _library(self, data: bytes) -> None:
        self._note()
        self.all.append((data,))

    def _broken(self, code: int, error: Exception) -> None:
        self.broken.append(code)

    def _note(self) -> None:
        messages, size = self.splitter.handed_over()
        assert size == sum(len(m.encode() if isinstance(m, str) else m) for m in messages)
        self.all += messages

    def feed(self, *pieces: bytes) -> Seen:
        for piece in pieces:
            self.splitter.feed(piece)
        self._note()
        return self


def test_messages_and_the_rest() -> None:
    """In the order they came."""
    ping = frame(FIN | PING, b"p")
    sent = frame(FIN | TEXT, b"a") + ping + frame(FIN | BINARY, b"b" * 200)
    assert Seen().feed(sent).all == ["a", (ping,), b"b" * 200]


@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from([FIN | TEXT, FIN | BINARY, FIN | PING, TEXT, FIN, 0xC1, 0x71]),
            st.sampled_from([0, 1, 2, 3, 125, 126, 127, 300, 65535, 65536]),
        ),
        max_size=6,
    ),
    cuts=st.lists(st.integers(0, 1000), max_size=6),
)
def test_any_frames_in_any_pieces(frames: list[tuple[int, int]], cuts: list[int]) -> None:
    """The library is given whole frames, each message comes once."""
    encoded = [frame(first, b"x" * size) for first, size in frames]
    data, pieces = b"".join(encoded), []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    expected = [
        ("x" * size if first == FIN | TEXT else b"x" * size)
        if first in (FIN | TEXT, FIN | BINARY)
        else (whole,)
        for (first, size), whole in zip(frames, encoded, strict=True)
    ]
    found = Seen().feed(*pieces, data).all
    # A whole message of up to a byte may end a read: the library's.
    assert [same(each) for each in found] == [same(each) for each in expected]


def same(each: str | bytes | tuple[bytes]) -> bytes:
    """Return the frame of what a client sees, whoever has taken it."""
    if isinstance(each, tuple):
        return each[0]
    payload = each.encode() if isinstance(each, str) else each
    return frame(FIN | (TEXT if isinstance(each, str) else BINARY), payload)


def test_amid_fragments_all_is_the_librarys() -> None:
    """A whole message there is a violation, and its to judge."""
    seen = Seen()
    seen.splitter.takes = False
    whole = frame(FIN | TEXT, b"a")
    assert seen.feed(whole).all == [(whole,)]


@pytest.mark.parametrize(
    "wrong",
    [
        frame(FIN | TEXT, b"12345"),  # above max_size
        struct.pack(">BBQ", FIN | TEXT, 127, 2**40),  # the same, without waiting for it
        b"\x81\x81",  # masked
    ],
)
def test_what_is_wrong_is_the_librarys_for_ever(wrong: bytes) -> None:
    """With all that follows, at once."""
    seen = Seen(max_size=4)
    good = frame(FIN | TEXT, b"good")
    assert seen.feed(good + wrong, good).all == ["good", (wrong,), (good,)]


def test_a_ping_is_the_librarys() -> None:
    """One frame, and it has no max_size."""
    seen = Seen(max_size=4)
    ping, good = frame(FIN | PING, b"x" * 5), frame(FIN | TEXT, b"good")
    assert seen.feed(ping + good).all == [(ping,), "good"]


@pytest.mark.parametrize("head", [b"\x81\x7e\0\5", b"\x81\x7f\0\0\0\0\0\0\0\5"])
def test_a_length_in_more_bytes_than_it_needs(head: bytes) -> None:
    assert Seen().feed(head + b"hello").all == ["hello"]


@pytest.mark.parametrize("size", [65_535, 65_536, 2**20])
def test_long_lengths(size: int) -> None:
    """In one read, amid others; in two."""
    short, long = frame(FIN | TEXT, b"aa"), frame(FIN | BINARY, b"x" * size)
    expected = ["aa", b"x" * size, "aa"]
    assert Seen().feed(short + long + short).all == expected
    assert Seen().feed(short + long[:5], long[5:] + short).all == expected


@pytest.mark.parametrize("cut", [4, 3, 2])
def test_what_is_not_utf_8_ends_it(cut: int) -> None:
    """Also in two reads; what comes behind it is not looked at."""
    good, bad = frame(FIN | TEXT, b"good"), frame(FIN | TEXT, b"a\xff")
    seen = Seen().feed(good + bad[:cut], bad[cut:] + good)
    assert seen.broken == [1007]
    assert seen.all.count("good") == 1
    assert seen.splitter.is_over


def test_a_large_frame_is_put_together_once() -> None:
    """However many pieces it comes in: nothing is copied before it is whole."""
    seen = Seen()
    whole = frame(FIN | TEXT, b"x" * 60_000)
    for at in range(0, len(whole), 100):
        seen.splitter.feed(whole[at : at + 100])
        assert all(len(part) <= 100 for part in seen.splitter._parts)
    assert seen.feed().all == ["x" * 60_000]


class Transport:
    """As asyncio's own."""

    max_size = 256 * 1024


def test_the_size_of_reads_is_set_where_the_transport_has_one() -> None:
    transport: Any = Transport()
    set_read_size(transport, 1000)
    assert transport.max_size == 1000
    set_read_size(asyncio.Transport(), 1000)


@pytest.mark.parametrize(
    ("missing", "size"), [(0, 2**16), (10, 2**16), (100_000, 100_000), (2**24, 2**20)]
)
def test_reads_grow_with_what_is_missing(missing: int, size: int) -> None:
    """The next read has 64 KiB, or as much as a message lacks, up to 1 MiB."""
    seen = Seen()
    seen.splitter.missing = missing
    assert seen.splitter.next_read(10) == size


@pytest.mark.parametrize(
    ("count", "size", "payload", "next_size"),
    [
        (100, 1000, 1000, 2**16),
        (50, 2000, 2000, 2**19),
        (3, 2000, 2000, 2**16),  # a short read says nothing about the next messages
        (50, 2000, 4000, 2**18),  # compressed
        (50, 2000, 200_000, 2**16),
    ],
)
def test_reads_are_longer_if_messages_are_long(
    count: int, size: int, payload: int, next_size: int
) -> None:
    """The next read brings up to 512 KiB of payloads, decompressed."""
    seen = Seen()
    data = frame(FIN | TEXT, b"x" * size) * count
    seen.splitter.feed(data)
    seen.splitter.size = payload * count
    assert seen.splitter.next_read(len(data)) == pytest.approx(next_size, rel=0.01)


# --- compressed -------------------------------------------------------------------------------


PACKED = 0x40


def packed(text: bytes, first: int = FIN | TEXT, final: bool = False) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = engine.compress(text)
    if final:  # RFC 7692 section 7.2.3.4
        return frame(first | PACKED, data + engine.flush(zlib.Z_FINISH) + b"\0")
    return frame(first | PACKED, (data + engine.flush(zlib.Z_SYNC_FLUSH))[:-4])


def inflating(max_size: int | None = None, *, takeover: bool = False) -> Seen:
    seen = Seen(max_size)
    seen.splitter.inflates(Deflate(not takeover, False, 15, 15).inflate)
    return seen


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
def test_compressed_messages_are_inflated_where_they_are_cut(at: int, final: bool) -> None:
    first, second = packed(b"one" * 90, final=final), packed(b"\xff\xff", FIN | BINARY)
    plain = frame(FIN | TEXT, b"plain")
    sent = first + plain + second + packed(b"end")
    assert inflating().feed(sent[:at], sent[at:]).all == ["one" * 90, "plain", b"\xff\xff", "end"]


def test_a_window_that_goes_on() -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    sent = b""
    for _ in range(3):
        data = engine.compress(b"the same again") + engine.flush(zlib.Z_SYNC_FLUSH)
        sent += frame(FIN | TEXT | PACKED, data[:-4])
    assert inflating(takeover=True).feed(sent).all == ["the same again"] * 3


def test_compressed_without_agreement_is_the_librarys() -> None:
    wrong = packed(b"x")
    assert Seen().feed(wrong).all == [(wrong,)]
    assert Seen().feed(wrong[:3], wrong[3:]).all == [(wrong,)]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (packed(b"x" * 101), 1009),
        (packed(b"x" * 101, final=True), 1009),
        (packed(b"\xff"), 1007),
        (frame(FIN | TEXT | PACKED, b"\xff\xff\xff"), 1002),
    ],
)
@pytest.mark.parametrize("at", [0, 4])
def test_compressed_messages_that_end_it(wrong: bytes, code: int, at: int) -> None:
    """Above the limit once inflated, not UTF-8, corrupt; what came before is there."""
    good = packed(b"x" * 100)
    seen = inflating(100).feed(good + wrong[:at], wrong[at:] + good)
    assert seen.broken == [code]
    assert seen.all.count("x" * 100) == 1


def test_byte_by_byte() -> None:
    """Also where a piece begins with a frame's first byte and no more."""
    sent = frame(FIN | TEXT, b"a") + frame(FIN | PING, b"") + frame(FIN | TEXT, b"b" * 130)
    seen = Seen().feed(*(bytes([each]) for each in sent))
    assert [same(each) for each in seen.all] == [sent[:3], sent[3:5], sent[5:]]
