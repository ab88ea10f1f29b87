"""What a protocol needs to know of its connection, over real sockets, on both faces."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from datastream_ws import AsyncClient, Client, DecodeError, HandlerError, Handshake, Message
from datastream_ws.testing import StreamServer
from kit.seen import FAST, Seen, eventually


def test_the_handshake_is_that_of_the_connection_there_is() -> None:
    """None before and after; in a hook it is there already, and a new one on each connection."""
    seen = Seen[Handshake | None]()
    with StreamServer(subprotocols=["v2", "v1"]) as server:
        client = Client(server.url, subprotocols=["v1", "v2"], **FAST)
        client.on_connect(lambda: seen(client.handshake))
        assert client.handshake is None
        with client:
            client.wait_ready(30)
            server.abort()
            first, second = seen.wait(2)
            client.pause()
            eventually(lambda: client.handshake is None)
        assert client.handshake is None
    for handshake in (first, second):
        assert handshake is not None
        assert handshake.subprotocol in ("v1", "v2")
        assert handshake.headers["UPGRADE"].lower() == "websocket"
    assert first is not second


async def test_the_handshake_of_an_async_client() -> None:
    with StreamServer() as server:
        async with AsyncClient(server.url, **FAST) as client:
            await client.wait_ready(30)
            assert client.handshake is not None
            assert client.handshake.subprotocol is None
            assert "sec-websocket-accept" in client.handshake.headers
        await asyncio.sleep(0)
        assert client.handshake is None


def test_undecodable_messages_are_failures_and_a_line_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is counted, however many come; the log and on_error hear of them once a second."""
    errors = Seen[BaseException]()
    handled = Seen[Message]()
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.on_message("known")(handled)
        client.on_error(errors)
        client.wait_ready(30)
        began = time.monotonic()
        with caplog.at_level(logging.ERROR, "datastream_ws"):
            while len(errors) < 3:  # the third comes when the third second begins
                for _ in range(50):
                    server.send("not JSON: s3cret")
                eventually(lambda: client.stats().messages_waiting == 0)
            seconds = time.monotonic() - began
            server.send({"type": "known"})
            handled.wait()
    lines = [
        r.getMessage() for r in caplog.records if "no route that can be read" in r.getMessage()
    ]
    assert 3 <= len(lines) <= seconds + 1
    assert len(errors) == len(lines)
    assert all(isinstance(error, HandlerError) for error in errors.all)
    assert isinstance(errors.all[0].__cause__, DecodeError)
    assert not any("s3cret" in line for line in lines)
    assert client.stats().messages_handled == 1
