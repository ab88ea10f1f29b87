"""on_ready: it may wait for replies, must not take for ever, and decides what counts as ready."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from datastream_ws import (
    AsyncClient,
    Client,
    DisconnectEvent,
    HandlerError,
    Message,
    NotConnectedError,
    State,
    StateEvent,
)
from datastream_ws.testing import StreamServer
from kit.seen import FAST, Seen, eventually


def answer(connection: Any, data: str | bytes) -> None:
    """Before each reply, 100 other messages."""
    asked = json.loads(data)
    if "id" in asked:
        for n in range(100):
            connection.send({"type": "tick", "n": n})
        connection.send({"type": "reply", "id": asked["id"]})


def is_reply(number: int) -> Any:
    return lambda message: message.json().get("id") == number


@pytest.mark.fault("70", "G25", "P1")
def test_on_ready_waits_for_a_reply_while_messages_are_handled() -> None:
    """request() in a plain on_ready: the reply comes, and the messages before it are handled."""
    handled = Seen[Message]()
    replies: list[Any] = []
    with StreamServer(on_message=answer) as server:
        client = Client(server.url, **FAST)
        client.on_message(handled)

        def initialise() -> None:
            replies.append(client.request({"id": 1}, is_reply(1), timeout=30).json())
            handled.wait(101)  # the reply reaches the handlers, too
            assert client.state is State.CONNECTED
            assert not client.is_ready

        client.on_ready(initialise)
        with client:
            client.wait_ready(30)
    assert replies == [{"type": "reply", "id": 1}]


@pytest.mark.fault("P1")
def test_coroutine_on_ready_waits_for_a_reply() -> None:
    """The same in a coroutine function of a Client, by way of client.aio."""
    replies: list[Any] = []
    with StreamServer(on_message=answer) as server:
        client = Client(server.url, **FAST)

        async def initialise() -> None:
            reply = await client.aio.request({"id": 2}, is_reply(2), timeout=30)
            replies.append(reply.json())

        client.on_ready(initialise)
        with client:
            client.wait_ready(30)
    assert replies == [{"type": "reply", "id": 2}]


async def test_on_ready_of_an_async_client_waits_for_a_reply() -> None:
    """And in an AsyncClient, with plain and coroutine handlers side by side."""
    handled = Seen[Message]()
    with StreamServer(on_message=answer) as server:
        client = AsyncClient(server.url, **FAST)
        client.on_message(handled)

        async def initialise() -> None:
            await client.request({"id": 3}, is_reply(3), timeout=30)

        client.on_ready(initialise)
        async with client:
            await client.wait_ready(30)
    assert len(handled) == 101


@pytest.mark.fault("P1")
@pytest.mark.parametrize("inbox_size", [1, 50])
def test_a_reply_comes_through_a_full_inbox(inbox_size: int) -> None:
    """While a request waits, a full inbox does not keep its reply from coming."""
    let_go = threading.Event()
    handled = Seen[Message]()

    def stuck(message: Message) -> None:
        let_go.wait(60)
        handled(message)

    with StreamServer(on_message=answer) as server:
        client = Client(server.url, inbox_size=inbox_size, **FAST)
        client.on_message(stuck)
        client.on_ready(lambda: client.request({"id": 4}, is_reply(4), timeout=30))
        with client:
            client.wait_ready(40)
            let_go.set()
            handled.wait(101)


@pytest.mark.fault("P1")
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_ready_timeout(kind: str) -> None:
    """An on_ready that takes longer than ready_timeout makes a failed attempt, with a new one."""
    ended = Seen[DisconnectEvent]()
    ready = threading.Event()
    with StreamServer() as server:
        client = Client(server.url, ready_timeout=0.2, **FAST)

        def plain() -> None:
            if client.stats().connections == 1:
                ready.wait(60)

        async def coroutine() -> None:
            if client.stats().connections == 1:
                await client.aio.request("?", lambda message: False, timeout=60)

        client.on_ready(plain if kind == "plain" else coroutine)
        client.on_disconnect(ended)
        client.start()
        # A plain hook cannot be interrupted, and hooks come one after the other.
        server.wait_connected(2, 30)
        ready.set()
        client.wait_ready(30)
        client.close()
    error = ended.wait()[0].error
    assert isinstance(error, TimeoutError)
    assert "ready_timeout" in str(error)
    assert ended.all[0].will_retry


@pytest.mark.fault("62", "G25")
def test_on_ready_that_fails_makes_a_failed_attempt() -> None:
    """What it raised is reported as a HandlerError, and the next connection gets another try."""
    errors, states = Seen[BaseException](), Seen[StateEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def initialise() -> None:
            if client.stats().connections < 3:
                raise LookupError("not initialised")

        client.on_ready(initialise)
        client.on_error(errors)
        client.on_state(states)
        with client:
            client.wait_ready(30)
            assert len(server.wait_connected(3, 30)) == 3
    failures = [error for error in errors.all if isinstance(error, HandlerError)]
    assert [type(error.__cause__) for error in failures] == [LookupError, LookupError]
    assert failures[0].handler is initialise
    ready = [event.state for event in states.all].index(State.READY)
    assert [event.state for event in states.all[:ready]].count(State.CONNECTED) == 3


def test_connection_lost_while_on_ready_waits() -> None:
    """A drop ends the request at once, not after its timeout; the next connection is ready."""
    seconds = Seen[BaseException]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def initialise() -> None:
            if client.stats().connections == 1:
                try:
                    client.request("?", lambda message: False, timeout=60)
                except Exception as error:
                    seconds(error)
                    raise

        client.on_ready(initialise)
        with client:
            server.wait_received(1, 30)
            server.abort()
            server.wait_connected(2, 30)
            client.wait_ready(30)
        assert len(seconds) == 1


def test_a_hook_that_outlives_its_connection_sends_nothing_on_the_next() -> None:
    """A plain on_ready cannot be stopped: what it still sends is refused, by send and request."""
    refused = Seen[BaseException]()

    def try_to(send: Callable[[], object]) -> None:
        with pytest.raises(NotConnectedError, match="this hook was called for has ended") as caught:
            send()
        refused(caught.value)

    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def initialise() -> None:
            if client.stats().connections > 1:
                client.send("again")
                return
            server.wait_connected(1)
            server.abort()
            eventually(lambda: client.stats().connections == 2 and client.is_connected)
            try_to(lambda: client.send("late"))
            try_to(lambda: client.send("late", wait=1))
            try_to(lambda: client.request("late", lambda message: True))
            client.subscribe("subscribed")  # for whatever connection there is
            free = threading.Thread(target=client.send, args=["of a thread"])
            free.start()
            free.join()

        client.on_ready(initialise)
        with client:
            client.wait_ready(30)
            received = server.wait_received(3, 30)
    assert received == ["subscribed", "of a thread", "again"]
    assert len(refused) == 3


async def test_a_coroutine_hook_that_outlives_its_connection() -> None:
    """One that will not be cancelled sends nothing either; a task it has started is free."""
    refused: list[str] = []
    started: list[asyncio.Task[None]] = []
    with StreamServer() as server:
        client = AsyncClient(server.url, **FAST)

        def is_second() -> bool:
            return client.stats().connections == 2 and client.is_connected

        async def in_background() -> None:
            await asyncio.to_thread(eventually, is_second)
            await client.send("of a task")

        async def initialise() -> None:
            if client.stats().connections > 1:
                return
            started.append(asyncio.create_task(in_background()))
            await asyncio.to_thread(server.wait_connected, 1)
            server.abort()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.to_thread(eventually, is_second)
                with pytest.raises(NotConnectedError) as caught:
                    await client.send("late")
                refused.append(str(caught.value))

        client.on_ready(initialise)
        async with client:
            await client.wait_ready(30)
            await asyncio.gather(*started)
            received = await asyncio.to_thread(server.wait_received, 1, 30)
            await asyncio.to_thread(eventually, lambda: refused)
    assert received == ["of a task"]
    assert "called again for the next connection" in refused[0]


def test_several_on_ready_run_in_order_on_each_connection() -> None:
    """All of them, once per connection, after subscriptions were sent."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_ready(lambda: client.send("first"))
        client.on_ready(lambda: client.send("second"))
        client.subscribe("subscribed")
        with client:
            client.wait_ready(30)
            server.wait_received(3, 30)
            server.abort()
            server.wait_connected(2, 30)
            server.wait_received(6, 30)
        assert server.received == ["subscribed", "first", "second"] * 2


