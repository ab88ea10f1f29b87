"""`async for` in the place of handlers: what it is given, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import pytest

from datastream_ws import ClientOptions, ConfigurationError, Handlers, Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.dispatcher import Dispatcher
from datastream_ws.handling.inbox import Inbox
from datastream_ws.handling.iteration import Messages
from datastream_ws.messages import Origin
from datastream_ws.stats import Counts

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")


class Stream:
    """A dispatcher of a client that is iterated over."""

    def __init__(self, **options: Any) -> None:
        self.handlers = Handlers()
        self.inbox = Inbox(**options)
        self.rooms = 0
        self.open = True
        self.finished: Future[None] = Future()
        self.error: Exception | None = None
        self.seq = 0
        self.dispatcher = Dispatcher(
            owner=self,
            inbox=self.inbox,
            handlers=self.handlers,
            options=ClientOptions("ws://localhost"),
            loop=asyncio.get_running_loop(),
            spawn=lambda function: threading.Thread(target=function).start(),
            report=lambda error: None,
            on_room=self.note_room,
            on_death=lambda death: None,
            gate=lambda: self.open,
            is_iterable=True,
        )

    def note_room(self) -> None:
        self.rooms += 1

    def put(self, *payloads: str) -> None:
        made = []
        for data in payloads:
            self.seq += 1
            made.append(Message(data, ORIGIN, self.seq, 0.0))
        self.inbox.put(made)
        self.dispatcher.wake()

    def messages(self) -> Messages:
        return Messages(lambda: (self.dispatcher.iteration, self.finished), self.raise_if_failed)

    def raise_if_failed(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> Counts:
        """As a client does."""
        async with asyncio.timeout(5):
            await self.dispatcher.drain()
        self.inbox.close()
        await self.dispatcher.stop()
        self.finished.set_result(None)
        return self.inbox.counts()


@asynccontextmanager
async def stream(**options: Any) -> AsyncIterator[Stream]:
    made = Stream(**options)
    try:
        yield made
    finally:
        await made.dispatcher.stop()


async def test_each_is_handled_once_the_next_is_asked_for() -> None:
    async with stream() as s:
        s.put("a", "b")
        messages = s.messages()
        assert (await anext(messages)).data == "a"
        assert (s.inbox.counts().handled, s.inbox.waiting) == (0, 2)
        assert (await anext(messages)).data == "b"
        assert (s.inbox.counts().handled, s.inbox.waiting) == (1, 1)


async def test_waits_for_what_comes_and_for_the_end() -> None:
    async with stream() as s:

        async def iterate() -> list[Any]:
            return [message.data async for message in s.messages()]

        iterating = asyncio.create_task(iterate())
        for data in "abc":
            await asyncio.sleep(0)
            s.put(data)
        counts = await s.close()
        assert await iterating == ["a", "b", "c"]
        assert (counts.handled, counts.waiting) == (3, 0)


async def test_raises_the_error_of_a_client_that_failed() -> None:
    async with stream() as s:
        s.error = ConnectionError()
        await s.close()
        with pytest.raises(ConnectionError):
            await anext(s.messages())


async def test_waits_while_the_gate_is_closed() -> None:
    async with stream() as s:
        s.open = False
        s.put("a")
        taking = asyncio.create_task(anext(s.messages()))
        await asyncio.sleep(0.01)
        assert not taking.done()
        s.open = True
        s.dispatcher.wake()
        assert (await taking).data == "a"


async def test_the_oldest_make_room_while_nobody_iterates() -> None:
    """And are kept for one who comes later, as many as fit."""
    async with stream(size=2) as s:
        s.put("a", "b", "c")
        assert s.inbox.counts().dropped == {"untaken": 1}
        messages = s.messages()
        assert (await anext(messages)).data == "b"
        assert s.inbox.put([Message("d", ORIGIN, 4, 0.0)]).full, "now somebody takes them"


async def test_close_does_not_wait_for_an_iterator_that_is_not_there() -> None:
    async with stream() as s:
        s.put("a", "b")
        counts = await s.close()
        assert (counts.dropped, counts.waiting) == ({"untaken": 2}, 0)


async def test_iterator_that_is_left() -> None:
    """Its message is handled, the rest is nobody's."""
    async with stream() as s:
        s.put("a", "b", "c")
        async for message in s.messages():
            assert message.data == "a"
            break
        gc.collect()
        assert s.inbox.counts().handled == 1
        counts = await s.close()
        assert (counts.handled, counts.dropped, counts.waiting) == (1, {"untaken": 2}, 0)


