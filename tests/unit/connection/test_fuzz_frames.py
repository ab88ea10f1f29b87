"""
Whatever a server sends: exactly the messages that it sent, in order, and nothing escapes.

The engine is compared with a slow reader of the two RFCs (``kit/reference.py``), on valid streams,
on broken ones and on noise, cut into reads at any byte.
"""

from __future__ import annotations

import itertools
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from kit.rawsteps import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Close, Frame
from kit.reference import LIMIT, check, meaning, read, reads

COMPRESSED = 4

few = settings(max_examples=50)


# --- what a server may send -------------------------------------------------------------------

texts = st.text(max_size=40) | st.text("ab", min_size=120, max_size=130)
payloads = texts.map(str.encode) | st.binary(max_size=40) | st.binary(min_size=120, max_size=130)


@st.composite
def good_messages(draw: st.DrawFn) -> bytes:
    """One message in one or more frames, control frames between them."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(texts).encode() if opcode == TEXT else draw(payloads)
    return _framed(draw, opcode, payload)


@st.composite
def compressed_messages(draw: st.DrawFn) -> bytes:
    """One message, compressed by a peer whose window does not go on."""
    final = draw(st.booleans())
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = engine.compress(draw(texts).encode() * draw(st.integers(1, 9)))  # may be too much
    if final:  # RFC 7692 section 7.2.3.4
        packed += engine.flush(zlib.Z_FINISH) + b"\0"
    else:
        packed = (packed + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return _framed(draw, TEXT, packed, COMPRESSED)


def _framed(draw: st.DrawFn, opcode: int, payload: bytes, rsv: int = 0) -> bytes:
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = [payload[a:b] for a, b in itertools.pairwise([0, *cuts, len(payload)])]
    data = b""
    for n, part in enumerate(parts):
        fin = n == len(parts) - 1
        data += Frame(CONTINUATION if n else opcode, part, fin, 0 if n else rsv).data
        if not fin:
            data += draw(controls)
    return data


controls = st.just(b"") | st.builds(
    lambda opcode, payload: Frame(opcode, payload).data,
    st.sampled_from([PING, PONG]),
    st.binary(max_size=125),
)
any_frames = st.builds(
    lambda *arguments: Frame(*arguments).data,
    st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
    payloads | st.binary(min_size=290, max_size=310),
    st.booleans(),
    st.sampled_from([0, 0, 0, 0, COMPRESSED, 2, 1]),
    st.sampled_from([False, False, False, True]),
)
# One thing wrong, or nearly so, each.
wrong_frames = st.one_of(
    st.builds(lambda size: Frame(TEXT, "x" * size).data, st.integers(LIMIT - 2, LIMIT + 2)),
    st.builds(lambda size: Frame(BINARY, bytes(size)).data, st.integers(LIMIT - 2, LIMIT + 2)),
    st.builds(lambda data: Frame(TEXT, data).data, st.binary(min_size=1, max_size=5)),
    st.builds(lambda opcode: Frame(opcode, "x").data, st.integers(0, 15)),
    st.builds(lambda rsv: Frame(TEXT, "x", rsv=rsv).data, st.integers(1, 7)),
    st.builds(lambda size: Frame(PING, bytes(size)).data, st.integers(124, 127)),
    st.just(Frame(TEXT, "x", masked=True).data),
    st.just(Frame(PING, "x", fin=False).data),
    st.just(Frame(TEXT, "x", fin=False).data),
)
closes = st.builds(
    lambda code, reason: Close(code, reason).data,
    st.none() | st.sampled_from([1000, 1001, 1011, 4001, 1005, 1006, 1015, 999, 5000, 0]),
    st.text(max_size=20).map(str.encode) | st.binary(max_size=20),
)
announced = st.builds(
    lambda size: Frame(BINARY, b"x" * 20, size=size).data, st.sampled_from([301, 2**20, 2**63 - 1])
)
good = st.lists(good_messages() | controls, max_size=6).map(b"".join)
packed = st.lists(compressed_messages() | good_messages() | controls, max_size=6).map(b"".join)
wild = st.lists(
    good_messages() | controls | wrong_frames | any_frames | closes | announced,
    min_size=1,
    max_size=6,
).map(b"".join)


cuts = st.lists(st.integers(1, 60), max_size=5)


@few
@given(data=good, cuts=cuts)
def test_good_messages_come_whole_and_in_order(data: bytes, cuts: list[int]) -> None:
    expected = meaning(data, LIMIT)
    assert not expected.faults
    wire = read(reads(data, cuts))
    check(wire, expected)
    assert pongs(wire.sent) == expected.pings


@few
@given(data=packed, cuts=cuts)
def test_compressed_messages_come_whole(data: bytes, cuts: list[int]) -> None:
    """Also after a block that says that it is the last one."""
    expected = meaning(data, LIMIT, deflate=True)
    check(read(reads(data, cuts), deflate=True), expected)


@given(data=wild, cuts=cuts, deflate=st.booleans())
@settings(max_examples=100)
def test_broken_streams_end_where_they_break(data: bytes, cuts: list[int], deflate: bool) -> None:
    """What came before is delivered, nothing after, and the code says what was wrong."""
    expected = meaning(data, LIMIT, deflate=deflate)
    wire = read(reads(data, cuts), deflate=deflate)
    check(wire, expected)


@few
@given(before=good, noise=st.binary(max_size=60), cuts=cuts, deflate=st.booleans())
def test_noise_is_survived(before: bytes, noise: bytes, cuts: list[int], deflate: bool) -> None:
    """Nothing escapes, nothing is too big, and where the reads end makes no difference."""
    whole = read([before + noise], deflate=deflate)
    parts = read(reads(before + noise, cuts), deflate=deflate)
    assert parts.messages == whole.messages
    assert all(len(message) <= LIMIT for message in whole.messages)
    sent_before = meaning(before, LIMIT).messages
    assert whole.messages[: len(sent_before)] == sent_before


def pongs(sent: bytes) -> list[bytes]:
    """Return the payloads of the pongs in what a client wrote."""
    found = []
    while sent:
        opcode, size = sent[0] & 15, sent[1] & 127
        mask, payload = sent[2:6], sent[6 : 6 + size]
        if opcode == PONG:
            found.append(bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload)))
        sent = sent[6 + size :]
    return found
