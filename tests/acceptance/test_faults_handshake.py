"""Answers to the handshake that no decent server gives."""

from __future__ import annotations

import pytest

from datastream_ws import Client, HandshakeError, State
from kit.rawserver import RawServer, Respond, Rst, Script, Send, Stall, Upgrade
from kit.seen import FAST, eventually

OPTIONS = FAST | {"close_timeout": 0.2}
MEGABYTE = 2**20


# What the first two connections get; the third is accepted.
RETRIED: dict[str, Script] = {
    "FIN": [],
    "RST": [Rst()],
    "no upgrade": [Respond(200, body=b"hello")],
    "HTTP/0.9": [Send(b"hello\n")],
    "SSH": [Send(b"SSH-2.0-OpenSSH_9.2p1\r\n")],
    "half a status line": [Send(b"HTTP/1.1 10")],
    "a header line of 20 kB": [Send(b"HTTP/1.1 101 x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")],
    "500 headers": [Send(b"HTTP/1.1 101 x\r\n" + b"X: a\r\n" * 500 + b"\r\n")],
    "503 with 5 MB": [Respond(503, body=bytes(5 * MEGABYTE))],
}


@pytest.mark.fault("38", "39", "40", "43")
@pytest.mark.parametrize("answer", RETRIED)
def test_answers_that_are_tried_again(answer: str) -> None:
    """Two failed attempts, then READY; for what they cost see test_faults_memory.py."""
    script = RETRIED[answer]
    with (
        RawServer(script, script, [Upgrade(), Stall()]) as server,
        Client(server.url, **OPTIONS) as client,
    ):
        client.wait_ready(30)
        assert client.stats().attempts == 3


FATAL: dict[str, Script] = {
    "subprotocol": [Upgrade(["Sec-WebSocket-Protocol: unasked"])],
    "extension": [Upgrade(["Sec-WebSocket-Extensions: x-unasked"])],
    "accept": [Upgrade(accept="bm9wZQ==")],
}


@pytest.mark.fault("37", "44")
@pytest.mark.parametrize("answer", FATAL)
def test_answers_that_break_the_handshake(answer: str) -> None:
    """A peer that does not keep to it is not asked twice."""
    with RawServer(FATAL[answer]) as server:
        client = Client(server.url, **OPTIONS)
        client.start()
        eventually(lambda: client.state is State.FAILED)
        client.close()
        assert len(server.connections) == 1
        assert isinstance(client.error, HandshakeError)


SLOW: dict[str, Script] = {
    "a byte every 50 ms": [Send(b"HTTP/1.1 101 Switching Protocols\r\n" * 9, 1, 0.05), Stall()],
    "nothing": [Stall()],
}


@pytest.mark.fault("41", "42")
@pytest.mark.parametrize("pace", SLOW)
def test_answers_that_take_too_long(pace: str) -> None:
    """open_timeout bounds the attempt, however the bytes are spread."""
    with (
        RawServer(SLOW[pace], [Upgrade(), Stall()]) as server,
        Client(server.url, open_timeout=0.5, **OPTIONS) as client,
    ):
        first, second, *_ = (each.opened_at for each in server.wait_connections(2, 30))
        assert 0.4 <= second - first <= 0.5 + 2.0
        client.wait_ready(30)
        assert client.stats().attempts == 2
