"""Small programs of users that once went wrong, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws import AsyncClient, Client, HandlerError, Message, State
from datastream_ws.testing import StreamServer
from kit.seen import FAST, Seen, eventually


def test_pause_and_resume_at_once_leave_one_connection() -> None:
    """No message is handled twice, and none is open after the end."""
    handled = Seen[Message]()
    with StreamServer() as server, Client(server.url, **FAST) as client:

        def count() -> int:
            return sum(connection.is_open for connection in server.connections)

        client.on_message(handled)
        client.wait_ready(30)
        for _ in range(5):
            client.pause()
            client.resume()
        client.reconnect()
        server.wait_connected(2)
        eventually(lambda: client.is_ready and count() == 1)
        server.send("x")
        handled.wait()
        client.close()
        eventually(lambda: count() == 0)
    assert len(handled) == 1


def test_what_on_error_is_not_told_is_counted() -> None:
    """A slow report holds nothing up; what it cannot take is in the counters."""
    told = Seen[BaseException]()
    go = threading.Event()
    with StreamServer() as server, Client(server.url, **FAST) as client:

        @client.on_message
        def fail(message: Message) -> None:
            raise ValueError

        @client.on_error
        def keep(error: BaseException) -> None:
            go.wait(30)
            if isinstance(error, HandlerError):
                told(error)

        client.wait_ready(30)
        for _ in range(1500):
            server.send("x")
        eventually(lambda: client.stats().messages_failed == 1500)
        go.set()
        eventually(lambda: len(told) + client.stats().reports_dropped == 1500)
        assert client.stats().reports_dropped > 0


def test_a_close_that_waits_for_nothing_warns_of_nothing_where_nothing_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.on_message(print)
        client.wait_ready(30)
        client.close(0)
    assert [record.getMessage() for record in caplog.records] == []


# --- loops ------------------------------------------------------------------------------------


@contextmanager
def elsewhere() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Yield what runs a coroutine on a loop of another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def reply(connection: Any, data: str | bytes) -> None:
    connection.send({"type": "reply"})


def test_every_verb_from_another_loop() -> None:
    with StreamServer(on_message=reply) as server, elsewhere() as there:
        client = AsyncClient(server.url, **FAST)
        there(client.start())
        there(client.wait_ready(30))

        async def here() -> None:
            async with asyncio.timeout(20):
                await client.send("x")
                await client.flush(10)
                found = await client.request({"q": 1}, lambda m: m.route == "reply", timeout=10)
                assert found.route == "reply"
                await client.subscribe("subscribe")
                await client.pause()
                await asyncio.to_thread(eventually, lambda: client.state is State.PAUSED)
                await client.resume()
                await client.wait_ready(10)
                await client.reconnect()
                await asyncio.to_thread(server.wait_connected, 3)
                await client.close()

        began = time.monotonic()
        asyncio.run(here())
        assert time.monotonic() - began < 10
        assert client.state is State.CLOSED


def test_one_client_in_several_runs_of_a_loop() -> None:
    with StreamServer() as server:
        client = AsyncClient(server.url, **FAST)

        async def once() -> None:
            async with client:
                await client.wait_ready(30)
                await client.send("x")
                await client.flush(10)

        for _ in range(3):
            asyncio.run(once())
            assert client.state is State.CLOSED
        assert server.wait_received(3) == ["x"] * 3


# --- servers that are strict ------------------------------------------------------------------


class Strict:
    """A server that wants a login first, and no more than five messages a second."""

    def __init__(self) -> None:
        self.logged_in: set[int] = set()
        self.times: dict[int, list[float]] = {}
        self.refused: list[int] = []

    def __call__(self, connection: Any, data: str | bytes) -> None:
        kind = json.loads(data)["type"]
        now = time.monotonic()
        times = self.times.setdefault(connection.number, [])
        times.append(now)
        if sum(now - at < 1.0 for at in times) > 5:
            self.refuse(connection, 1008)
        elif kind == "login":
            self.logged_in.add(connection.number)
            connection.send({"type": "welcome"})
        elif connection.number not in self.logged_in:
            self.refuse(connection, 4401)

    def refuse(self, connection: Any, code: int) -> None:
        self.refused.append(code)
        connection.close(code, "no")


@pytest.mark.timeout(180)
def test_a_strict_server_sees_a_login_and_then_subscriptions_at_its_pace_after_each_drop() -> None:
    strict = Strict()
    with StreamServer(on_message=strict) as server:
        client = Client(server.url, send_rate=(5, 1.0), **FAST)

        @client.on_connect
        def login() -> None:
            client.request({"type": "login"}, lambda message: message.route == "welcome")

        for key in range(12):
            client.subscribe({"type": "subscribe", "key": key}, key=key)
        with client:
            for connections in (1, 2, 3, 4):
                server.wait_received(13 * connections, 60)
                eventually(lambda: client.is_ready)
                assert client.stats().connections == connections
                if connections < 4:
                    server.abort()
    assert strict.refused == []
    subscriptions = [{"type": "subscribe", "key": key} for key in range(12)]
    for connection in server.connections:
        assert list(map(json.loads, connection.received)) == [{"type": "login"}, *subscriptions]


def test_a_ping_behind_200_slow_messages_is_answered_at_once() -> None:
    """In 50 ms at best: what the machine does besides may cost some of them more."""
    sent_at: list[float] = []
    took = Seen[float]()

    def pong(connection: Any, data: str | bytes) -> None:
        took(time.monotonic() - sent_at[-1])

    with StreamServer(on_message=pong) as server, Client(server.url, **FAST) as client:
        stop = threading.Event()

        @client.on_message("data")
        def slow(message: Message) -> None:
            stop.wait(0.2)

        @client.on_message("ping", inline=True)
        def answer(message: Message) -> None:
            message.reply({"type": "pong"})

        client.wait_ready(30)
        for _ in range(200):
            server.send({"type": "data"})
        for number in range(1, 11):
            sent_at.append(time.monotonic())
            server.send({"type": "ping"})
            took.wait(number)
        assert client.stats().messages_waiting > 100
        stop.set()
    assert min(took.all) < 0.05


def test_a_reply_goes_over_the_wire() -> None:
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.on_message("ping")(lambda message: message.reply({"type": "pong"}))
        client.wait_ready(30)
        server.send({"type": "ping"})
        assert server.wait_received(1, 30) == ['{"type":"pong"}']
