"""What the library under the engine gets wrong, or leaves to others, and the engine mends."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from datastream_ws import HandshakeError, UnauthorizedError
from datastream_ws.connection.answers import MOST_FRAGMENTS
from datastream_ws.connection.deflate import MOST_FINAL_BLOCKS, Decompressor
from datastream_ws.connection.frames import READ_BYTES
from kit.rawsteps import BINARY, PING, PONG, TEXT, Close, Frame
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


def test_a_ping_that_is_too_long_is_refused() -> None:
    """Its payload would be sent back (RFC 6455 section 5.5)."""
    with Wire() as wire:
        wire.open(Frame(PING, "x" * 126).data)
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
    with Wire() as wire, pytest.raises(HandshakeError, match=r"hung up|not valid HTTP"):
        wire.answer("HTTP/1.1 302 Found\r\nLocation: /größe\r\n\r\n".encode())
    assert b"GET /gr" in wire.sent


def test_no_credentials() -> None:
    with Wire() as wire, pytest.raises(UnauthorizedError):
        wire.answer(b"HTTP/1.1 401 No\r\n\r\n")


# --- the request ------------------------------------------------------------------------------


def lines_of(wire: Wire) -> list[str]:
    return wire.request.decode("latin-1").split("\r\n")


@pytest.mark.parametrize("name", ["Host", "host"])
def test_a_host_among_headers_takes_the_place_of_ours(name: str) -> None:
    with Wire(headers={name: "final.example.com"}) as wire:
        wire.open()
    hosts = [line for line in lines_of(wire) if line.lower().startswith("host:")]
    assert hosts == [f"{name}: final.example.com"]


@pytest.mark.parametrize("headers", [{}, {"user-agent": "Mine/1"}])
def test_one_user_agent(headers: dict[str, str]) -> None:
    with Wire(headers=headers) as wire:
        wire.open()
    agents = [line for line in lines_of(wire) if line.lower().startswith("user-agent:")]
    assert len(agents) == 1
    assert agents[0].endswith(headers.get("user-agent", agents[0][-1:]))


def test_a_url_is_escaped_once() -> None:
    with Wire("ws://192.0.2.1/Zürich?x=a%2Bb") as wire:
        wire.open()
    assert lines_of(wire)[0] == "GET /Z%C3%BCrich?x=a%2Bb HTTP/1.1"


def test_subprotocols_are_offered_and_the_answer_is_known() -> None:
    with Wire(subprotocols=["v2", "v1"]) as wire:
        wire.open(headers=["Sec-WebSocket-Protocol: v1", "X-Session: s3cr3t", "X-A: 1", "x-a: 2"])
        handshake = wire.engine.handshake
    assert "Sec-WebSocket-Protocol: v2, v1" in lines_of(wire)
    assert handshake.subprotocol == "v1"
    assert handshake.headers["x-session"] == handshake.headers["X-Session"] == "s3cr3t"
    assert handshake.headers["X-A"] == "1, 2"
    assert "x-session" in list(handshake.headers)
    assert len(handshake.headers) == 6
    assert "s3cr3t" not in repr(handshake) + repr(handshake.headers)


# --- answers that are wrong -------------------------------------------------------------------

PATH = "HTTP/1.1 101 Switching Protocols\r\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Sec-WebSocket-Protocol: other", "subprotocol that was not offered"),
        ("Sec-WebSocket-Protocol: extension", "subprotocol that was not offered"),
        ("Sec-WebSocket-Extensions: other", "Try compression=None"),
        ("Sec-WebSocket-Extensions: permessage-deflate; x=1", "Try compression=None"),
        ("Sec-WebSocket-Protocol: v1, v2", "Sec-WebSocket-Protocol"),
    ],
)
@pytest.mark.parametrize("subprotocols", [None, ["v1"]])
def test_what_broke_the_handshake_is_named(
    answer: str, text: str, subprotocols: list[str] | None
) -> None:
    if subprotocols is None and "v1" in answer:
        text = "subprotocol that was not offered"
    with Wire(subprotocols=subprotocols) as wire, pytest.raises(HandshakeError) as refused:
        wire.open(headers=[answer])
    assert text in str(refused.value)
    assert "other" not in str(refused.value)
    assert refused.value.status == 101


@pytest.mark.parametrize(
    "endless", [b"X: y\r\n", b"x" * 60_000, b"HTTP/1.1 101 " + b"x" * 9000, b"X: " + b"y" * 9000]
)
def test_an_answer_without_end_is_ended(endless: bytes) -> None:
    """The library would read on, at the cost of a processor, until open_timeout."""
    with Wire() as wire:
        opening = wire.begin()
        wire.feed(b"HTTP/1.1 101 Switching Protocols\r\n" + endless)
        wire.feed(*[endless] * 200)
        assert isinstance(opening.exception(), HandshakeError)


@pytest.mark.parametrize("location", ["ws://user:password@192.0.2.1/", "//a@192.0.2.1/"])
def test_a_redirect_that_names_a_user_is_not_followed(location: str) -> None:
    """The library would send an Authorization header of the server's choice."""
    with Wire() as wire, pytest.raises(HandshakeError, match="redirect"):
        wire.answer(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode())
    assert wire.sent == b""


