"""message.reply: on the connection that the message came over, and on no other."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from datastream_ws import Message, NotConnectedError, State
from kit.scene import Stream, play


async def ask(stream: Stream, data: str = "ping") -> Message:
    """Have a message arrive, and return it as a handler is given it."""
    if not stream.messages:
        stream.client.on_message(stream.handle)
    await stream.receive(data)
    return stream.messages[-1]


def test_on_its_own_connection() -> None:
    async def scene(stream: Stream) -> None:
        await stream.start()
        message = await ask(stream, "ping")
        message.reply({"pong": 1})
        thread = threading.Thread(target=message.reply, args=["from a thread"])
        thread.start()
        thread.join()  # it never waits for the loop
        await asyncio.sleep(0.1)
        assert stream.world.sent == ['{"pong":1}', "from a thread"]

    play(scene)


def test_never_on_the_next_one() -> None:
    async def scene(stream: Stream) -> None:
        await stream.start()
        message = await ask(stream, "ping")
        stream.world.engines[-1].drop()
        with pytest.raises(NotConnectedError, match="the connection of this message"):
            message.reply("between the two")
        await asyncio.sleep(5.0)
        assert stream.state() is State.READY
        with pytest.raises(NotConnectedError):
            message.reply("late")
        (await ask(stream, "ping")).reply("in time")
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["in time"]

    play(scene)


def test_before_the_login_is_over() -> None:
    """What others send waits for on_connect; the answer to what the server asks does not."""

    async def scene(stream: Stream) -> None:
        logged_in = asyncio.Event()

        @stream.client.on_connect
        async def login() -> None:
            await logged_in.wait()

        await stream.start()
        await stream.client.send("held back")
        (await ask(stream, "who are you?")).reply("me")
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["me"]
        logged_in.set()
        await asyncio.sleep(0.1)
        assert stream.world.sent == ["me", "held back"]

    play(scene)


def test_a_message_that_came_back_from_the_spool() -> None:
    """It can be replied to as long as its connection lives; one of an earlier process cannot."""

    async def scene(stream: Stream) -> None:
        await stream.start()
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


def test_a_message_that_is_kept_does_not_keep_its_connection() -> None:
    async def scene(stream: Stream) -> None:
        await stream.start()
        message = await ask(stream, "ping")
        life = stream.client._life
        assert life is not None
        assert life.connection is not None
        connection = weakref.ref(life.connection)
        stream.world.engines.pop().drop()
        await asyncio.sleep(5.0)
        gc.collect()
        assert connection() is None
        with pytest.raises(NotConnectedError):
            message.reply("late")

    play(scene)
