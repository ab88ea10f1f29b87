"""
Servers that others wrote, as they are: Node's ws, websockets, aiohttp, uvicorn, nginx in front.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import Client, DisconnectEvent, Message, State, StateEvent
from kit.faultproxy import FaultProxy
from kit.realservers import CAN_DROP, CAN_FRAGMENT, SERVERS, Nginx, RealServer, ws_library
from kit.seen import FAST, Seen, eventually

OPTIONS = FAST | {"close_timeout": 2.0}
MEGABYTE = 2**20


def made(name: str, folder: Path, config: pytest.Config, **options: Any) -> RealServer:
    library = ws_library(config, folder) if name == "ws" else None
    return RealServer(name, folder, library=library, **options)


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    """One for all tests of the module."""
    folder = tmp_path_factory.mktemp("servers")
    with made(request.param, folder, request.config) as started:
        yield started


def each(names: list[str]) -> pytest.MarkDecorator:
    """For each of these servers; one worker has them all, so that each is started once."""
    group = pytest.mark.xdist_group("real servers")
    return pytest.mark.parametrize(
        "server", [pytest.param(name, marks=group) for name in names], indirect=True
    )


class Talk:
    """A client that keeps what it is told."""

    def __init__(self, url: str, **options: Any) -> None:
        self.seen = Seen[Message]()
        self.ended = Seen[DisconnectEvent]()
        self.client = Client(url, **OPTIONS | options)
        self.client.on_message(self.seen)
        self.client.on_disconnect(self.ended)

    def __enter__(self) -> Talk:
        self.client.start()
        self.client.wait_ready(30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()

    def order(self, what: str, **arguments: Any) -> None:
        self.client.send({"do": what, **arguments})


@each(SERVERS)
def test_messages_both_ways(server: RealServer) -> None:
    """Text, binary, empty, large, many: as they were, in order, and closed with 1000."""
    sent: list[str | bytes] = ["grüße", b"\x00\xff", "", b"", "x" * (MEGABYTE - 1), bytes(MEGABYTE)]
    sent += [f"number {n}" for n in range(200)]
    with Talk(server.url) as talk:
        for each_one in sent:
            talk.client.send(each_one, wait=10)
        assert [message.data for message in talk.seen.wait(len(sent))] == sent
        assert talk.client.stats().connections == 1
        before = server.closed(1000)
    eventually(lambda: server.closed(1000) > before)


@each(SERVERS)
@pytest.mark.parametrize("compression", ["deflate", None])
def test_compression(server: RealServer, compression: str | None) -> None:
    """100,000 characters are a few on the wire, and the next message knows what was before."""
    with (
        FaultProxy(server.url) as proxy,
        Talk(proxy.url, compression=compression) as talk,
    ):
        for n in range(3):
            talk.order("send", size=100_000)
            assert talk.seen.wait(n + 1)[n].data == "x" * 100_000
        talk.client.send("y" * 100_000)
        assert talk.seen.wait(4)[3].data == "y" * 100_000
        if compression is None:
            eventually(lambda: proxy.bytes_down > 400_000)  # counted when it has been sent on
            assert proxy.bytes_up > 100_000
        else:
            assert proxy.bytes_down < 10_000
            assert proxy.bytes_up < 10_000


@each(CAN_FRAGMENT)
def test_fragments(server: RealServer) -> None:
    """A message in pieces, a ping amid them, is one message."""
    with Talk(server.url) as talk:
        talk.order("fragments", of=["grü", "ße", "", "x" * 70_000])
        talk.client.send("after")
        assert [m.data for m in talk.seen.wait(2)] == ["grüße" + "x" * 70_000, "after"]


@each(SERVERS)
def test_closed_by_the_server(server: RealServer) -> None:
    """Its code and reason are told, and the next connection comes."""
    with Talk(server.url) as talk:
        talk.order("close", code=4000, reason="bye")
        event = talk.ended.wait()[0]
        assert (event.code, event.reason, event.will_retry) == (4000, "bye", True)
        eventually(lambda: talk.client.stats().connections == 2 and talk.client.is_ready)
        talk.client.send("again")
        assert talk.seen.wait()[0].data == "again"


@each(CAN_DROP)
def test_dropped_by_the_server(server: RealServer) -> None:
    """Without a close frame: 1006, and the next connection comes."""
    with Talk(server.url) as talk:
        talk.order("drop")
        assert talk.ended.wait()[0].code == 1006
        eventually(lambda: talk.client.stats().connections == 2 and talk.client.is_ready)


@each(SERVERS)
def test_killed_and_started_again(
    server: RealServer, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """The client waits for it, however long; a server of the test's own."""
    with made(server.name, tmp_path, pytestconfig) as mortal, Talk(mortal.url) as talk:
        mortal.kill()
        assert talk.ended.wait()[0].code == 1006
        attempts = talk.client.stats().attempts
        eventually(lambda: talk.client.stats().attempts > attempts)
        mortal.start()
        eventually(lambda: talk.client.is_ready)
        talk.client.send("again")
        assert talk.seen.wait()[0].data == "again"


