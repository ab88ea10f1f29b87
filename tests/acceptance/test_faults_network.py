"""Faults of the network between the client and the server, each with the figure it must keep."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import Client, DisconnectEvent, Message
from datastream_ws.testing import StreamServer
from kit.faultproxy import Bandwidth, Cut, FaultProxy, Latency, Pass
from kit.rawserver import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Drain,
    Fin,
    Frame,
    RawConnection,
    RawServer,
    Rst,
    Script,
    Send,
    Stall,
    Step,
    Upgrade,
)
from kit.seen import FAST, Seen, eventually

ROOT = Path(__file__).parents[2]
AT_ONCE = FAST | {"min_reconnect_delay": 0.001, "max_reconnect_delay": 0.002}


# --- bytes that come slowly, or not all of them -----------------------------------------------


@pytest.mark.fault("6")
def test_one_byte_at_a_time() -> None:
    """Every boundary falls between two reads: the same messages, in order, on one connection."""
    stream = b"".join(Frame(TEXT, text).data for text in ("one", "two", "three" * 30))
    seen = Seen[Message]()
    with RawServer([Upgrade(), Send(stream, piece=1, pause=0.002), Stall()]) as server:
        client = Client(server.url, close_timeout=0.2, **FAST)
        client.on_message(seen)
        with client:
            assert [m.data for m in seen.wait(3)] == ["one", "two", "three" * 30]
            assert client.stats().connections == 1


@pytest.mark.fault("7")
@pytest.mark.parametrize("end", [Fin(), Rst()])
def test_part_of_a_frame_then_the_end(end: Step) -> None:
    """What is not whole is not delivered, and the next connection begins afresh."""
    part = Send(Frame(TEXT, "never whole").data[:-3])
    seen = Seen[Message]()
    scripts: list[Script] = [
        [Upgrade(), Frame(TEXT, "whole"), part, end],
        [Upgrade(), Frame(TEXT, "next"), Stall()],
    ]
    with RawServer(*scripts) as server:
        client = Client(server.url, close_timeout=0.2, **FAST)
        client.on_message(seen)
        with client:
            seen.wait_for(lambda message: message.connection == 2)
    assert [message.data for message in seen.all] in (["whole", "next"], ["next"])
    if isinstance(end, Fin):  # RST may overtake what was sent
        assert len(seen) == 2


@pytest.mark.fault("8")
def test_part_of_a_frame_then_silence() -> None:
    """Keepalive ends it within pong_timeout + 0.5 s, as it ends any silence."""
    ended = Seen[float]()
    sent = Seen[float]()
    part = Send(Frame(TEXT, "never whole").data[:-3])
    with RawServer([Upgrade(), part, Note(sent), Stall()]) as server:
        client = Client(server.url, pong_timeout=0.6, **FAST)
        client.on_disconnect(lambda event: ended(time.monotonic()))
        with client:
            assert ended.wait()[0] - sent.wait()[0] <= 0.6 + 0.5
            assert client.stats().messages_received == 0


@dataclass(frozen=True)
class Note:
    """Tell when the script has come so far."""

    to: Callable[[float], object]

    def run(self, connection: RawConnection) -> None:
        self.to(time.monotonic())


FRAMES = [
    (Frame(TEXT, "short"), "short"),
    (Frame(PING, "?"), None),
    (Frame(TEXT, "gr", fin=False), None),
    (Frame(PING, "!"), None),
    (Frame(CONTINUATION, "üße".encode()), "grüße"),
    (Frame(BINARY, bytes(130)), bytes(130)),  # a length of two more bytes
    (Frame(TEXT, ""), ""),
]
STREAM = b"".join(frame.data for frame, _ in FRAMES)
MESSAGES = [message for _, message in FRAMES if message is not None]


def whole_within(size: int) -> int:
    """Return how many messages are whole in the first *size* bytes of STREAM."""
    ends = [
        sum(len(frame.data) for frame, _ in FRAMES[: n + 1])
        for n, (_, message) in enumerate(FRAMES)
        if message is not None
    ]
    return sum(end <= size for end in ends)


@pytest.mark.fault("9")
def test_cut_after_every_byte() -> None:
    """FIN after each byte of answer and stream: exactly the whole messages, none doubled."""
    seen = Seen[Message]()
    ended = Seen[DisconnectEvent]()
    offsets = iter(range(1, 2000))
    with RawServer([Upgrade(), Send(STREAM), Drain()]) as server, FaultProxy(server.url) as proxy:

        def url() -> str:
            proxy.down = Cut(next(offsets))
            return proxy.url

        client = Client(url, close_timeout=0.2, **AT_ONCE)
        client.on_message(seen)
        client.on_disconnect(ended)
        with client:
            ended.wait(len(STREAM) + 1, 90)
    came: dict[int, list[Any]] = {n: [] for n in range(1, len(STREAM) + 2)}
    for message in seen.all:
        if message.connection in came:
            came[message.connection].append(message.data)
    assert [len(came[n]) for n in came] == [whole_within(n - 1) for n in came]
    assert all(each == MESSAGES[: len(each)] for each in came.values())


# --- names ------------------------------------------------------------------------------------


class Resolver:
    """In the place of getaddrinfo for one name; *answer* gives the port on this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], int]) -> None:
        self._real = socket.getaddrinfo
        self._answer = answer
        self.asked = 0
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "feed.invalid":
            return self._real(host, port, *args, **kwargs)
        self.asked += 1
        return self._real("127.0.0.1", self._answer(), type=socket.SOCK_STREAM)