def test_handler_objects_as_options() -> None:
    """message_handler and connection_ready_handler take objects with the methods of the Go one."""

    class Feed:
        def __init__(self) -> None:
            self.messages = Seen[Message]()
            self.connections = Seen[None]()

        def handle_message(self, message: Message) -> None:
            self.messages(message)

        def on_connection_ready(self) -> None:
            self.connections(None)

    feed = Feed()
    with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
        options: dict[str, Any] = {"message_handler": feed, "connection_ready_handler": feed}
        with Client(server.url, **options, **FAST) as client:
            client.wait_ready(30)
            feed.messages.wait()
    assert len(feed.connections) == 1


def test_a_hook_that_fails_after_the_end_of_its_connection_is_reported() -> None:
    """It runs on a thread that nobody waits for then."""
    begun, go = Seen[int](), threading.Event()
    errors = Seen[BaseException]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_error(errors)

        @client.on_ready
        def late() -> None:
            begun(1)
            if len(begun) == 1:
                go.wait(30)
                raise LookupError

        with client:
            begun.wait()
            server.abort()
            server.wait_connected(2, timeout=30)
            go.set()
            error = errors.wait_for(lambda error: isinstance(error, HandlerError))
            assert isinstance(error.__cause__, LookupError)
            client.wait_ready(30)