@pytest.mark.parametrize(
    "location", ["", "Location: /a\r\nLocation: /b\r\n", "Location: ws://[\r\n"]
)
def test_redirects_to_nowhere(location: str) -> None:
    with Wire() as wire, pytest.raises(HandshakeError) as refused:
        wire.answer(f"HTTP/1.1 302 Found\r\n{location}\r\n".encode())
    assert refused.value.status == 302


def test_a_redirect_is_escaped_as_it_came() -> None:
    with Wire() as wire, pytest.raises(HandshakeError):
        wire.answer("HTTP/1.1 302 Found\r\nLocation: /größe?a=%2B\r\n\r\n".encode())
    assert b"GET /gr%C3%B6%C3%9Fe?a=%2B HTTP/1.1" in wire.sent


def test_redirects_are_counted() -> None:
    with Wire() as wire:
        opening = wire.begin()
        for _ in range(20):
            wire.feed(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")
        assert "is too large" in str(opening.exception())
    assert wire.sent.count(b"GET /again") == 5


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "expected"),
    [(Close(1000), (1000, "")), (Close(4001, b"go"), (4001, "go")), (Frame(8, b""), (1005, ""))],
)
def test_the_peers_close_frame_is_told_at_once(frame: Frame, expected: tuple[int, str]) -> None:
    """Before TCP ends; its code is an int and nothing else."""
    with Wire() as wire:
        wire.open(frame.data)
        told, ended = wire.peer_close, wire.end_seen
        wire.end()
    assert (told, ended) == (expected, None)
    assert wire.end_seen is not None
    assert {type(each) for each in (told or ())} == {int, str}
    assert type(wire.end_seen.code) is int
    assert (wire.end_seen.code, wire.end_seen.reason) == expected


def test_when_we_close_first_the_peers_is_no_news() -> None:
    with Wire() as wire:
        wire.open()
        wire.do("close", 1000, "")
        wire.feed(Close(1000).data)
        assert wire.is_closing
        assert wire.peer_close is None
        wire.end()
    assert wire.end_seen is not None
    assert wire.end_seen.error is None


def test_the_code_of_a_fault_is_a_plain_int() -> None:
    with Wire() as wire:
        wire.open(Frame(TEXT, b"\xff").data)
        wire.end()
    assert wire.end_seen is not None
    assert type(wire.end_seen.code) is int


# --- progress ---------------------------------------------------------------------------------


def test_written_is_what_the_kernel_has() -> None:
    """Messages, control frames and what the library writes; it grows, and stops with the end."""
    seen = []
    with Wire() as wire:
        wire.open()
        before = wire.engine.written
        wire.is_stuck = True
        wire.do("write", [(True, b"12345")])
        wire.do("ping", b"")
        wire.feed(Frame(PING, "").data)
        assert (wire.engine.written, wire.engine.unsent) == (before, 11 + 6)
        wire.drain()
        seen.append(wire.engine.written)
        assert wire.engine.unsent == 0
        assert wire.engine.written == before + 11 + 6 + 6
        wire.is_stuck = True
        wire.do("write", [(True, b"never sent")])
        wire.do("abort")
        seen.append(wire.engine.written)
    assert seen[0] == seen[1]


def test_nothing_is_unsent_once_it_ends() -> None:
    """asyncio's TLS transport may have no buffer to measure then."""
    with Wire() as wire:
        wire.open()
        before = wire.engine.written
        wire.is_stuck = True
        wire.do("write", [(True, b"never sent")])
        assert wire.engine.unsent > 0
        wire.engine.abort()
        assert (wire.engine.written, wire.engine.unsent) == (before, 0)


def test_a_stop_of_writing_is_told_and_its_end() -> None:
    with Wire() as wire:
        wire.open()
        wire.is_stuck = True
        wire.do("write", [(True, b"12345")])
        assert wire.events == ["paused"]
        wire.drain()
    assert wire.events == ["paused", "resumed"]


def test_a_stop_of_writing_before_it_is_open_is_not_told() -> None:
    """As in the handshake of TLS: there is nothing yet that could be written."""
    with Wire() as wire:
        wire.is_stuck = True
        wire.begin()
        wire.drain()
        wire.request = wire.sent
        assert wire.request.startswith(b"GET / ")
        wire.accept(Frame(TEXT, "hello").data)
    assert wire.events == []
    assert wire.messages == ["hello"]


