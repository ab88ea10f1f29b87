"""What a developer does wrong, or the network does, is said once and in words."""

from __future__ import annotations

import asyncio
import socket

import pytest

from datastream_ws import Client, Message, State
from datastream_ws.exceptions import ReconnectError
from datastream_ws.health import describe
from datastream_ws.testing.server import StreamServer
from kit.seen import eventually

NOBODY = "no handler is registered for its messages"


def test_a_client_without_message_handlers_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with StreamServer() as server, Client(server.url, min_reconnect_delay=0.05) as client:
        client.wait_ready(10)
        client.reconnect()
        server.wait_connected(2)
        eventually(lambda: client.stats().connections == 2 and client.is_ready, 10)
        eventually(lambda: NOBODY in caplog.text, 10)
    assert caplog.text.count(NOBODY) == 1
    assert "Register one with @client.on_message" in caplog.text


@pytest.mark.parametrize("inline", [False, True])
def test_a_client_with_a_message_handler_is_silent(
    inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with StreamServer() as server:
        client = Client(server.url)

        @client.on_message("tick", inline=inline)
        def tick(message: Message) -> None: ...

        with client:
            client.wait_ready(10)
    assert NOBODY not in caplog.text


def test_unrouted_messages_are_not_called_handled() -> None:
    with StreamServer() as server:
        client = Client(server.url)

        @client.on_message("tick")
        def tick(message: Message) -> None: ...

        with client:
            client.wait_ready(10)
            for kind in ("tick", "tock", "tock"):
                server.send({"type": kind})
            eventually(lambda: client.stats().messages_handled == 3, 10)
            health = describe(client, 0.0)
    assert (health.messages_handled, health.messages_unrouted) == (1, 2)


def test_async_with_a_client_names_the_other_class() -> None:
    async def wrong() -> None:
        async with Client("ws://127.0.0.1:1/"):  # type: ignore[attr-defined]
            pass

    with pytest.raises(TypeError, match="AsyncClient"):
        asyncio.run(wrong())


def test_a_refused_connection_is_told_in_words_and_giving_up_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Client(f"ws://127.0.0.1:{port}/", max_reconnect_attempts=1)
    client.start()
    with pytest.raises(
        ReconnectError,
        match=r"^gave up after 1 failed attempt; last error: connection refused by 127",
    ):
        client.wait_closed(10)
    assert client.state is State.FAILED
    assert caplog.text.count("gave up") == 1
    assert "Errno" not in caplog.text
    assert "Errno" not in str(client.error)
    assert caplog.text.count("connecting to") <= 1