async def test_iterator_that_is_left_while_closing() -> None:
    """The drain ends with it."""
    async with stream() as s:
        s.put("a", "b")
        messages: Messages | None = s.messages()
        assert messages is not None
        await anext(messages)
        closing = asyncio.create_task(s.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        messages = None
        gc.collect()
        counts = await closing
        assert (counts.handled, counts.dropped) == (1, {"untaken": 1})


async def test_a_task_that_closes_leaves_its_iterators() -> None:
    """Its message is handled, and the others are for the iterator of another task."""
    async with stream() as s:
        s.put(*"abc")
        mine, others = s.messages(), s.messages()
        assert (await anext(mine)).data == "a"
        assert await asyncio.create_task(anext(others)) is not None
        s.dispatcher.iteration.leave()
        assert (s.inbox.counts().handled, s.inbox.waiting) == (1, 2)
        closing = asyncio.create_task(s.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        assert (await anext(others)).data == "c"
        with pytest.raises(StopAsyncIteration):
            await anext(others)
        assert (await closing).handled == 3
        with pytest.raises(StopAsyncIteration):
            await anext(mine)


async def test_reading_resumes_when_the_iterator_is_left() -> None:
    """It had stopped for one that takes nothing any more."""
    async with stream(size=1) as s:
        messages: Messages | None = s.messages()
        assert messages is not None
        s.put("a")
        await anext(messages)
        s.put("b")
        messages = None
        gc.collect()
        async with asyncio.timeout(5):
            while not s.rooms:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert s.inbox.counts().handled == 1


async def test_finalizer_within_the_lock() -> None:
    """A garbage collection may run in whoever holds the inbox's lock: no deadlock."""
    async with stream() as s:
        s.put("a", "b")
        messages: Messages | None = s.messages()
        assert messages is not None
        await anext(messages)
        with s.inbox._lock:
            messages = None
            gc.collect()
        assert s.inbox.counts().handled == 1


async def test_finalizer_after_the_loop() -> None:
    """There is nothing left to do."""
    async with stream() as s:
        iteration = s.dispatcher.iteration
        closed = asyncio.new_event_loop()
        closed.close()
        iteration._loop = closed
        iteration.end(None)


async def test_an_iterator_on_another_loop_is_told_at_once() -> None:
    """Nothing would wake it there."""
    async with stream() as s:
        s.put("a")

        def elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(asyncio.wait_for(anext(s.messages()), 5))

        await asyncio.to_thread(elsewhere)
        assert (await anext(s.messages())).data == "a"
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_an_iterator_for_each_message_leaves_nothing_behind() -> None:
    async with stream() as s:
        for number in range(10):
            s.put(str(number))
            assert (await anext(s.messages())).data == str(number)
        assert len(s.finished._done_callbacks) == 1  # type: ignore[attr-defined]


async def test_iterator_that_never_began() -> None:
    async with stream() as s:
        s.messages().__aiter__()
        gc.collect()
        assert not s.dispatcher.iteration.is_used


async def test_the_next_iterator_goes_on_where_one_was_left() -> None:
    """At once, before the loop has had a turn: the order is kept."""
    async with stream() as s:
        s.put(*"abcde")
        first: Messages | None = s.messages()
        assert first is not None
        assert [(await anext(first)).data for _ in range(2)] == ["a", "b"]
        first = None
        gc.collect()
        second = s.messages()
        assert [(await anext(second)).data for _ in range(3)] == ["c", "d", "e"]
        assert (s.inbox.counts().handled, s.inbox.waiting) == (4, 1)


async def test_iterators_side_by_side_share_what_there_is() -> None:
    """Each message is given to one of them, and none waits behind what the other has at hand."""
    async with stream() as s:
        s.put(*"abcde")
        first, second = s.messages(), s.messages()
        assert (await anext(first)).data == "a"
        assert (await anext(second)).data == "b"
        assert (await anext(first)).data == "c"
        assert (s.inbox.counts().handled, s.inbox.waiting) == (1, 4)
        assert [(await anext(second)).data, (await anext(first)).data] == ["d", "e"]
        assert (s.inbox.counts().handled, s.inbox.waiting) == (3, 2)


async def test_nothing_is_handed_on_once_the_gate_is_closed() -> None:
    """Though it was taken together with a message before; it comes first later."""
    async with stream() as s:
        s.put("a", "b")
        messages = s.messages()
        assert (await anext(messages)).data == "a"
        s.open = False
        taking = asyncio.create_task(anext(messages))
        await asyncio.sleep(0.01)
        assert not taking.done()
        assert (s.inbox.counts().handled, s.inbox.ready) == (1, 1)
        s.open = True
        s.dispatcher.wake()
        assert (await taking).data == "b"


async def test_handlers_beside_an_iterator_that_has_some_at_hand() -> None:
    """Each message is handled by one of them, and counted."""
    async with stream() as s:
        s.put("a", "b")
        messages = s.messages()
        assert (await anext(messages)).data == "a"
        seen: list[Any] = []
        s.handlers.on_message(lambda message: seen.append(message.data))
        s.put("c")
        async with asyncio.timeout(5):
            while not seen:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert (await anext(messages)).data == "b"
        assert seen == ["c"]
        assert (s.inbox.counts().handled, s.inbox.waiting) == (2, 1)


async def test_handlers_that_come_later_take_over() -> None:
    """What waited for an iterator is theirs."""
    async with stream() as s:
        s.put("a")
        seen: list[Any] = []
        s.handlers.on_message(lambda message: seen.append(message.data))
        s.dispatcher.wake()
        counts = await s.close()
        assert (seen, counts.handled) == (["a"], 1)
