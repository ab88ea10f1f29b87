"""An AsyncClient on a loop that is the user's own, and not asyncio's: uvloop's."""

from __future__ import annotations

import asyncio

import pytest

from datastream_ws import AsyncClient, Message, State
from datastream_ws.testing import StreamServer
from kit.seen import FAST, eventually

uvloop = pytest.importorskip("uvloop")


async def through_a_drop(server: StreamServer) -> list[str | bytes]:
    """Return what a client is sent before and after a drop, and what it asks for."""
    got: list[str | bytes] = []
    arrived = asyncio.Event()
    async with AsyncClient(server.url, **FAST) as client:

        @client.on_message
        async def handle(message: Message) -> None:
            assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
            got.append(message.data)
            arrived.set()

        async def receive(text: str) -> None:
            arrived.clear()
            server.send(text)
            await asyncio.wait_for(arrived.wait(), 10)

        await client.wait_ready(10)
        await receive("before")
        server.abort()
        await asyncio.to_thread(server.wait_connected, 2)
        await client.wait_ready(10)
        await receive("after")
        await client.send("heard", wait=10)
        assert await asyncio.to_thread(server.wait_received, 1) == ["heard"]
        assert client.stats().connections == 2
    assert client.state is State.CLOSED
    return got


@pytest.mark.leaks_allowed("libuv keeps one signal pipe for the life of the process")
def test_an_async_client_works_on_uvloop() -> None:
    """Messages either way, a drop and a close as on asyncio's own loop."""
    with StreamServer() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(through_a_drop(server)) == ["before", "after"]
        eventually(lambda: server.connections[-1].close_code == 1000)
