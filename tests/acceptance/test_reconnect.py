"""However a connection ends, the client is ready again on a new one, and nothing is lost."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from datastream_ws import (
    AsyncClient,
    Client,
    DisconnectEvent,
    GapEvent,
    InboxOverflowError,
    Message,
    State,
    StreamClosedError,
)
from datastream_ws.testing import StreamServer
from kit.faultproxy import FaultProxy, Pass, Swallow
from kit.numbered import NumberedServer, check_ledger, check_numbers
from kit.rawserver import TEXT, Close, Frame, RawConnection, RawServer, Rst, Script, Stall, Upgrade
from kit.seen import FAST, Seen, eventually

# How a connection may end: what the server does, and the code the client tells of.
ENDS: dict[str, tuple[Callable[[StreamServer], object], int]] = {
    "close 1000": (lambda server: server.close(1000), 1000),
    "close 1001": (lambda server: server.close(1001), 1001),
    "close 1011": (lambda server: server.close(1011), 1011),
    "FIN without a close frame (1006)": (StreamServer.drop, 1006),
    "RST": (StreamServer.abort, 1006),
    "restart of the server": (StreamServer.restart, 1001),
}


@pytest.mark.fault("1", "2", "15", "52", "53", "G1")
@pytest.mark.parametrize("end", ENDS)
def test_ready_again_after_the_server_ended_the_connection(end: str) -> None:
    """Close codes, FIN, RST, a restart: a new connection follows, and messages arrive on it."""
    act, code = ENDS[end]
    messages, ended, gaps = Seen[Message](), Seen[DisconnectEvent](), Seen[GapEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_message(messages)
        client.on_disconnect(ended)
        client.on_gap(gaps)
        with client:
            client.wait_ready(30)
            act(server)
            assert ended.wait()[0].code == code
            server.wait_connected(2, 30)
            client.wait_ready(30)
            server.send("again")
            assert messages.wait()[0].data == "again"
            assert messages.all[0].connection == 2
            assert gaps.wait()[0].seconds <= 5


@pytest.mark.fault("52", "58")
@pytest.mark.parametrize("code", [None, 1005, 1006])
def test_ready_again_after_a_strange_close_frame(code: int | None) -> None:
    """An empty close frame, or one with a code that must not be sent, ends but one connection."""
    messages = Seen[Message]()
    with RawServer([Upgrade(), Close(code)], [Upgrade(), Frame(TEXT, "again"), Stall()]) as server:
        client = Client(server.url, close_timeout=0.5, **FAST)
        client.on_message(messages)
        with client:
            assert messages.wait()[0].connection == 2


@pytest.mark.fault("3")
def test_ready_again_after_nothing_at_all() -> None:
    """A connection over which nothing comes any more, not even an end, is replaced."""
    ended = Seen[DisconnectEvent]()
    with StreamServer() as server, FaultProxy(server.url) as proxy:
        client = Client(proxy.url, pong_timeout=0.5, **FAST)
        client.on_disconnect(ended)
        with client:
            client.wait_ready(30)
            proxy.both(Swallow())
            event = ended.wait()[0]
            proxy.both(Pass())
            eventually(lambda: client.stats().connections >= 2 and client.is_ready)
    assert isinstance(event.error, StreamClosedError)
    assert event.error.code == 1006


@pytest.mark.fault("10", "G19")
def test_ready_again_after_the_server_was_away() -> None:
    """While nobody listens every attempt fails; the first that can succeed does."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        with client:
            client.wait_ready(30)
            server.stop()
            eventually(lambda: client.stats().attempts >= 4)
            assert not client.is_connected
            server.start()
            server.wait_connected(2, 30)
            client.wait_ready(30)


WAYS: list[Any] = ["abort", "drop", 1000, 1001, 1011]


def resume_from(client: Client) -> Callable[[], object]:
    def resume() -> None:
        last = client.last_message
        client.send({"resume": last.json()["n"] if last else 0})

    return resume


@pytest.mark.fault("1", "2", "52", "53")
@pytest.mark.parametrize("inbox_size", [10, 1000])
def test_10_000_messages_over_20_drops(inbox_size: int) -> None:
    """Resumed from last_message: nothing is lost, doubled or out of order."""
    numbers: list[int] = []
    complete = threading.Event()

    def handle(message: Message) -> None:
        numbers.append(message.json()["n"])
        if numbers[-1] == 10_000:
            complete.set()

    with NumberedServer(10_000, drop_every=450, ways=WAYS) as server:
        client = Client(server.url, inbox_size=inbox_size, **FAST)
        client.on_message(handle)
        client.on_ready(resume_from(client))
        with client:
            assert complete.wait(90)
        assert server.drops >= 20
    check_numbers(numbers, 10_000)
    check_ledger(client.stats())
    assert client.stats().messages_handled == 10_000
    assert client.stats().reconnects >= 20


async def test_10_000_messages_over_20_drops_with_coroutines() -> None:
    """The same on an event loop of the user's own, where coroutine handlers run."""
    numbers: list[int] = []
    complete = asyncio.Event()
    with NumberedServer(10_000, drop_every=450, ways=WAYS) as server:
        client = AsyncClient(server.url, inbox_size=50, **FAST)

        async def handle(message: Message) -> None:
            numbers.append(message.json()["n"])
            if numbers[-1] % 100 == 0:
                await asyncio.sleep(0)
            if numbers[-1] == 10_000:
                complete.set()

        async def resume() -> None:
            last = client.last_message
            await client.send({"resume": last.json()["n"] if last else 0})

        client.on_message(handle)
        client.on_ready(resume)
        async with client:
            async with asyncio.timeout(90):
                await complete.wait()
        assert server.drops >= 20
    check_numbers(numbers, 10_000)
    check_ledger(client.stats())


