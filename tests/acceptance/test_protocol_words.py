"""What a protocol needs to know of its connection, over real sockets, on both faces."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import time
from typing import Any

import pytest

from datastream_ws import (
    AsyncClient,
    Client,
    DecodeError,
    DisconnectEvent,
    HandlerError,
    Handshake,
    Message,
    NotConnectedError,
    State,
)
from datastream_ws.testing import StreamServer
from kit.seen import FAST, Seen, eventually


def test_the_handshake_is_that_of_the_connection_there_is() -> None:
    """None before and after; in a hook it is there already, and a new one on each connection."""
    seen = Seen[Handshake | None]()
    with StreamServer(subprotocols=["v2", "v1"]) as server:
        client = Client(server.url, subprotocols=["v1", "v2"], **FAST)
        client.on_connect(lambda: seen(client.handshake))
        assert client.handshake is None
        with client:
            client.wait_ready(30)
            server.abort()
            first, second = seen.wait(2)
            client.pause()
            eventually(lambda: client.handshake is None)
        assert client.handshake is None
    for handshake in (first, second):
        assert handshake is not None
        assert handshake.subprotocol in ("v1", "v2")
        assert handshake.headers["UPGRADE"].lower() == "websocket"
    assert first is not second


async def test_the_handshake_of_an_async_client() -> None:
    with StreamServer() as server:
        async with AsyncClient(server.url, **FAST) as client:
            await client.wait_ready(30)
            assert client.handshake is not None
            assert client.handshake.subprotocol is None
            assert "sec-websocket-accept" in client.handshake.headers
        await asyncio.sleep(0)
        assert client.handshake is None


def test_undecodable_messages_are_failures_and_a_line_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is counted, however many come; the log and on_error hear of them once a second."""
    errors = Seen[BaseException]()
    handled = Seen[Message]()
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.on_message("known")(handled)
        client.on_error(errors)
        client.wait_ready(30)
        began = time.monotonic()
        with caplog.at_level(logging.ERROR, "datastream_ws"):
            while len(errors) < 3:  # the third comes when the third second begins
                for _ in range(50):
                    server.send("not JSON: s3cret")
                eventually(lambda: client.stats().messages_waiting == 0)
            seconds = time.monotonic() - began
            server.send({"type": "known"})
            handled.wait()
    lines = [r.getMessage() for r in caplog.records if "no readable route" in r.getMessage()]
    assert 3 <= len(lines) <= seconds + 2  # the end reports the rest
    numbers = [re.findall(r": (a|\d+) messages? ha", line)[0] for line in lines]
    assert sum(1 if n == "a" else int(n) for n in numbers) == client.stats().messages_failed
    assert len(errors) == len(lines)
    assert all(isinstance(error, HandlerError) for error in errors.all)
    assert isinstance(errors.all[0].__cause__, DecodeError)
    assert not any("s3cret" in line for line in lines)
    assert client.stats().messages_handled == 1


# --- the way to READY --------------------------------------------------------------------------


def test_each_connection_takes_the_same_way_to_ready() -> None:
    """Login, subscriptions in their order and each once, then what resumes; then READY."""
    states: list[State] = []
    with StreamServer() as server, Client(server.url, **FAST) as client:

        @client.on_connect
        def login() -> None:
            states.append(client.state)
            if client.stats().connections == 1:
                client.subscribe("third", key=3)  # waits for the login to be over
            client.send("login")

        @client.on_ready
        def resume() -> None:
            states.append(client.state)
            client.send("resume")

        client.subscribe("first", key=1)
        client.subscribe("second", key=2)
        client.wait_ready(30)
        client.subscribe("fourth", key=4)
        server.wait_received(6)
        for connections, lose in enumerate((server.abort, server.drop), 2):
            lose()
            server.wait_received(6 * connections)
            eventually(lambda: client.is_ready)
        received = [connection.received for connection in server.connections]
    kept = ["first", "second", "third"]
    assert received[0] == ["login", *kept, "resume", "fourth"]
    assert received[1:] == [["login", *kept, "fourth", "resume"]] * 2
    assert states == [State.CONNECTED] * 6


