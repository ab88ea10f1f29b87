"""
A client without a network, in virtual time.

::

    async def scene(stream: Stream) -> None:
        await stream.start()
        stream.engine.deliver("hello")
        ...

    play(scene, heartbeat="beat")
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from datastream_ws import AsyncClient, Message, State

from .fakeengine import FakeEngine, World
from .offline import Offline
from .seen import FAST

__all__ = ["Stream", "play"]


class Stream:
    """
    The client of a scene, and its world.

    Args:
        world: The servers and the network.
        url: The option ``url``.
        options: More options of the client, in addition to FAST.

    Attributes:
        messages: The messages that :meth:`handle` was called with.

    """

    def __init__(self, world: World, url: Any = "ws://fake", **options: Any) -> None:
        self.world = world
        self.messages: list[Message] = []
        self.client = AsyncClient(url, **{**FAST, **options})

    def handle(self, message: Message) -> None:
        """Keep a message. A scene can register it as a handler."""
        self.messages.append(message)

    async def start(self, seconds: float = 5.0) -> None:
        await self.client.start()
        await asyncio.sleep(seconds)

    def state(self) -> State:
        return self.client.state

    @property
    def engine(self) -> FakeEngine:
        """The engine of the latest connection."""
        return self.world.engines[-1]

    async def receive(self, *data: str) -> None:
        """Let messages arrive, and wait until they are handled."""
        self.engine.deliver(*data)
        await asyncio.sleep(0.1)


def play(scene: Callable[[Stream], Awaitable[None]], *url: Any, **options: Any) -> None:
    """Run *scene* with a client that has these options. Waiting takes no real time."""

    offline = Offline()

    async def stage() -> None:
        stream = Stream(offline.world, *url, **options)
        try:
            await scene(stream)
        finally:
            await stream.client.close(0)

    try:
        offline.loop.run_until_complete(stage())
        assert offline.broken == []
    finally:
        offline.close()