@pytest.mark.fault("11")
def test_a_name_that_does_not_resolve_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as failed attempts; the first lookup that succeeds leads to a connection."""
    with StreamServer() as server:

        def answer() -> int:
            if resolver.asked <= 3:
                raise socket.gaierror(socket.EAI_AGAIN, "try again")
            return server.port

        resolver = Resolver(monkeypatch, answer)
        with Client("ws://feed.invalid:1", **FAST) as client:
            client.wait_ready(30)
            assert client.stats().attempts == resolver.asked == 4


@pytest.mark.fault("19")
def test_the_address_behind_a_name_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt asks anew: the second address is used once the first is gone."""
    with StreamServer() as first, StreamServer() as second:
        resolver = Resolver(monkeypatch, lambda: (first if resolver.asked == 1 else second).port)
        with Client("ws://feed.invalid:1", **FAST) as client:
            client.wait_ready(30)
            first.abort()
            second.wait_connected(1, 30)
            client.wait_ready(30)
            assert resolver.asked == 2


@pytest.mark.fault("12")
def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten attempts end in time with one thread stuck, and other names resolve meanwhile."""
    answered = threading.Event()
    with StreamServer() as server:

        def answer() -> int:
            answered.wait(60)
            return server.port

        resolver = Resolver(monkeypatch, answer)
        threads = threading.active_count()
        stuck = Client("ws://feed.invalid:1", name="stuck", open_timeout=0.05, **FAST)
        local = server.url.replace("127.0.0.1", "localhost")
        with stuck:
            eventually(lambda: stuck.stats().attempts >= 10)
            assert resolver.asked <= 2
            assert threading.active_count() - threads <= 2 + 2  # the client's own: loop and hooks
            begun = time.monotonic()
            with Client(local, **FAST) as other:
                other.wait_ready(30)
            assert time.monotonic() - begun < 5
            answered.set()
            stuck.wait_ready(30)


HANGS = """
import socket, time
from datastream_ws import Client

def hang(*arguments, **options):
    time.sleep(60)

socket.getaddrinfo = hang
client = Client("ws://feed.invalid:1", proxy=None, open_timeout=0.05, max_reconnect_attempts=None,
                min_reconnect_delay=0.01, max_reconnect_delay=0.02)
client.start()
while client.stats().attempts < 3:
    time.sleep(0.005)
print(time.monotonic())
"""


@pytest.mark.fault("12")
def test_a_resolver_that_hangs_does_not_hold_up_the_exit() -> None:
    """The interpreter is gone within a second, with the client still at it."""
    command = [sys.executable, "-c", HANGS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert time.monotonic() - float(done.stdout) < 1.0


@pytest.mark.fault("13")
@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog is silent on Linux")
def test_a_first_address_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is tried a quarter of a second later, long before open_timeout."""
    real = socket.getaddrinfo
    with StreamServer() as server, socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # what does not fit is not answered
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())

        def both(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "feed.invalid":
                return real(host, *args, **kwargs)
            ports = full.getsockname()[1], server.port
            return [real("127.0.0.1", port, type=socket.SOCK_STREAM)[0] for port in ports]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        begun = time.monotonic()
        with Client("ws://feed.invalid:1", open_timeout=20, **FAST) as client:
            client.wait_ready(30)
            assert client.stats().attempts == 1
            assert 0.2 <= server.attempts[0].at - begun <= 0.5


# --- what is in between -----------------------------------------------------------------------


@dataclass(frozen=True)
class EndWhenIdle:
    """As a load balancer: end the connection once nothing came for so many seconds."""

    seconds: float

    def run(self, connection: RawConnection) -> None:
        connection.sock.settimeout(self.seconds)
        while connection.sock.recv(65536):
            pass


@pytest.mark.fault("14")
def test_a_load_balancer_that_ends_idle_connections() -> None:
    """Pings keep the connection for three times the idle time; without them it is gone."""
    with RawServer([Upgrade(), EndWhenIdle(0.6)]) as server:
        with Client(server.url, ping_interval=0.1, close_timeout=0.2, **FAST) as client:
            client.wait_ready(30)
            time.sleep(3 * 0.6)
            assert client.stats().connections == 1
        with Client(server.url, ping_interval=None, close_timeout=0.2, **FAST) as client:
            eventually(lambda: client.stats().connections >= 2)


@pytest.mark.fault("17")
def test_a_spike_of_latency() -> None:
    """Half a second more than usual, within the patience: nothing happens."""
    seen = Seen[Message]()
    with StreamServer() as server, FaultProxy(server.url) as proxy:
        client = Client(proxy.url, ping_interval=0.2, pong_timeout=3.0, **FAST)
        client.on_message(seen)
        with client:
            client.wait_ready(30)
            proxy.both(Latency(0.5))
            for n in range(20):
                server.send(str(n))
            seen.wait(20)
            proxy.both(Pass())
            eventually(lambda: (client.stats().round_trip_time or 9) < 0.4)
            assert client.stats().connections == 1
    assert [message.data for message in seen.all] == [str(n) for n in range(20)]


@pytest.mark.fault("18")
def test_64_kbit_per_second() -> None:
    """24 kB take three seconds, thrice the patience: every byte proves life, nothing is cut."""
    seen = Seen[Message]()
    with StreamServer() as server, FaultProxy(server.url) as proxy:
        client = Client(proxy.url, ping_interval=0.3, pong_timeout=1.0, compression=None, **FAST)
        client.on_message(seen)
        with client:
            client.wait_ready(30)
            proxy.down = Bandwidth(8000)
            server.send("x" * 24_000)
            assert seen.wait()[0].data == "x" * 24_000
            eventually(lambda: client.stats().round_trip_time)  # pings are answered, in their turn
            assert client.stats().connections == 1