def test_a_server_that_speaks_first_is_answered_before_anything_is_subscribed() -> None:
    """Its routes are whole numbers; `receive` finds the first message of each connection."""
    handled = Seen[Message]()

    def hello(connection: Any) -> None:
        connection.send({"op": 10, "challenge": connection.number})

    with (
        StreamServer(on_connect=hello) as server,
        Client(server.url, route="op", **FAST) as client,
    ):
        client.on_message(10)(handled)

        @client.on_connect
        def identify() -> None:
            message = client.receive(lambda message: message.route == 10, timeout=10)
            client.send({"answer": message.json()["challenge"]})

        client.subscribe({"subscribe": "x"})
        client.wait_ready(30)
        server.abort()
        handled.wait(2)
        server.wait_received(4)
        received = [[json.loads(each) for each in c.received] for c in server.connections]
    assert received == [[{"answer": number}, {"subscribe": "x"}] for number in (1, 2)]
    assert len(handled) == 2, "the handlers get it as well"


def test_a_subscription_is_made_for_each_connection() -> None:
    numbers = itertools.count(1)
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.subscribe(lambda: {"from": next(numbers)})
        client.wait_ready(30)
        server.abort()
        server.wait_received(2)
        server.abort()
        assert server.wait_received(3) == ['{"from":1}', '{"from":2}', '{"from":3}']


# --- where to, and as what ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 410, 502])
@pytest.mark.parametrize("kind", ["list", "callable"])
def test_a_url_that_refuses_is_left_for_the_next(kind: str, status: int) -> None:
    with StreamServer() as first, StreamServer() as second:
        first.refuse(status)
        urls = itertools.cycle([first.url, second.url])
        url: Any = [first.url, second.url] if kind == "list" else lambda: next(urls)
        with Client(url, **FAST) as client:
            client.wait_ready(30)
            second.wait_connected(1)
            assert (len(first.attempts), len(second.attempts)) == (1, 1)


def test_subprotocols_are_asked_for_before_each_connection() -> None:
    offers = iter([["v1"], ["v2"]])
    seen = Seen[Handshake | None]()
    with (
        StreamServer(subprotocols=["v1", "v2"]) as server,
        Client(server.url, subprotocols=lambda: next(offers), **FAST) as client,
    ):
        client.on_ready(lambda: seen(client.handshake))
        client.wait_ready(30)
        server.abort()
        chosen = [found.subprotocol for found in seen.wait(2) if found is not None]
        assert chosen == ["v1", "v2"]


# --- while it is connected ----------------------------------------------------------------------


def test_a_server_that_answers_pings_and_sends_nothing_is_left() -> None:
    """`idle_timeout` counts messages; pongs are none."""
    lost = Seen[DisconnectEvent]()
    with (
        StreamServer() as server,
        Client(server.url, idle_timeout=0.4, ping_interval=0.05, **FAST) as client,
    ):
        client.on_disconnect(lost)
        client.wait_ready(30)
        began = time.monotonic()
        while time.monotonic() - began < 1.2:  # three times as long, and never idle
            server.send("x")
            time.sleep(0.05)
        assert client.stats().connections == 1
        server.wait_connected(2)
        [event] = lost.wait()
        assert client.stats().round_trip_time is not None
    assert "no message" in str(event.error)


def test_pings_and_pongs_go_past_what_waits_for_its_turn() -> None:
    """Else a paced connection would be given up, by its server or by us."""
    rate = {"send_rate": (1, 60.0), "ping_interval": 0.1, "pong_timeout": 0.5}
    with (
        StreamServer(ping_interval=0.1, ping_timeout=0.5) as server,
        Client(server.url, **FAST | rate) as client,
    ):
        client.subscribe("first")
        client.subscribe("waits for a minute")
        server.wait_received(1)
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 1.5)  # three times what either waits for
        assert client.state is State.CONNECTED
        assert client.stats().connections == 1
        assert client.stats().round_trip_time is not None
        assert server.received == ["first"]
        client.close(0)


