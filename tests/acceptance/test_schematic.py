"""The Schematic preset on the wire: what the server sees, and what it sees again."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from queue import Queue
from typing import Any

import pytest

import datastream_ws as core
from datastream_ws import ConfigurationError, State, StreamClosedError, UnauthorizedError
from datastream_ws.schematic import (
    Action,
    AsyncClient,
    Client,
    DataStreamRequest,
    DataStreamResponse,
    EntityType,
    MessageType,
)
from datastream_ws.testing import StreamServer
from kit.seen import eventually

KEY = "sch_secret_0123456789"
FAST: dict[str, Any] = {"min_reconnect_delay": 0.01, "max_reconnect_delay": 0.02}
ACME = {"id": "acme"}
SUBSCRIPTIONS: list[tuple[EntityType, dict[str, str] | None]] = [
    (EntityType.FLAGS, None),
    (EntityType.COMPANY, ACME),
    (EntityType.USER, {"email": "a@example.com"}),
]


def requests(received: list[str | bytes]) -> list[DataStreamRequest]:
    return [DataStreamRequest.from_json(json.loads(each)) for each in received]


def test_handshake_headers(stream_server: StreamServer) -> None:
    with Client(KEY, stream_server.url) as client:
        client.wait_ready(5)
        headers = stream_server.connections[0].headers
    assert headers["X-Schematic-Api-Key"] == KEY
    assert headers["X-Schematic-Datastream-Mode"] == "direct"
    assert headers["X-Schematic-Client"] == "datastream-ws"
    assert headers["X-Schematic-Client-Version"]


def test_api_url_is_converted(stream_server: StreamServer) -> None:
    with Client(KEY, stream_server.url.replace("ws:", "http:")) as client:
        client.wait_ready(5)
    assert stream_server.connections[0].path == "/datastream"


async def rotating() -> str:
    return f"{KEY}-async"


@pytest.mark.parametrize("source", [lambda: f"{KEY}-plain", rotating], ids=["plain", "async"])
def test_key_from_a_callable(
    stream_server: StreamServer, source: Callable[[], str | Awaitable[str]]
) -> None:
    with Client(source, stream_server.url, headers=lambda: {"X-Own": "1"}) as client:
        client.wait_ready(5)
    headers = stream_server.connections[0].headers
    assert headers["X-Schematic-Api-Key"].startswith(f"{KEY}-")
    assert headers["X-Own"] == "1"


def test_key_is_asked_for_on_every_connection(stream_server: StreamServer) -> None:
    keys = iter(["first", "second"])
    with Client(lambda: next(keys), lambda: stream_server.url, **FAST) as client:
        client.wait_ready(5)
        stream_server.abort()
        stream_server.wait_connected(2)
    used = [each.headers["X-Schematic-Api-Key"] for each in stream_server.connections]
    assert used == ["first", "second"]


def test_wrong_key_from_a_callable_fails_the_client(stream_server: StreamServer) -> None:
    client = Client(lambda: "key\n", stream_server.url)
    with pytest.raises(ConfigurationError, match=r"^api_key: "):
        client.run()
    assert client.state is State.FAILED
    assert stream_server.attempts == []


def test_refused_key_is_tried_once_when_it_cannot_change(stream_server: StreamServer) -> None:
    stream_server.refuse(401)
    with pytest.raises(UnauthorizedError):
        Client(KEY, stream_server.url, **FAST).run()
    assert len(stream_server.attempts) == 1


@pytest.mark.fault("P19")
def test_close_4001_is_final(stream_server: StreamServer) -> None:
    client = Client(KEY, stream_server.url, **FAST)
    client.on_ready(lambda: stream_server.close(4001, "unauthorized"))
    with pytest.raises(StreamClosedError, match="4001"):
        client.run()
    assert len(stream_server.connections) == 1


def test_every_subscription_is_kept_across_reconnections(stream_server: StreamServer) -> None:
    client = Client(KEY, stream_server.url, **FAST)
    client.start_entity(*SUBSCRIPTIONS[0])
    with client:
        client.wait_ready(5)
        for entity_type, keys in SUBSCRIPTIONS[1:]:
            client.start_entity(entity_type, keys)
        stream_server.wait_received(3)
        stream_server.abort()
        stream_server.wait_received(6)
    expected = [DataStreamRequest(entity_type, keys) for entity_type, keys in SUBSCRIPTIONS]
    assert requests(stream_server.connections[0].received) == expected
    assert requests(stream_server.connections[1].received) == expected


def test_what_was_stopped_is_not_asked_for_again(stream_server: StreamServer) -> None:
    with Client(KEY, stream_server.url, **FAST) as client:
        client.wait_ready(5)
        client.start_entity(EntityType.FLAGS)
        client.start_entity(EntityType.COMPANY, ACME)
        client.stop_entity(EntityType.COMPANY, ACME)
        stream_server.wait_received(3)
        stream_server.abort()
        stream_server.wait_received(4)
    first, second = (requests(each.received) for each in stream_server.connections)
    assert first[2] == DataStreamRequest(EntityType.COMPANY, ACME, Action.STOP)
    assert second == [DataStreamRequest(EntityType.FLAGS)]


START, STOP = (
    DataStreamRequest(EntityType.FLAGS),
    DataStreamRequest(EntityType.FLAGS, action=Action.STOP),
)


async def start_later() -> DataStreamRequest:
    return START


@pytest.mark.parametrize("start", [START, lambda: START, start_later], ids=["it", "made", "async"])
async def test_requests_as_subscriptions(stream_server: StreamServer, start: Any) -> None:
    """A request that is subscribed goes over the wire as one that is sent."""
    with Client(KEY, stream_server.url) as client:
        client.wait_ready(5)
        key = client.subscribe(start, unsubscribe=STOP)
        stream_server.wait_received(1)
        client.unsubscribe(key)
        stream_server.wait_received(2)
    async with AsyncClient(KEY, stream_server.url) as client_aio:
        await client_aio.wait_ready(5)
        key = await client_aio.subscribe(start, unsubscribe=lambda: STOP)
        await asyncio.to_thread(stream_server.wait_received, 3)
        await client_aio.unsubscribe(key)
        await asyncio.to_thread(stream_server.wait_received, 4)
    assert requests(stream_server.received) == [START, STOP, START, STOP]


def test_requests_as_replies_and_heartbeats(stream_server: StreamServer) -> None:
    """They go over the wire as requests that are sent, too."""
    client = Client(KEY, stream_server.url, heartbeat=lambda: START, heartbeat_interval=0.05)
    client.on_message(lambda message: message.reply(STOP))
    with client:
        client.wait_ready(5)
        assert requests(stream_server.wait_received(1))[0] == START
        stream_server.send({"message_type": "full"})
        eventually(lambda: requests(stream_server.received).count(STOP) == 1)


def test_a_request_of_any_client(stream_server: StreamServer) -> None:
    """A client of the core, or of a framework, sends it in the same way."""
    with core.Client(stream_server.url) as client:
        client.wait_ready(5)
        client.send(START)
        assert requests(stream_server.wait_received(1)) == [START]


def test_request_and_response(stream_server: StreamServer) -> None:
    asked = DataStreamRequest(EntityType.FLAGS)
    flags = DataStreamResponse([{"key": "a"}], EntityType.FLAGS, MessageType.FULL)
    arrived: Queue[DataStreamResponse] = Queue()
    client = Client(KEY, stream_server.url)
    client.on_entity(EntityType.FLAGS)(arrived.put)
    with client:
        client.wait_ready(5)
        client.send(asked)
        assert requests(stream_server.wait_received(1)) == [asked]
        stream_server.send(flags.to_json())
        assert arrived.get(timeout=5) == flags


async def test_async_client(stream_server: StreamServer) -> None:
    client = AsyncClient(rotating, stream_server.url, **FAST)
    arrived: Queue[DataStreamResponse] = Queue()

    @client.on_entity(EntityType.COMPANY)
    async def company(response: DataStreamResponse) -> None:
        arrived.put(response)

    async with client:
        await client.wait_ready(5)
        await client.start_entity(EntityType.COMPANY, ACME)
        await client.send(DataStreamRequest(EntityType.FLAGS))
        await client.stop_entity(EntityType.COMPANY, ACME)
        await client.flush(5)
        stream_server.wait_received(3)
        stream_server.send({"entity_type": "rulesengine.Company", "message_type": "delete"})
    assert arrived.get_nowait().message_type is MessageType.DELETE
    actions = [(each.action, each.entity_type) for each in requests(stream_server.received)]
    assert actions == [
        (Action.START, EntityType.COMPANY),
        (Action.START, EntityType.FLAGS),
        (Action.STOP, EntityType.COMPANY),
    ]


async def test_async_request() -> None:
    flags = DataStreamResponse([], EntityType.FLAGS, MessageType.FULL).to_json()
    with StreamServer(on_message=lambda connection, data: connection.send(flags)) as server:
        async with AsyncClient(KEY, server.url) as client:
            client.on_entity()(lambda response: None)
            await client.wait_ready(5)
            reply = await client.request(DataStreamRequest(EntityType.FLAGS), lambda m: True, 5)
        assert reply.json() == flags
        assert requests(server.received) == [DataStreamRequest(EntityType.FLAGS)]


def test_key_is_in_no_log_line(
    stream_server: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stream_server.refuse(401)
    client = Client(lambda: KEY, stream_server.url, **FAST)
    with pytest.raises(UnauthorizedError) as caught:
        client.run()
    assert len(stream_server.attempts) == 2
    assert caplog.text
    assert KEY not in caplog.text + repr(caught.value) + repr(client)


def test_messages_as_large_as_schematic_sends_them(stream_server: StreamServer) -> None:
    """The flags of an account in one message, and a company, above the core's max_size."""
    arrived: Queue[DataStreamResponse] = Queue()
    flags = [{"key": f"flag-{n}", "rules": ["x" * 50] * 200} for n in range(100)]
    client = Client(KEY, stream_server.url, **FAST)
    client.on_entity(EntityType.FLAGS)(arrived.put)
    client.on_entity(EntityType.COMPANY)(arrived.put)
    with client:
        client.wait_ready(5)
        for data, kind in ((flags, EntityType.FLAGS), ({"t": "y" * 55_000}, EntityType.COMPANY)):
            stream_server.send(DataStreamResponse(data, kind, MessageType.FULL).to_json())
            assert arrived.get(timeout=30).data == data
        assert len(json.dumps(flags)) > 2**20
        assert client.stats().reconnects == 0
