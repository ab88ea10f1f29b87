"""One message out: whole frames, each sender's order, and a peer that takes nothing any more."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

from datastream_ws import (
    AsyncClient,
    Client,
    ConfigurationError,
    DisconnectEvent,
    Message,
    NotConnectedError,
    SendTimeoutError,
)
from datastream_ws.testing import StreamServer
from kit.rawserver import Drain, RawServer, Stall, Upgrade
from kit.seen import FAST, Seen, eventually


def check_order(received: list[str | bytes], senders: int, each: int) -> None:
    """Assert that each sender's numbers are 0 … each - 1 in order."""
    numbers: dict[int, list[int]] = {sender: [] for sender in range(senders)}
    for frame in received:
        sender, number, padding = str(frame).split(":")
        assert padding == "x" * (int(number) % 200)
        numbers[int(sender)].append(int(number))
    assert all(given == list(range(each)) for given in numbers.values())


def text(sender: int, number: int) -> str:
    return f"{sender}:{number}:{'x' * (number % 200)}"


@pytest.mark.fault("72", "P20")
def test_16_threads_send_1000_messages_each() -> None:
    """Every frame arrives whole, and each thread's in its order."""
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.wait_ready(30)

        def send(sender: int) -> None:
            for number in range(1000):
                client.send(text(sender, number))

        senders = [threading.Thread(target=send, args=(n,)) for n in range(16)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(60)
        client.flush(30)
        received = server.wait_received(16_000, 60)
        assert len(received) == 16_000
        check_order(received, 16, 1000)
        assert client.stats().messages_sent == 16_000


async def test_16_tasks_send_1000_messages_each() -> None:
    """The same from tasks of an AsyncClient."""
    with StreamServer() as server:
        async with AsyncClient(server.url, **FAST) as client:
            await client.wait_ready(30)

            async def send(sender: int) -> None:
                for number in range(1000):
                    await client.send(text(sender, number))

            await asyncio.gather(*(send(n) for n in range(16)))
            await client.flush(30)
            received = await asyncio.to_thread(server.wait_received, 16_000, 60)
        check_order(received, 16, 1000)


@pytest.mark.fault("G22", "P18")
@pytest.mark.parametrize("size", [1000, 100_000, 8_000_000])
def test_a_stuck_peer(size: int) -> None:
    """It reads nothing: SendTimeoutError after write_timeout, and the connection is replaced."""
    ended = Seen[DisconnectEvent]()
    errors = Seen[BaseException]()
    with RawServer([Upgrade(), Stall()]) as server:
        client = Client(server.url, write_timeout=0.5, close_timeout=0.3, **FAST)
        client.on_disconnect(ended)
        client.on_error(errors)
        with client:
            client.wait_ready(30)
            begun = time.monotonic()
            with pytest.raises((SendTimeoutError, NotConnectedError)):
                send_for_ever(client, size)
            event = ended.wait()[0]
            assert isinstance(event.error, SendTimeoutError)
            assert event.will_retry
            assert time.monotonic() - begun >= 0.5
            server.wait_connections(2, 30)
            client.wait_ready(30)
        errors.wait_for(lambda error: isinstance(error, SendTimeoutError))


def send_for_ever(client: Client, size: int) -> None:
    data = b"x" * size
    while True:
        client.send(data)


def test_a_sender_that_waits_for_room_is_told() -> None:
    """The thread that is blocked in send() gets SendTimeoutError, write_timeout after the start."""
    with RawServer([Upgrade(), Stall()]) as server:
        client = Client(server.url, write_timeout=0.5, close_timeout=0.3, **FAST)
        with client:
            client.wait_ready(30)
            client.send(b"x" * 8_000_000)  # more than the system takes
            client.send(b"x" * 8_000_000)  # above the mark
            begun = time.monotonic()
            with pytest.raises(SendTimeoutError):
                client.send("blocked")
            assert 0.2 <= time.monotonic() - begun <= 5


async def test_a_stuck_peer_of_an_async_client() -> None:
    """The coroutine waits for room, then raises; the loop is not blocked meanwhile."""
    with RawServer([Upgrade(), Stall()]) as server:
        async with AsyncClient(server.url, write_timeout=0.5, close_timeout=0.3, **FAST) as client:
            await client.wait_ready(30)
            await client.send(b"x" * 8_000_000)
            await client.send(b"x" * 8_000_000)
            with pytest.raises(SendTimeoutError):
                await client.send("blocked")
            await asyncio.to_thread(server.wait_connections, 2, 30)


def test_a_slow_peer_is_waited_for() -> None:
    """A peer that reads slowly but steadily makes progress: no timeout, send() waits for room."""
    from kit.faultproxy import Bandwidth, FaultProxy

    with StreamServer() as server, FaultProxy(server.url, buffer=65536) as proxy:
        client = Client(proxy.url, write_timeout=0.5, **FAST)
        with client:
            client.wait_ready(30)
            proxy.up = Bandwidth(8_000_000)
            for _ in range(40):
                client.send(b"x" * 300_000)
            client.flush(30)
            assert len(server.wait_received(40, 30)) == 40
            assert client.stats().connections == 1


def test_flush() -> None:
    """Everything is with the system when it returns; a stuck peer makes it time out."""
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.wait_ready(30)
        for n in range(100):
            client.send(str(n))
        client.flush(30)
        assert client.stats().messages_sent == 100
        assert len(server.wait_received(100, 30)) == 100
        client.flush(30)  # nothing waits
    with RawServer([Upgrade(), Stall()]) as stuck:
        options = FAST | {"close_timeout": 0.3}
        with Client(stuck.url, **options) as client:
            client.wait_ready(30)
            client.send(b"x" * 30_000_000)
            with pytest.raises(TimeoutError):
                client.flush(0.1)


def test_flush_fails_when_the_connection_is_lost() -> None:
    """Those who wait for the queue are told at once."""
    with RawServer([Upgrade(), Stall()]) as stuck:
        client = Client(stuck.url, close_timeout=0.3, write_timeout=60, **FAST)
        with client:
            client.wait_ready(30)
            client.send(b"x" * 30_000_000)
            failures = Seen[BaseException]()
            flusher = threading.Thread(target=lambda: flush(client, failures))
            flusher.start()
            time.sleep(0.05)
            client.reconnect()
            flusher.join(30)
            assert isinstance(failures.wait()[0], NotConnectedError)


def flush(client: Client, failures: Seen[BaseException]) -> None:
    try:
        client.flush(60)
    except Exception as error:
        failures(error)


def test_send_with_wait() -> None:
    """wait=SECONDS waits for a connection; without one in time NotConnectedError says more."""
    with StreamServer() as server:
        server.refuse(503)
        with Client(server.url, **FAST) as client:
            with pytest.raises(NotConnectedError, match="wait=SECONDS"):
                client.send("at once")
            begun = time.monotonic()
            with pytest.raises(NotConnectedError):
                client.send("soon", wait=0.2)
            assert time.monotonic() - begun >= 0.2
            server.accept()
            client.send("in time", wait=30)
            assert server.wait_received(1, 30) == ["in time"]


async def test_async_send_with_wait() -> None:
    """The same in a coroutine."""
    with StreamServer() as server:
        async with AsyncClient(server.url, **FAST) as client:
            await client.send("in time", wait=30)
            assert await asyncio.to_thread(server.wait_received, 1, 30) == ["in time"]
            server.refuse(503)
            server.abort()
            await asyncio.to_thread(eventually, lambda: not client.is_connected)
            with pytest.raises(NotConnectedError):
                await client.send("soon", wait=0.1)


@pytest.mark.fault("71")
def test_send_on_a_client_that_was_never_started() -> None:
    """The error names the stream and the three ways to start it."""
    client = Client("ws://127.0.0.1:9", name="prices")
    with pytest.raises(NotConnectedError) as raised:
        client.send("x")
    for word in ("prices", "start()", "run()", "AUTOSTART"):
        assert word in str(raised.value)


@dataclass
class Order:
    key: str
    amount: int


def test_what_can_be_sent() -> None:
    """str: a text frame; bytes-like: a binary one; anything else: through the codec."""
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.wait_ready(30)
        for obj in ("täxt", b"\x00\xff", bytearray(b"ab"), memoryview(b"cd")):
            client.send(obj)
        client.send({"a": [1, None, "ü"]})
        client.send([1, 2])
        client.send(3)
        client.send(Order("k", 4))
        received = server.wait_received(8, 30)
    assert received[:4] == ["täxt", b"\x00\xff", b"ab", b"cd"]
    assert [json.loads(frame) for frame in received[4:]] == [
        {"a": [1, None, "ü"]},
        [1, 2],
        3,
        {"key": "k", "amount": 4},
    ]


def test_what_cannot_be_encoded_raises_in_the_sender() -> None:
    """The codec's error comes where send() was called, and nothing is sent."""
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.wait_ready(30)
        with pytest.raises(TypeError):
            client.send({"a": object()})
        client.send("after")
        assert server.wait_received(1, 30) == ["after"]


def test_coroutine_handlers_send_without_blocking_the_loop() -> None:
    """client.send() on the loop's thread queues; awaiting what it returns waits for room."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        async def handle(message: Message) -> None:
            client.send(f"queued {message.data!s}")
            await client.send(f"awaited {message.data!s}")
            await client.aio.send(f"aio {message.data!s}")

        client.on_message(handle)
        with client:
            client.wait_ready(30)
            for n in range(3):
                server.send(str(n))
            received = server.wait_received(9, 30)
    assert received == [f"{how} {n}" for n in range(3) for how in ("queued", "awaited", "aio")]


def test_a_coroutine_handler_that_never_awaits_is_stopped() -> None:
    """It cannot fill the memory: far above the mark send() raises on the loop's thread."""
    raised = Seen[BaseException]()
    with RawServer([Upgrade(), Stall()]) as server:
        client = Client(server.url, close_timeout=0.3, **FAST)

        async def flood() -> None:
            try:
                while True:
                    client.send(b"x" * 1_000_000)
            except Exception as error:
                raised(error)

        client.on_ready(flood)
        with client:
            client.wait_ready(30)
            assert isinstance(raised.wait()[0], SendTimeoutError)


def test_blocking_calls_in_a_coroutine_handler_raise_with_the_cure() -> None:
    """request(), flush() and the waits would block the loop: the error names client.aio."""
    errors = Seen[BaseException]()
    with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
        client = Client(server.url, **FAST)

        async def handle(message: Message) -> None:
            calls: list[Any] = [
                lambda: client.request("x", lambda message: True),
                client.flush,
                client.wait_ready,
                client.wait_closed,
            ]
            for call in calls:
                try:
                    call()
                except ConfigurationError as error:
                    errors(error)

        client.on_message(handle)
        with client:
            errors.wait(4)
    assert all("await client.aio." in str(error) for error in errors.all)


@pytest.mark.fault("71")
def test_sends_during_a_drop_raise_or_are_queued() -> None:
    """send() beside a server that keeps dropping raises nothing but NotConnectedError."""
    others = Seen[BaseException]()
    stop = threading.Event()
    with StreamServer() as server, Client(server.url, **FAST) as client:

        def send() -> None:
            while not stop.is_set():
                try:
                    client.send("x", wait=0.01)
                except NotConnectedError:
                    pass
                except BaseException as error:
                    others(error)

        senders = [threading.Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        try:
            for n in range(1, 11):
                server.wait_connected(n, 30)
                client.wait_ready(30)
                server.abort()
        finally:
            stop.set()
            for sender in senders:
                sender.join(30)
    assert others.all == []


def test_large_messages_both_ways() -> None:
    """A megabyte in one frame, text and binary, compressed and not."""
    for compression in ("deflate", None):
        with StreamServer(on_message=lambda connection, data: connection.send(data)) as server:
            seen = Seen[Message]()
            client = Client(server.url, compression=compression, **FAST)
            client.on_message(seen)
            with client:
                client.wait_ready(30)
                client.send("ü" * 500_000)
                client.send(bytes(range(256)) * 4000)
                one, two = seen.wait(2)
            assert one.data == "ü" * 500_000
            assert two.data == bytes(range(256)) * 4000


def test_drain_server_gets_what_was_sent_before_close() -> None:
    """A peer that reads but never answers the close frame still gets everything."""
    with RawServer([Upgrade(), Drain()]) as server:
        client = Client(server.url, close_timeout=0.5, **FAST)
        with client:
            client.wait_ready(30)
            for _ in range(100):
                client.send(b"x" * 10_000)
        assert client.stats().messages_sent == 100
        assert server.connections[0].done.wait(30)