def test_drops_while_handlers_lag() -> None:
    """What is still waiting when a connection ends is handled, and counts for last_message."""
    seen = Seen[Message]()

    def slow(message: Message) -> None:
        time.sleep(0.001)
        seen(message)

    with NumberedServer(1_000, drop_every=75, ways=WAYS) as server:
        client = Client(server.url, inbox_size=50, **FAST)
        client.on_message(slow)
        client.on_ready(resume_from(client))
        with client:
            seen.wait(1_000, 90)
    check_numbers([message.json()["n"] for message in seen.all], 1_000)


# --- a server that is up but useless: how many connections does it get? -----------------------


def connections_within(seconds: float, reason: str, **delays: Any) -> int:
    """Return how many connections a server gets that is useless for *reason*."""
    with StreamServer() as useful, RawServer([Upgrade(), Close(1000)]) as useless:
        fails = reason == "on_ready fails"
        url = useful.url if fails else useless.url
        client = Client(url, max_reconnect_attempts=None, proxy=None, **delays)
        if fails:
            client.on_ready(lambda: 1 / 0)
        with client:
            time.sleep(seconds)
            return len(useful.attempts) + len(useless.connections)


@pytest.mark.fault("61", "62", "G3", "G4", "P2", "T1")
@pytest.mark.parametrize("reason", ["server closes at once", "on_ready fails"])
def test_no_storm(reason: str) -> None:
    """At most 14 connections in the first 30 s; here with everything 30 times as fast."""
    delays = {"min_reconnect_delay": 1 / 30, "max_reconnect_delay": 1.0, "stable_after": 1 / 3}
    assert 2 <= connections_within(1.0, reason, **delays) <= 14


@pytest.mark.fault("61", "62")
@pytest.mark.soak
@pytest.mark.parametrize("reason", ["server closes at once", "on_ready fails"])
def test_no_storm_in_30_seconds(reason: str) -> None:
    """The same with the default delays, in real time."""
    assert 3 <= connections_within(30.0, reason) <= 14


@pytest.mark.fault("10", "61", "62", "G3", "G4", "P2")
@pytest.mark.parametrize("reason", ["server closes at once", "on_ready fails", "RST at once"])
def test_every_failed_cycle_is_followed_by_its_delay(reason: str) -> None:
    """Delays a hundred times shorter: each attempt comes no sooner than its back-off allows."""
    states: Seen[Any] = Seen()
    script: Script = [Upgrade(), Close(1000)] if reason == "server closes at once" else [Rst()]
    with StreamServer() as useful, RawServer(script) as useless:
        fails = reason == "on_ready fails"
        client = Client(
            useful.url if fails else useless.url,
            min_reconnect_delay=0.01,
            max_reconnect_delay=0.3,
            max_reconnect_attempts=8,
            proxy=None,
        )
        client.on_state(states)
        if fails:
            client.on_ready(lambda: 1 / 0)
        client.start()
        eventually(lambda: client.state is State.FAILED)
        client.close()
        times = [attempt.at for attempt in useful.attempts] if fails else useless.times
    waits = [event.delay for event in states.all if event.state is State.WAITING]
    assert len(times) == 8
    assert len(waits) == 7
    for n, (delay, begun, following) in enumerate(zip(waits, times, times[1:], strict=False), 1):
        assert 0.01 <= delay <= min(0.3, 0.01 * (5 if n == 1 else 2**n))
        assert following - begun >= delay - 0.002


@pytest.mark.fault("61", "G4", "P3")
def test_only_a_stable_connection_resets_attempts() -> None:
    """Connections that were ready, but not for stable_after, are failed attempts in a row."""
    with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
        client = Client(server.url, **FAST | {"max_reconnect_attempts": 4})
        client.on_message(lambda message: server.connections[-1].close(1000))
        client.start()
        eventually(lambda: client.state is State.FAILED)
        client.close()
        assert len(server.connections) == 4


@pytest.mark.fault("61")
def test_a_stable_connection_resets_attempts() -> None:
    """With max_reconnect_attempts=2, ten drops of connections that were stable are survived."""
    with StreamServer() as server:
        client = Client(server.url, stable_after=0.05, **FAST | {"max_reconnect_attempts": 2})
        with client:
            for n in range(1, 11):
                server.wait_connected(n, 30)
                client.wait_ready(30)
                time.sleep(0.08)
                server.abort()
            server.wait_connected(11, 30)
            client.wait_ready(30)
            assert client.stats().reconnects == 10


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="needs Linux's TCP_CORK")
@pytest.mark.parametrize("overflow", ["block", "disconnect"])
def test_messages_that_come_with_the_handshake(overflow: Any) -> None:
    """A server may speak at once, in one segment with its answer: the inbox fills before READY."""
    burst = b"".join(Frame(TEXT, str(n)).data for n in range(1, 201))
    seen, ended = Seen[Message](), Seen[DisconnectEvent]()
    with RawServer([UpgradeWith(burst), Stall()]) as server:
        client = Client(server.url, inbox_size=10, overflow=overflow, close_timeout=0.3, **FAST)
        client.on_message(seen)
        client.on_disconnect(ended)
        with client:
            if overflow == "block":
                seen.wait(200)
                assert [message.data for message in seen.all] == [str(n) for n in range(1, 201)]
                assert len(ended) == 0
            else:
                assert isinstance(ended.wait()[0].error, InboxOverflowError)
                seen.wait(10)


@dataclass(frozen=True)
class UpgradeWith:
    """Accept the handshake and send *more* in the same segment."""

    more: bytes

    def run(self, connection: RawConnection) -> None:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        Upgrade().run(connection)
        connection.sock.sendall(self.more)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