def test_a_reply_never_goes_over_the_next_connection() -> None:
    kept = Seen[Message]()
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.on_message(kept)
        client.wait_ready(30)
        server.send("question")
        [message] = kept.wait()
        message.reply("answer")
        server.wait_received(1)
        server.abort()
        server.wait_connected(2)
        client.wait_ready(30)
        with pytest.raises(NotConnectedError):
            message.reply("too late")
        client.send("end")
        assert server.wait_received(2) == ["answer", "end"]


def test_the_server_gets_the_code_and_the_reason_of_each_verb() -> None:
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.wait_ready(30)
        client.reconnect(4000, "resume")
        server.wait_connected(2)
        eventually(lambda: client.is_ready)
        client.pause(4001, "maintenance")
        eventually(lambda: client.state is State.PAUSED)
        client.resume()
        server.wait_connected(3)
        eventually(lambda: client.is_ready)
        client.close(code=3001, reason="bye")
        for connection in server.connections:
            assert connection.closed.wait(30)
        told = [(c.close_code, c.close_reason) for c in server.connections]
    assert told == [(4000, "resume"), (4001, "maintenance"), (3001, "bye")]


def test_a_goodbye_is_said_and_answered_before_the_connection_is_closed() -> None:
    handled = Seen[Message]()

    def answer(connection: Any, data: str | bytes) -> None:
        connection.write(f"answer to {data!s}")

    with StreamServer(on_message=answer) as server:
        client = Client(server.url, **FAST)
        client.on_message(handled)

        @client.on_closing
        def goodbye() -> None:
            client.request("goodbye", lambda message: message.data == "answer to goodbye")

        with client:
            client.wait_ready(30)
        [connection] = server.connections
        assert connection.closed.wait(30)
    assert connection.received == ["goodbye"]
    assert connection.close_code == 1000
    assert [message.data for message in handled.all] == ["answer to goodbye"]


# --- nothing takes the messages ------------------------------------------------------------------


async def test_what_is_not_iterated_over_makes_room_and_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with StreamServer() as server:
        async with AsyncClient(server.url, inbox_size=10, **FAST) as client:
            await client.wait_ready(30)
            for number in range(100):
                server.send(str(number))
            found = asyncio.ensure_future(client.receive(lambda message: message.data == "end"))
            await asyncio.sleep(0)
            server.send("end")
            assert (await asyncio.wait_for(found, 30)).data == "end"
            stats = client.stats()
            kept = [message.data async for message in first(client, 10)]
            began = time.monotonic()
        assert time.monotonic() - began < 5
    assert stats.messages_received == 101
    assert stats.messages_dropped == {"untaken": 91}
    assert kept == [*map(str, range(91, 100)), "end"]
    [line] = [r.getMessage() for r in caplog.records if "async for" in r.getMessage()]
    assert "on_message" in line


async def first(client: AsyncClient, count: int) -> Any:
    """Yield so many messages."""
    async for message in client:
        yield message
        count -= 1
        if not count:
            return


def test_errors_that_are_not_read_keep_a_tenth_of_the_inbox_in_memory() -> None:
    """Each holds its message; the oldest go, and are counted."""
    with (
        StreamServer() as server,
        Client(server.url, inbox_bytes=100_000, **FAST) as client,
    ):
        client.on_message(lambda message: 1 / 0)
        client.wait_ready(30)
        for _ in range(50):
            server.send("x" * 1000)
        eventually(lambda: client.stats().messages_failed == 50)
        eventually(lambda: client.stats().errors_dropped >= 40)
        client.close()
        left = list(client.errors())
    assert 5 <= len(left) <= 10
    assert len(left) + client.stats().errors_dropped == 50