class Below:
    """The transport of asyncio's that lies below its TLS."""

    def get_write_buffer_size(self) -> int:
        return 7


def test_written_knows_what_lies_below_tls() -> None:
    with Wire() as wire:
        wire.open()
        before = wire.engine.written
        protocol = type("Tls", (), {"_transport": Below()})()
        wire._transport._ssl_protocol = protocol  # type: ignore[union-attr]
        wire.do("write", [(True, b"12345")])
        assert (wire.engine.written, wire.engine.unsent) == (before + 11 - 7, 7)


# --- what is left -----------------------------------------------------------------------------


def test_a_message_in_too_many_fragments_ends_it() -> None:
    """Empty ones cost memory, too, and no size limit ends them."""
    with Wire() as wire:
        wire.open(Frame(TEXT, "", fin=False).data)
        wire.feed(Frame(0, "", fin=False).data * MOST_FRAGMENTS, Frame(TEXT, "late").data)
        wire.end()
    assert wire.end_seen is not None
    assert wire.end_seen.code == 1009
    assert "fragments" in str(wire.end_seen.error)


def test_fragments_that_are_not_utf_8_end_it() -> None:
    with Wire() as wire:
        wire.open(Frame(TEXT, b"\xff", fin=False).data)
        wire.feed(Frame(0, "").data * 2)
        wire.end()
    assert wire.end_seen is not None
    assert wire.end_seen.code == 1007


def test_nothing_counts_after_text_that_is_not_utf_8() -> None:
    """Not even in the same read, of which the library gets all once our close frame is sent."""
    broken = Frame(TEXT, b"\xff", fin=False).data + Frame(0, "").data
    with Wire() as wire:
        wire.open()
        wire.do("close", 1000, "")
        wire.feed(Frame(PONG, "1").data + broken + Frame(TEXT, "late").data)
        wire.end()
    assert wire.messages == []


def test_a_long_message_is_read_in_one_piece() -> None:
    """asyncio's transport is told so; the next reads are long, too, as long as messages are."""
    sizes = []
    data = Frame(TEXT, "x" * 300_000).data
    with Wire() as wire:
        wire.open()
        transport: Any = wire._transport
        transport.max_size = READ_BYTES
        for part in (data[:100], data[100:], Frame(TEXT, "short").data):
            wire.feed(part)
            sizes.append(transport.max_size)
    assert sizes[0] == len(data) - 100
    assert sizes[1] > sizes[2] == READ_BYTES
    assert wire.messages == ["x" * 300_000, "short"]


def test_tls_has_no_half_of_a_connection_to_end() -> None:
    """The whole of it is closed instead."""
    with Wire() as wire:
        wire.open()
        transport: Any = wire._transport
        transport.can_write_eof = lambda: False
        wire.call(transport._protocol.eof_received)
        assert wire.end_seen is not None
        assert wire.end_seen.code == 1006


def test_pongs_are_told() -> None:
    with Wire() as wire:
        wire.open(Frame(PONG, "1").data)
    assert wire.pongs == [b"1"]


def test_nothing_is_written_once_a_close_frame_is() -> None:
    with Wire() as wire:
        wire.open()
        wire.do("close", 1000, "bye")
        sent = wire.sent
        wire.do("close", 1001, "again")
        wire.do("write", [(False, b"late")])
        wire.do("ping", b"")
    assert sent
    assert wire.sent == sent


def test_binary_and_reading_that_stops() -> None:
    with Wire() as wire:
        wire.open()
        wire.do("write", [(False, b"1")])
        wire.do("pause")
        wire.do("resume")
        assert wire.engine.descriptor >= 0
    assert wire.engine.descriptor == -1
    assert wire.sent[0] == 0x82


def test_a_connection_that_ends_while_it_opens() -> None:
    """Between the library's word and ours."""
    with Wire() as wire:
        opening = wire.begin()
        wire.lose_with_answer()
        assert opening.exception() is None
    assert wire.end_seen is not None
    assert wire.end_seen.code == 1006


def test_an_answer_in_two_reads() -> None:
    with Wire() as wire, pytest.raises(HandshakeError):
        wire.answer(b"HTTP/1.1 404 No\r\nContent-", b"Length: 2\r\n\r\n", b"no")


def test_no_final_block_is_looked_at_beyond_the_limit() -> None:
    """Of blocks that each say they are the last, the second is too much: not looked at."""
    decoder = Decompressor(15)
    blocks = final("a" * 10, "b" * 10) + TAIL
    assert decoder.decompress(blocks, 10) == b"a" * 10
    assert decoder.unconsumed_tail
