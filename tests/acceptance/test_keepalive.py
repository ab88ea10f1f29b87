"""A healthy connection is never ended for being slow; a dead one is noticed in time."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from datastream_ws import Client, DisconnectEvent, Message, StreamClosedError
from datastream_ws.testing import StreamServer
from kit.faultproxy import FaultProxy, Pass, Swallow
from kit.rawserver import (
    PING,
    Close,
    Drain,
    ExpectFrame,
    Frame,
    RawServer,
    Sleep,
    Stall,
    Upgrade,
)
from kit.seen import FAST, Seen, eventually


@pytest.mark.fault("65", "P9", "T2")
def test_a_slow_handler_on_a_full_inbox_causes_no_reconnect() -> None:
    """It sleeps 3 × (ping_interval + pong_timeout) while reading is stopped: nothing happens."""
    handled, ended = Seen[Message](), Seen[DisconnectEvent]()

    def slow(message: Message) -> None:
        if not len(handled):
            time.sleep(3 * (0.2 + 0.4))
        handled(message)

    with StreamServer() as server:
        client = Client(server.url, inbox_size=5, ping_interval=0.2, pong_timeout=0.4, **FAST)
        client.on_message(slow)
        client.on_disconnect(ended)
        with client:
            client.wait_ready(30)
            for n in range(200):
                server.send(str(n))
            handled.wait(200)
            assert client.stats().blocked_seconds > 1
            assert client.stats().connections == 1
            # And keepalive goes on afterwards: several times the patience, and still connected.
            pings = client.stats().round_trip_time
            time.sleep(1.0)
            assert client.stats().connections == 1
            assert client.stats().round_trip_time != pings
    assert [event.error for event in ended.all] == [None]
    assert [message.data for message in handled.all] == [str(n) for n in range(200)]


@pytest.mark.fault("65", "P9")
def test_a_slow_handler_beside_an_idle_stream_causes_no_reconnect() -> None:
    """The same with room in the inbox: pongs are read beside the handler."""
    handled = Seen[Message]()

    def slow(message: Message) -> None:
        time.sleep(3 * (0.2 + 0.4))
        handled(message)

    with StreamServer() as server:
        client = Client(server.url, ping_interval=0.2, pong_timeout=0.4, **FAST)
        client.on_message(slow)
        with client:
            client.wait_ready(30)
            server.send("x")
            handled.wait(1)
            assert client.stats().connections == 1


@pytest.mark.fault("3", "P10")
def test_a_half_open_peer_is_noticed() -> None:
    """Within pong_timeout + 0.5 s of the last sign of life the connection is given up."""
    ended = Seen[tuple[float, DisconnectEvent]]()
    with StreamServer() as server, FaultProxy(server.url) as proxy:
        client = Client(proxy.url, pong_timeout=1.0, **FAST)
        client.on_disconnect(lambda event: ended((time.monotonic(), event)))
        with client:
            client.wait_ready(30)
            server.send("alive")
            eventually(lambda: client.stats().messages_received == 1)
            proxy.both(Swallow())
            silent_since = time.monotonic()
            at, event = ended.wait()[0]
            proxy.both(Pass())
    assert at - silent_since <= 1.0 + 0.5
    assert isinstance(event.error, StreamClosedError)
    assert event.code == 1006


@pytest.mark.fault("3")
def test_a_server_that_stops_reading_is_noticed() -> None:
    """A hung process keeps its TCP connection and answers no ping."""
    with StreamServer() as server:
        client = Client(server.url, pong_timeout=0.5, **FAST)
        with client:
            client.wait_ready(30)
            server.mute()
            eventually(lambda: not client.is_connected)
            server.unmute()
            eventually(lambda: client.is_ready)


@pytest.mark.fault("G21")
def test_any_frame_proves_life() -> None:
    """A peer that answers no ping but sends something else is alive."""
    script = [Upgrade(), *[step for n in range(8) for step in (Frame(PING, b"x"), Sleep(0.2))]]
    with RawServer([*script, Drain()]) as server:
        client = Client(server.url, pong_timeout=0.5, close_timeout=0.2, **FAST)
        started = time.monotonic()
        with client:
            client.wait_ready(30)
            eventually(lambda: not client.is_connected)
        assert time.monotonic() - started > 7 * 0.2 + 0.4


def test_pings_come_every_ping_interval() -> None:
    """ping_interval is their period; the round trip is in stats()."""
    with RawServer([Upgrade(), *[ExpectFrame(PING)] * 3, Drain()]) as server:
        client = Client(server.url, ping_interval=0.1, pong_timeout=30, close_timeout=0.2, **FAST)
        with client:
            client.wait_ready(30)
            eventually(lambda: server.connections[0].frames[2:])
            payloads = {frame.payload for frame in server.connections[0].frames}
    assert len(payloads) == 3
    with StreamServer() as answering, Client(answering.url, ping_interval=0.05, **FAST) as client:
        trip = eventually(lambda: client.stats().round_trip_time)
        assert 0 < trip < 5


@pytest.mark.parametrize("options", [{"pong_timeout": None}, {"ping_interval": None}])
def test_none_switches_it_off(options: dict[str, Any]) -> None:
    """pong_timeout=None never judges; ping_interval=None sends no ping."""
    with RawServer([Upgrade(), ExpectFrame(), Drain()]) as server:
        all_options = {"ping_interval": 0.05, "pong_timeout": 60.0} | options
        client = Client(server.url, close_timeout=0.2, **all_options, **FAST)
        with client:
            client.wait_ready(30)
            time.sleep(0.4)
            assert client.stats().connections == 1
            pinged = bool(server.connections[0].frames)
    assert pinged is (options != {"ping_interval": None})


@pytest.mark.fault("51", "G14")
def test_a_peer_that_never_closes_its_end_when_we_close() -> None:
    """close() is done within close_timeout + 0.5 s, and the peer was sent our close frame."""
    with RawServer([Upgrade(), ExpectFrame(8), Stall()]) as server:
        client = Client(server.url, close_timeout=0.5, **FAST)
        client.start()
        client.wait_ready(30)
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun <= 0.5 + 0.5
        assert server.connections[0].frames[-1].close_code == 1000


@pytest.mark.fault("51")
def test_a_peer_that_never_closes_its_end_after_closing() -> None:
    """It sent a close frame and hangs: after close_timeout + 0.5 s a new connection follows."""
    ended = Seen[float]()
    closing = threading.Event()

    class Note:
        def run(self, connection: Any) -> None:
            closing.set()

    with RawServer([Upgrade(), Sleep(0.1), Note(), Close(1001), Stall()], [Upgrade()]) as server:
        client = Client(server.url, close_timeout=0.5, **FAST)
        client.on_disconnect(lambda event: ended(time.monotonic()))
        with client:
            assert closing.wait(30)
            begun = time.monotonic()
            assert ended.wait()[0] - begun <= 0.5 + 0.5
            server.wait_connections(2, 30)
