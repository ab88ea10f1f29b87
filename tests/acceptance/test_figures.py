"""What an operator reads in ``stats()``: the calls of each handler, and what has happened."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from datastream_ws import AsyncClient, Client, Message, Stats
from datastream_ws.testing import StreamServer


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def calls(stats: Stats) -> dict[str, int]:
    return {name.rpartition(".")[2]: each.calls for name, each in stats.handlers.items()}


def test_each_handler_has_its_calls_failures_and_times(stream_server: StreamServer) -> None:
    client = Client(stream_server.url)

    @client.on_message("slow")
    def slow(message: Message) -> None:
        time.sleep(0.02)

    @client.on_message("broken")
    async def broken(message: Message) -> None:
        raise ValueError

    @client.on_message("soon", inline=True)
    def soon(message: Message) -> None: ...

    @client.on_batch(max_size=2, max_wait=30.0, route="many")
    def many(messages: list[Message]) -> None: ...

    with client:
        client.wait_ready(10)
        for kind in ("slow", "broken", "soon", "many", "many", "slow"):
            stream_server.send({"type": kind})
        expected = {"slow": 2, "broken": 1, "soon": 1, "many": 1}
        until(lambda: calls(client.stats()) == expected)
        found = {name.rpartition(".")[2]: h for name, h in client.stats().handlers.items()}
    assert {name for name, each in found.items() if each.failures} == {"broken"}
    assert found["broken"].failures == 1
    p50, longest = found["slow"].p50, found["slow"].max
    assert p50 is not None
    assert p50 >= 0.018
    assert longest is not None
    assert longest >= 0.02


KINDS: dict[str, dict[str, Any]] = {
    "only": {},
    "several at work": {"concurrency": 3},
    "watched": {"handler_timeout": 60.0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("routes", [(), ("a", "tick")])
def test_every_call_of_many_is_counted(
    stream_server: StreamServer, kind: str, routes: tuple[str, ...]
) -> None:
    client = Client(stream_server.url, inbox_size=None, **KINDS[kind])
    number = 0

    def tick(message: Message) -> None:
        nonlocal number
        number += 1
        if message.json()["n"] == 700:
            time.sleep(0.05)
        if message.json()["n"] == 900:
            raise ValueError

    for route in routes or (None,):
        client.on_message(route)(tick)
    with client:
        client.wait_ready(10)
        for n in range(1000):
            stream_server.send({"type": "tick", "n": n})
        until(lambda: sum(calls(client.stats()).values()) == 1000)
        (found,) = client.stats().handlers.values()
    assert found.calls == 1000
    assert found.failures == 1
    assert found.max is not None
    assert found.max >= 0.04
    assert found.p50 is not None
    assert found.p50 < 0.04


@pytest.mark.parametrize("routes", [(), ("a", "tick")])
async def test_calls_of_coroutine_functions_are_counted(
    stream_server: StreamServer, routes: tuple[str, ...]
) -> None:
    client = AsyncClient(stream_server.url)
    seen = asyncio.Event()

    async def tick(message: Message) -> None:
        n = message.json()["n"]
        await asyncio.sleep(0.05 if n == 3 else 0)
        if n == 9:
            seen.set()

    for route in routes or (None,):
        client.on_message(route)(tick)
    async with client:
        await client.wait_ready(10)
        for n in range(10):
            stream_server.send({"type": "tick", "n": n})
        async with asyncio.timeout(20):
            await seen.wait()
            while calls(client.stats()) != {"tick": 10}:  # noqa: ASYNC110 - the run has to end
                await asyncio.sleep(0.01)
        (found,) = client.stats().handlers.values()
    assert found.max is not None
    assert found.max >= 0.04


def test_what_has_happened_can_be_read_later(stream_server: StreamServer) -> None:
    client = Client(stream_server.url, min_reconnect_delay=0.01, max_reconnect_delay=0.02)
    client.on_message(print)
    before = time.time()
    with client:
        client.wait_ready(10)
        stream_server.close(1001, "deploying")
        until(lambda: client.stats().connections == 2 and client.is_ready)
        client.pause()
        until(lambda: client.state.value == "paused")
        client.resume()
        until(lambda: client.stats().connections == 3 and client.is_ready)
        client.reconnect()
        until(lambda: client.stats().connections == 4 and client.is_ready)
    events = client.stats().recent_events
    kinds = [event.kind for event in events]
    assert kinds == [
        *("connected", "ready", "lost", "connected", "gap", "ready"),
        *("paused", "lost", "resumed", "connected", "gap", "ready"),
        *("reconnect", "lost", "connected", "gap", "ready", "lost", "closed"),
    ]
    assert events[2].text == "connection 1: code 1001, deploying"
    assert events[4].text.endswith(" s without a connection")
    times = [event.at for event in events]
    assert times == sorted(times)
    assert before - 1 <= times[0] <= time.time() + 1


def test_the_last_fifty_events_are_kept(stream_server: StreamServer) -> None:
    client = Client(stream_server.url)
    client.on_message(print)
    with client:
        client.wait_ready(10)
        for _ in range(40):
            client.pause()
            client.resume()
        until(lambda: len(client.stats().recent_events) == 50)


def test_a_client_that_gives_up_says_why(stream_server: StreamServer) -> None:
    stream_server.refuse(401, {}, 1)
    client = Client(stream_server.url)
    client.on_message(print)
    client.start()
    until(lambda: client.state.value == "failed")
    last = client.stats().recent_events[-1]
    assert last.kind == "failed"
    assert "401" in last.text


def test_how_full_inbox_and_spool_are(stream_server: StreamServer, tmp_path: Any) -> None:
    client = Client(
        stream_server.url, inbox_size=4, spool=str(tmp_path / "spool"), spool_bytes=2**20
    )
    begun, go_on = threading.Event(), threading.Event()

    @client.on_message
    def wait(message: Message) -> None:
        begun.set()
        go_on.wait(30)

    with client:
        client.wait_ready(10)
        assert client.stats().inbox_share == 0
        for _ in range(20):
            stream_server.send("x" * 1000)
        assert begun.wait(20)
        until(lambda: (client.stats().spool_share or 0) >= 10_000 / 2**20)
        assert client.stats().inbox_share == 1.0
        go_on.set()


def test_shares_of_what_has_no_limit_are_none(stream_server: StreamServer) -> None:
    client = Client(stream_server.url, inbox_size=None, inbox_bytes=None)
    client.on_message(print)
    with client:
        client.wait_ready(10)
        stats = client.stats()
    assert stats.inbox_share is None
    assert stats.spool_share is None


def test_round_trips_are_a_histogram(stream_server: StreamServer) -> None:
    client = Client(stream_server.url, ping_interval=0.05, pong_timeout=20.0)
    client.on_message(print)
    with client:
        client.wait_ready(10)
        until(lambda: sum(getattr(client.stats().round_trips, "counts", ())) >= 3)
        found = client.stats().round_trips
    assert found is not None
    assert len(found.counts) == len(found.bounds) + 1
    assert 0 < found.total < 60
