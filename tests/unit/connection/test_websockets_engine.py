"""What the library under the engine gets wrong, or leaves to others, and the engine mends."""

from __future__ import annotations

import zlib

import pytest

from datastream_ws import HandshakeError, UnauthorizedError
from datastream_ws.connection.inflate import MOST_FINAL_BLOCKS, Decompressor
from kit.rawsteps import BINARY, PING, TEXT, Close, Frame
from kit.wire import Wire

COMPRESSED = 4
TAIL = b"\x00\x00\xff\xff"


def test_what_was_too_big_is_not_delivered_when_it_is_whole() -> None:
    """Refused by the frame's header; what comes of it then is nobody's."""
    data = Frame(BINARY, bytes(1500)).data
    with Wire(max_size=1000) as wire:
        wire.open(Frame(TEXT, "good").data + data[:100])
        assert wire.is_closing
        wire.feed(data[100:], Frame(TEXT, "late").data)
        wire.end()
    assert wire.messages == ["good"]
    assert wire.end_seen is not None
    assert wire.end_seen.code == 1009


@pytest.mark.parametrize("close", [Close(1005), Close(999), Close(5000), Close(1000, b"\xff")])
def test_nothing_counts_after_a_close_frame_that_must_not_be(close: Frame) -> None:
    with Wire() as wire:
        wire.open(Frame(TEXT, "good").data + close.data)
        assert wire.is_closing
        wire.feed(Frame(TEXT, "late").data, Close(1000).data)
        wire.end()
    assert wire.messages == ["good"]
    assert wire.end_seen is not None
    assert wire.end_seen.peer_fault
    assert wire.end_seen.code in (1002, 1007)


@pytest.mark.parametrize("rsv", [4, 2, 1])
def test_control_frames_with_reserved_bits_are_refused(rsv: int) -> None:
    with Wire() as wire:
        wire.open(Frame(PING, "?", rsv=rsv).data)
        wire.end()
    assert wire.end_seen is not None
    assert wire.end_seen.code == 1002


# --- compression ------------------------------------------------------------------------------


def final(*texts: str) -> bytes:
    """Return a message in blocks that each say they are the last (RFC 7692 section 7.2.3.4)."""
    blocks = []
    for text in texts:
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        blocks.append(engine.compress(text.encode()) + engine.flush(zlib.Z_FINISH))
    return b"".join(blocks) + b"\0"


def compressed(payload: bytes) -> bytes:
    return Frame(TEXT, payload, rsv=COMPRESSED).data


@pytest.mark.parametrize("parameter", ["", "; server_no_context_takeover"])
def test_messages_after_a_final_block_are_not_empty(parameter: str) -> None:
    """zlib says no more after one, and keeps whatever else it is given."""
    payloads = [final("one"), final("two"), final("x" * 3000), final("a", "b")]
    with Wire() as wire:
        wire.open(headers=[f"Sec-WebSocket-Extensions: permessage-deflate{parameter}"])
        wire.feed(*map(compressed, payloads))
    assert wire.messages == ["one", "two", "x" * 3000, "ab"]


def test_final_blocks_are_counted() -> None:
    """Two bytes each: half a million in a message would keep a processor busy for minutes."""
    empty = b"\x03\x00"
    assert Decompressor(15).decompress(empty * MOST_FINAL_BLOCKS + b"\0" + TAIL) == b""
    with pytest.raises(zlib.error, match="too many final blocks"):
        Decompressor(15).decompress(empty * (MOST_FINAL_BLOCKS + 1))


@pytest.mark.parametrize("texts", [["a" * 50, "b" * 50], ["a" * 100], ["a" * 100, ""]])
def test_max_size_is_exact_for_compressed_messages(texts: list[str]) -> None:
    for limit, expected in ((99, []), (100, ["".join(texts)])):
        with Wire(max_size=limit) as wire:
            wire.open(headers=["Sec-WebSocket-Extensions: permessage-deflate"])
            wire.feed(compressed(final(*texts))[:2], compressed(final(*texts))[2:])
            wire.end()
        assert wire.messages == expected


# --- answers to the handshake -----------------------------------------------------------------


@pytest.mark.parametrize(("status", "wait"), [(499, None), (520, None), (529, 7.0)])
def test_statuses_that_no_library_lists(status: int, wait: float | None) -> None:
    """Proxies and clouds have their own: the verdict goes by them, and so does the wait."""
    retry_after = f"Retry-After: {wait:g}\r\n" if wait else ""
    with Wire() as wire, pytest.raises(HandshakeError) as refused:
        wire.answer(f"HTTP/1.1 {status} Odd\r\n{retry_after}\r\n".encode())
    assert (refused.value.status, refused.value.retry_after) == (status, wait)


@pytest.mark.parametrize("line", [b"no colon", b": no name", b"X: " + b"a" * 20_000, b"X:\0"])
def test_a_broken_header_says_nothing_about_the_next_answer(line: bytes) -> None:
    """Not even beside 101: it is tried again."""
    with Wire() as wire, pytest.raises(HandshakeError) as refused:
        wire.answer(b"HTTP/1.1 101 Switching Protocols\r\n" + line + b"\r\n\r\n")
    assert refused.value.status is None


def test_a_redirect_to_an_unusual_place_is_followed() -> None:
    """Percent-encoded; the second connection is refused by the wire, with no other error."""
    with Wire() as wire, pytest.raises(HandshakeError, match=r"hung up|no valid HTTP"):
        wire.answer("HTTP/1.1 302 Found\r\nLocation: /größe\r\n\r\n".encode())
    assert b"GET /gr" in wire.sent


def test_no_credentials() -> None:
    with Wire() as wire, pytest.raises(UnauthorizedError):
        wire.answer(b"HTTP/1.1 401 No\r\n\r\n")
