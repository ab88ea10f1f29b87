"""message.reply: on the connection that the message came over, and on no other."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from datastream_ws import AsyncClient, Message, NotConnectedError, State
from kit.fakeengine import InlineThreads, World
from kit.virtualtime import VirtualLoop


class Stream:
    """A client over a world without a network, and the messages that it handled."""

    def __init__(self, **options: Any) -> None:
        self.world = World()
        self.messages: list[Message] = []
        self.client = AsyncClient("ws://fake", **options)
        self.client.on_message(self.messages.append)

    async def connect(self, number: int = 1) -> None:
        """Let time pass until connection *number* is ready; the clock jumps."""
        await asyncio.sleep(10.0)
        assert len(self.world.engines) == number
        assert self.client.state is State.READY or self.client.state is State.CONNECTED

    async def receive(self, data: str) -> Message:
        self.world.engines[-1].deliver(data)
        await asyncio.sleep(0.1)
        return self.messages[-1]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs a scene: a coroutine function that is given a stream."""

    def run(scene: Any, **options: Any) -> None:
        async def stage() -> None:
            stream = Stream(**options)
            engine = "datastream_ws.connection.websockets_engine.WebsocketsEngine"
            monkeypatch.setattr(engine, stream.world.engine)
            try:
                await scene(stream)
            finally:
                await stream.client.close(0)

        monkeypatch.setattr("datastream_ws.async_client.threads", InlineThreads)
        loop = VirtualLoop()
        try:
            loop.run_until_complete(stage())
        finally:
            loop.close()

    return run


def test_on_its_own_connection(play: Any) -> None:
    async def scene(stream: Stream) -> None:
        await stream.client.start()
        await stream.connect()
        message = await stream.receive("ping")
        message.reply({"pong": 1})
        thread = threading.Thread(target=message.reply, args=["from a thread"])
        thread.start()
        thread.join()  # it never waits for the loop
        await asyncio.sleep(0.1)
        assert stream.world.sent == ['{"pong":1}', "from a thread"]

    play(scene)


def test_never_on_the_next_one(play: Any) -> None:
    async def scene(stream: Stream) -> None:
        await stream.client.start()
        await stream.connect()
        message = await stream.receive("ping")
        stream.world.engines[-1].drop()
        with pytest.raises(NotConnectedError, match="the connection this message came over"):
            message.reply("between the two")
        await stream.connect(2)
        assert stream.client.state is State.READY
        with pytest.raises(NotConnectedError):
            message.reply("late")
        (await stream.receive("ping")).reply("in time")
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["in time"]

    play(scene)


def test_before_the_login_is_over(play: Any) -> None:
    """What others send waits for on_connect; the answer to what the server asks does not."""

    async def scene(stream: Stream) -> None:
        logged_in = asyncio.Event()

        @stream.client.on_connect
        async def login() -> None:
            await logged_in.wait()

        await stream.client.start()
        await stream.connect()
        await stream.client.send("held back")
        (await stream.receive("who are you?")).reply("me")
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["me"]
        logged_in.set()
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["me", "held back"]

    play(scene)


def test_a_message_that_came_back_from_the_spool(play: Any) -> None:
    """It can be replied to as long as its connection lives; one of an earlier process cannot."""

    async def scene(stream: Stream) -> None:
        await stream.client.start()
        await stream.connect()
        life = stream.client._life
        assert life is not None
        parts = life.parts
        send = parts.origin(life.epoch, 1).send
        assert send is not None
        send("x")
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["x"]
        assert parts.origin(life.epoch - 1, 1).send is None
        assert parts.origin(life.epoch, 2).send is None

    play(scene)


def test_a_message_that_is_kept_does_not_keep_its_connection(play: Any) -> None:
    async def scene(stream: Stream) -> None:
        await stream.client.start()
        await stream.connect()
        message = await stream.receive("ping")
        life = stream.client._life
        assert life is not None
        assert life.connection is not None
        connection = weakref.ref(life.connection)
        stream.world.engines.pop().drop()
        await stream.connect()
        gc.collect()
        assert connection() is None
        with pytest.raises(NotConnectedError):
            message.reply("late")

    play(scene)
