"""A dispatcher and an intake, each with minimal surroundings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from datastream_ws import (
    ClientOptions,
    Handlers,
    Message,
)
from datastream_ws.handling.budget import Budget
from datastream_ws.handling.dispatcher import Dispatcher
from datastream_ws.handling.inbox import Inbox
from datastream_ws.handling.intake import Intake
from datastream_ws.handling.timing import Timings
from datastream_ws.messages import Origin
from datastream_ws.process.handler_threads import HandlerThreads
from datastream_ws.stats import Counts, Traffic

__all__ = [
    "BOTH",
    "FakeConnection",
    "Lost",
    "Rig",
    "Stream",
    "noted",
    "numbered",
    "stream",
    "until",
]

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Stream:
    """A dispatcher with an inbox, without a connection."""

    def __init__(self, **options: Any) -> None:
        self.options = ClientOptions("ws://localhost", **options)
        self.handlers = Handlers()
        self.inbox = Inbox(size=self.options.inbox_size, ordering_key=self.options.ordering_key)
        self.reported: list[BaseException] = []
        self.log: list[Any] = []
        self.open = True
        self.rooms = 0
        self.seq = 0
        self.threads = HandlerThreads()
        self.dispatcher = Dispatcher(
            owner=self,
            inbox=self.inbox,
            handlers=self.handlers,
            options=self.options,
            loop=asyncio.get_running_loop(),
            spawn=self.threads.call,
            wait=self.threads.rest,
            report=self.reported.append,
            on_room=self.note_room,
            on_death=self.reported.append,
            gate=lambda: self.open,
        )
        self.handlers.changed.add(self.dispatcher.use_changed_handlers)

    def note_room(self) -> None:
        self.rooms += 1

    def put(self, *routes: str, wake: bool = True) -> None:
        """Put messages with these routes into the inbox."""
        codec: Any = self.options.codec
        origin = Origin("default", 1, 1, codec, self.options.route)
        made = []
        for route in routes:
            self.seq += 1
            made.append(Message(json.dumps({"type": route}), origin, self.seq, 0.0))
        self.inbox.put(made)
        if wake:
            self.dispatcher.wake()

    async def drain(self) -> Counts:
        async with asyncio.timeout(10):
            await self.dispatcher.drain()
        return self.inbox.counts()

    def handler(self, *, name: str = "handler", is_async: bool = False, **when: Any) -> None:
        """Register a handler that appends the route of each message to the log."""

        def plain(message: Message) -> None:
            self.log.append(message.route)

        async def coroutine(message: Message) -> None:
            await asyncio.sleep(0)
            self.log.append(message.route)

        function = coroutine if is_async else plain
        function.__qualname__ = name
        register: Any = self.handlers.on_message
        register(**when)(function)

    @property
    def errors(self) -> list[str]:
        """The types of the causes of the reported errors."""
        return [type(error.__cause__).__name__ for error in self.reported]


@asynccontextmanager
async def stream(**options: Any) -> AsyncIterator[Stream]:
    made = Stream(**options)
    try:
        yield made
    finally:
        await made.dispatcher.stop()


async def until(fact: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110 - facts of other threads
            await asyncio.sleep(0.001)


class FakeConnection:
    """The part of a connection that an intake uses."""

    def __init__(self) -> None:
        self.reading = True
        self.errors: list[Exception] = []

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def fail(self, error: Exception) -> None:
        self.errors.append(error)


class Rig:
    """An intake between a connection and an inbox."""

    def __init__(
        self, budget: Budget | None = None, *, is_gated: bool = True, **options: Any
    ) -> None:
        self.options = ClientOptions("ws://localhost", **options)
        self.inbox = Inbox(
            size=self.options.inbox_size,
            size_bytes=self.options.inbox_bytes,
            overflow=self.options.overflow,
            budget=budget,
        )
        self.traffic = Traffic()
        self.handlers = Handlers()
        self.reported: list[BaseException] = []
        self.warned: list[str] = []
        self.woken = 0
        self.open = True
        self.timings = Timings()
        self.intake = Intake(
            self.inbox,
            self.traffic,
            self.options,
            self.handlers,
            wake=self.wake,
            report=self.reported.append,
            warn=self.warned.append,
            running_handlers=lambda: ["shop.slow"],
            is_open=(lambda: self.open) if is_gated else None,
            timings=self.timings,
        )
        self.connection = FakeConnection()
        self.connect()

    def connect(self, ready: bool = True) -> None:
        codec: Any = self.options.codec
        origin = Origin("default", 1, 1, codec, self.options.route)
        self.intake.attach(self.connection, origin)
        if ready:
            self.intake.requests.ready()

    def wake(self) -> None:
        self.woken += 1

    def reads(self) -> bool:
        return self.connection.reading

    def take(self, *payloads: str | bytes) -> None:
        self.intake.take(list(payloads), sum(map(len, payloads)))

    def handle(self, most: int = 10**6) -> list[Any]:
        """Handle at most *most* messages, and return them."""
        found: list[Any] = []
        while len(found) < most and (message := self.inbox.pop()) is not None:
            found.append((message.seq, message.data))
            if self.inbox.done(message):
                self.intake.on_room()
        return found


class Lost(Exception):
    """A lost database connection."""


def noted(log: list[Any], name: str) -> Callable[[], Any]:
    """Return a factory of contexts that append their start and end to the log."""

    @contextmanager
    def context() -> Iterator[None]:
        log.append(f"+{name}")
        try:
            yield
        except BaseException as error:
            log.append(f"!{name} {type(error).__name__}")
            raise
        finally:
            log.append(f"-{name}")

    return context


def numbered(*payloads: str | bytes, first: int = 1) -> list[Any]:
    return list(enumerate(payloads, first))
