"""The splitter: whole messages out of any bytes, in any pieces; the rest is the library's."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws.connection.frames import FrameCutter

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
        self.splitter = FrameCutter(max_size, self._library)
        self.all: list[str | bytes | tuple[bytes]] = []

    def _library(self, data: bytes) -> None:
        self._note()
        self.all.append((data,))

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
    # Whole messages of up to a byte may end a read, and of 64 KiB and more are rare: the library's.
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


@pytest.mark.parametrize(
    "odd", [frame(FIN | TEXT, b"\xff"), b"\x81\x7e\x00\x05hello", frame(FIN | PING, b"x" * 5)]
)
def test_what_is_odd_is_the_librarys(odd: bytes) -> None:
    """No UTF-8, or a length in more bytes than it needs: one frame; a ping has no max_size."""
    seen = Seen(max_size=4)
    good = frame(FIN | TEXT, b"good")
    if odd[1] == 126:
        seen = Seen()
    assert seen.feed(odd + good).all == [(odd,), "good"]


def test_a_large_frame_is_put_together_once() -> None:
    """However many pieces it comes in: nothing is copied before it is whole."""
    seen = Seen()
    whole = frame(FIN | TEXT, b"x" * 60_000)
    for at in range(0, len(whole), 100):
        seen.splitter.feed(whole[at : at + 100])
        assert len(seen.splitter._cut) <= 200
    assert seen.feed().all == ["x" * 60_000]


def test_byte_by_byte() -> None:
    """Also where a piece begins with a frame's first byte and no more."""
    sent = frame(FIN | TEXT, b"a") + frame(FIN | PING, b"") + frame(FIN | TEXT, b"b" * 130)
    seen = Seen().feed(*(bytes([each]) for each in sent))
    assert [same(each) for each in seen.all] == [sent[:3], sent[3:5], sent[5:]]
