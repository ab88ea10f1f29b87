"""Frames that break the protocol or the limits, and ends that are easily misread."""

from __future__ import annotations

import threading
import zlib

import pytest

from datastream_ws import Client, DisconnectEvent, Message, ReconnectError, State, StreamClosedError
from datastream_ws.testing import StreamServer
from kit.rawserver import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Close,
    Drain,
    ExpectFrame,
    Frame,
    RawServer,
    Script,
    Send,
    Stall,
    Upgrade,
)
from kit.seen import FAST, Seen, eventually

MEGABYTE = 2**20
OPTIONS = FAST | {"close_timeout": 0.3}
COMPRESSED = 4
DEFLATE = Upgrade(["Sec-WebSocket-Extensions: permessage-deflate"])


# What comes after a good message, and the code we close with.
BROKEN: dict[str, tuple[Script, int]] = {
    "not UTF-8": ([Frame(TEXT, b"\xff\xfe")], 1007),
    "not UTF-8 in the second fragment": (
        [Frame(TEXT, "a", fin=False), Frame(CONTINUATION, b"\xff")],
        1007,
    ),
    "2 MB announced": ([Frame(BINARY, b"", size=2 * MEGABYTE)], 1009),
    "2^63 - 1 announced": ([Frame(BINARY, b"", size=2**63 - 1)], 1009),
    "unknown opcode": ([Frame(3, "x")], 1002),
    "reserved bits": ([Frame(TEXT, "x", rsv=3)], 1002),
    "masked": ([Frame(TEXT, "x", masked=True)], 1002),
    "fragmented ping": ([Frame(PING, "x", fin=False)], 1002),
    "long ping": ([Frame(PING, "x" * 126)], 1002),
    "orphan continuation": ([Frame(CONTINUATION, "x")], 1002),
    "interleaved messages": ([Frame(TEXT, "x", fin=False), Frame(TEXT, "y")], 1002),
    "5,000 fragments": (
        [
            Frame(TEXT, "x", fin=False),
            Send(Frame(CONTINUATION, "x", fin=False).data * 5000),
        ],
        1009,
    ),
    "close 1005": ([Close(1005)], 1002),
    "close 1006": ([Close(1006)], 1002),
    "close of one byte": ([Frame(CLOSE, b"\x03")], 1002),
    "close with a reason that is not UTF-8": ([Close(1000, b"\xff")], 1007),
}


@pytest.mark.fault("45", "46", "47", "48", "58", "G24")
@pytest.mark.parametrize("what", BROKEN)
def test_frames_that_break_the_rules(what: str) -> None:
    """The messages before are delivered, the close code is right, attempts are counted."""
    frames, code = BROKEN[what]
    seen = Seen[Message]()
    script: Script = [Upgrade(), Frame(TEXT, "good"), *frames, ExpectFrame(CLOSE), Drain()]
    with RawServer(script) as server:
        options = OPTIONS | {"max_reconnect_attempts": 2, "close_timeout": 0.1}
        client = Client(server.url, **options)
        client.on_message(seen)
        client.start()
        eventually(lambda: client.state is State.FAILED)
        client.close()
        codes = [connection.frames[-1].close_code for connection in server.connections]
    assert isinstance(client.error, ReconnectError)
    assert codes == [code, code]
    assert [message.data for message in seen.all] == ["good", "good"]


def deflated(data: bytes) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (engine.compress(data) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.fault("49")
def test_a_compression_bomb() -> None:
    """2 MB in 2 kB: closed with 1009; what 200 MB cost is told by test_faults_memory.py."""
    bomb = Frame(BINARY, deflated(bytes(2 * MEGABYTE)), rsv=COMPRESSED)
    ended = Seen[DisconnectEvent]()
    with RawServer([DEFLATE, bomb, ExpectFrame(CLOSE), Drain()], [DEFLATE, Stall()]) as server:
        client = Client(server.url, **OPTIONS)
        client.on_disconnect(ended)
        with client:
            assert ended.wait()[0].code == 1009
            assert server.connections[0].frames[-1].close_code == 1009


@pytest.mark.fault("50")
def test_corrupt_compression() -> None:
    """Closed with 1002 or 1007, nothing delivered; the next connection works."""
    seen = Seen[Message]()
    corrupt = Frame(TEXT, b"\xff" * 50, rsv=COMPRESSED)
    good = Frame(TEXT, deflated(b"good"), rsv=COMPRESSED)
    with RawServer([DEFLATE, corrupt, ExpectFrame(CLOSE), Drain()], [DEFLATE, good, Stall()]) as s:
        client = Client(s.url, **OPTIONS)
        client.on_message(seen)
        with client:
            assert seen.wait()[0].data == "good"
            assert s.connections[0].frames[-1].close_code in (1002, 1007)
    assert len(seen) == 1


@pytest.mark.fault("57")
def test_our_message_was_too_big() -> None:
    """Close 1009 from the server: retried, and the error says whose message it was."""
    errors = Seen[BaseException]()
    with StreamServer() as server:
        client = Client(server.url, **OPTIONS)
        client.on_error(errors)
        with client:
            client.wait_ready(30)
            server.close(1009)
            server.wait_connected(2, 30)
            client.wait_ready(30)
    error = errors.wait()[0]
    assert isinstance(error, StreamClosedError)
    assert "a message from this client" in str(error)


@pytest.mark.fault("59")
def test_data_after_the_close_frame() -> None:
    """Nothing counts any more once the peer has said that it is done."""
    seen = Seen[Message]()
    late = Send(Close(1001).data + Frame(TEXT, "late").data)
    scripts: list[Script] = [
        [Upgrade(), Frame(TEXT, "before"), late, Frame(TEXT, "later"), Drain()],
        [Upgrade(), Frame(TEXT, "next"), Stall()],
    ]
    with RawServer(*scripts) as server:
        client = Client(server.url, **OPTIONS)
        client.on_message(seen)
        with client:
            seen.wait(2)
    assert [message.data for message in seen.all] == ["before", "next"]


@pytest.mark.fault("60")
@pytest.mark.parametrize("close", [Close(1001).data, b""])
def test_messages_and_the_end_in_one_segment(close: bytes) -> None:
    """Twelve messages and a close, read at once while the handler is busy: all are handled."""
    seen, ended = Seen[Message](), Seen[DisconnectEvent]()
    burst = b"".join(Frame(TEXT, str(n)).data for n in range(12))
    go_on = threading.Event()

    def slow(message: Message) -> None:
        go_on.wait(30)
        seen(message)

    with RawServer([Upgrade(), Send(burst + close)], [Upgrade(), Stall()]) as server:
        client = Client(server.url, **OPTIONS)
        client.on_message(slow)
        client.on_disconnect(ended)
        with client:
            ended.wait()
            go_on.set()
            seen.wait(12)
    assert [message.data for message in seen.all] == [str(n) for n in range(12)]
