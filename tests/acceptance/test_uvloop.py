"""The option ``loop``: the process's loop thread runs on uvloop when the first client asks."""

from __future__ import annotations

import asyncio
import threading

import pytest

from datastream_ws import Client
from datastream_ws.testing import StreamServer

uvloop = pytest.importorskip("uvloop")


@pytest.mark.leaks_allowed("libuv keeps one signal pipe for the life of the process")
def test_a_client_on_uvloop_reconnects() -> None:
    """Messages, a drop and a close work as on asyncio's own loop."""
    loops: list[type] = []
    arrived = threading.Event()
    with StreamServer() as server:
        client = Client(server.url, loop="uvloop", min_reconnect_delay=0.05, proxy=None)

        @client.on_message
        async def handle(message: object) -> None:
            loops.append(type(asyncio.get_running_loop()))
            arrived.set()

        with client:
            client.wait_ready(10)
            server.abort()
            server.wait_connected(2)
            client.wait_ready(10)
            server.send("x")
            assert arrived.wait(10)
        assert server.connections[-1].close_code == 1000
    assert loops == [uvloop.Loop]