@pytest.mark.fault("3")
def test_a_stopped_server_is_noticed(tmp_path: Path) -> None:
    """SIGSTOP: the system still acknowledges for it; noticed within pong_timeout + 0.5 s."""
    with (
        RealServer("websockets", tmp_path) as server,
        Talk(server.url, pong_timeout=1.0, ping_interval=0.2, open_timeout=0.5) as talk,
    ):
        server.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        talk.ended.wait()
        assert time.monotonic() - begun <= 1.0 + 0.5
        server.process.send_signal(signal.SIGCONT)
        eventually(lambda: talk.client.is_ready)


def test_a_server_that_cuts_off_who_does_not_answer_its_pings(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """ws's own recipe, every 0.2 s: answered while a handler is at work for a second."""
    with (
        made("ws", tmp_path, pytestconfig, ping=0.2) as server,
        Talk(server.url, ping_interval=None) as talk,
    ):
        talk.client.on_message(lambda message: time.sleep(1.0))
        talk.client.send("slow")
        talk.seen.wait()
        talk.client.close()
        assert talk.client.stats().connections == 1


# --- nginx ------------------------------------------------------------------------------------


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[Nginx, RealServer]]:
    """nginx that ends what is idle for a second, before the ``websockets`` server."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    with (
        RealServer("websockets", tmp_path) as server,
        Nginx(folder, server.port, idle=1.0) as front,
    ):
        yield front, server


@pytest.mark.fault("14")
def test_nginx_ends_idle_connections_unless_there_are_pings(
    nginx: tuple[Nginx, RealServer],
) -> None:
    """No drop in three times its proxy_read_timeout; without pings there is one."""
    front, _ = nginx
    with Talk(front.url, ping_interval=0.3) as talk:
        begun = time.monotonic()
        with Talk(front.url, ping_interval=None) as silent:
            assert silent.ended.wait()[0].code == 1006
            eventually(lambda: silent.client.stats().connections == 2)
        time.sleep(max(0.0, begun + 3 * 1.0 - time.monotonic()))
        assert talk.client.stats().connections == 1
        talk.client.send("still here")
        assert talk.seen.wait()[0].data == "still here"


@pytest.mark.fault("15")
def test_nginx_reloads(nginx: tuple[Nginx, RealServer]) -> None:
    """Its old workers end their connections without a close frame; back within five seconds."""
    front, _ = nginx
    with Talk(front.url) as talk:
        front.reload()
        assert talk.ended.wait()[0].code == 1006
        begun = time.monotonic()
        eventually(lambda: talk.client.stats().connections == 2 and talk.client.is_ready)
        assert time.monotonic() - begun <= 5
        talk.client.send("again")
        assert talk.seen.wait()[0].data == "again"


@pytest.mark.fault("16")
def test_nginx_without_its_upstream(nginx: tuple[Nginx, RealServer]) -> None:
    """502 is retried, and says so, until the upstream is there again."""
    front, server = nginx
    states = Seen[StateEvent]()
    with Talk(front.url) as talk:
        talk.client.on_state(states)
        server.kill()
        refused = states.wait_for(lambda event: "502" in str(event.error))
        assert refused.state is State.WAITING
        server.start()
        eventually(lambda: talk.client.is_ready)
