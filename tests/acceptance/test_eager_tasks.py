"""A loop with `asyncio.eager_task_factory`, which runs a task before create_task() returns."""

from __future__ import annotations

import asyncio
import sys

import pytest

from datastream_ws import AsyncClient, HandlerError, Message, StateEvent
from datastream_ws.testing import StreamServer
from kit.seen import FAST, Seen, eventually

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has eager tasks")


def make_eager() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]


async def test_every_report_is_made() -> None:
    """The task of the first one had ended before it was noted as running, so none followed."""
    make_eager()
    states, errors = Seen[str](), Seen[BaseException]()
    with StreamServer() as server:
        client = AsyncClient(server.url, **FAST)

        @client.on_state
        async def note(event: StateEvent) -> None:
            states(event.state.value)

        @client.on_error
        async def keep(error: BaseException) -> None:
            errors(error)

        @client.on_message
        async def fail(message: Message) -> None:
            raise LookupError

        async with client:
            await client.wait_ready(30)
            server.send("x")
            await asyncio.to_thread(errors.wait)
        assert states.all == ["connecting", "connected", "ready", "closing", "closed"]
        assert isinstance(errors.all[0], HandlerError)


async def test_a_full_inbox_is_read_on() -> None:
    """Its messages were handled before the rest of the read was held, so nothing resumed it."""
    make_eager()
    with StreamServer() as server:
        client = AsyncClient(server.url, inbox_size=10, **FAST)

        @client.on_message
        async def handle(message: Message) -> None: ...

        async with client:
            await client.wait_ready(30)
            for number in range(1000):
                server.send(str(number))
            await asyncio.to_thread(eventually, lambda: client.stats().messages_handled == 1000, 10)


async def test_a_subscription_made_within_another_follows_it() -> None:
    """A second task sent it first, beside the one that waited for the callable."""
    make_eager()
    with StreamServer() as server:
        client = AsyncClient(server.url, **FAST)

        async def outer() -> str:
            await client.subscribe("inner")
            await asyncio.sleep(0)
            return "outer"

        async with client:
            await client.wait_ready(30)
            await client.subscribe(outer)
            await asyncio.to_thread(eventually, lambda: len(server.received) == 2, 10)
        assert server.received == ["outer", "inner"]
