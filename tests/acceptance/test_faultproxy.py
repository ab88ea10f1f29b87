"""The fault proxy does each fault it is named for, in the direction it is told, when it is told."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from websockets.sync.client import connect

from datastream_ws.testing import StreamServer
from kit.faultproxy import (
    Bandwidth,
    Blackhole,
    Cut,
    FaultProxy,
    Latency,
    Mode,
    Pass,
    Reset,
    Slices,
    Swallow,
    WithholdFin,
)


class Echo:
    """A TCP server that gives back what it gets, and remembers how connections ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", int(self.listener.getsockname()[1]))
        self.ends: list[str] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.threads.append(threading.Thread(target=self.echo, args=(sock,), daemon=True))
                self.threads[-1].start()

    def echo(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
                self.ends.append("fin")
            except ConnectionError:
                self.ends.append("rst")
        self.ended.set()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.address) as proxy:
        yield proxy


@contextmanager
def through(proxy: FaultProxy, timeout: float = 5.0) -> Iterator[socket.socket]:
    """Connect through the proxy."""
    with socket.create_connection((proxy.host, proxy.port), timeout=timeout) as sock:
        yield sock


def exactly(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes, or all there are before the end."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def nothing_comes(sock: socket.socket, seconds: float = 0.05) -> bool:
    """Say whether neither bytes nor an end arrive for a while."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def test_passes_everything(proxy: FaultProxy, echo: Echo) -> None:
    """Without a fault bytes and ends pass, and are counted per direction and per connection."""
    data = random.Random(1).randbytes(1_000_000)
    with through(proxy) as sock:
        threading.Thread(target=sock.sendall, args=(data,)).start()
        assert exactly(sock, len(data)) == data
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    [link] = proxy.links
    assert link.closed.wait(5)
    assert echo.ends == ["fin"]
    assert (link.up.forwarded, link.down.forwarded) == (len(data), len(data))
    assert (proxy.bytes_up, proxy.bytes_down) == (len(data), len(data))
    assert link.closed_at is not None
    assert link.opened_at < link.closed_at


def test_url_is_the_targets_but_for_host_and_port() -> None:
    """Scheme, userinfo, path and query stay; known schemes need no port."""
    with FaultProxy("redis://user:pw@127.0.0.1/3?x=1") as proxy:
        assert proxy.url == f"redis://user:pw@127.0.0.1:{proxy.port}/3?x=1"


def test_websocket_through_the_proxy() -> None:
    """A WebSocket connection passes."""
    with (
        StreamServer() as server,
        FaultProxy(server.url) as proxy,
        connect(proxy.url) as client,
    ):
        client.send("hello")
        assert server.wait_received(1) == ["hello"]


@pytest.mark.parametrize("service", ["redis_url", "amqp_url", "database_url"])
def test_services_through_the_proxy(service: str, request: pytest.FixtureRequest) -> None:
    """The brokers and the database answer through the proxy as they do without."""
    with FaultProxy(request.getfixturevalue(service)) as proxy:
        ASK[service](proxy.url)
        assert proxy.bytes_down > 0


def ask_redis(url: str) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(url) as client:
        assert client.ping()


def ask_rabbitmq(url: str) -> None:
    kombu = pytest.importorskip("kombu")
    with kombu.Connection(url) as connection:
        connection.ensure_connection(max_retries=1)


def ask_postgresql(url: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


ASK: dict[str, Callable[[str], None]] = {
    "redis_url": ask_redis,
    "amqp_url": ask_rabbitmq,
    "database_url": ask_postgresql,
}


def test_latency(proxy: FaultProxy) -> None:
    """Bytes arrive later by the delay, and those sent close together arrive close together."""
    proxy.up = Latency(0.4)
    with through(proxy) as sock:
        begun = time.monotonic()
        for _ in range(5):
            sock.sendall(b"x")
            time.sleep(0.01)
        assert exactly(sock, 1) == b"x"
        assert time.monotonic() - begun >= 0.4
        assert exactly(sock, 4) == b"xxxx"
        assert time.monotonic() - begun < 0.75


def test_jitter_keeps_the_order() -> None:
    """However the delay varies, bytes stay in order, and delays within their bounds."""
    mode = Latency(0.5, jitter=0.4, rng=random.Random(7))
    last, dues = 0.0, []
    for n in range(100):
        [(due, piece)] = mode.pieces(b"x", now=n / 100, last=last)
        dues.append(due)
        last = due
        assert piece == b"x"
    assert dues == sorted(dues)
    assert all(n / 100 + 0.1 <= due for n, due in enumerate(dues))
    assert max(due - n / 100 for n, due in enumerate(dues)) <= 0.9


def test_bandwidth(proxy: FaultProxy) -> None:
    """So many bytes a second pass, spread over the time."""
    proxy.down = Bandwidth(100_000)
    with through(proxy) as sock:
        begun = time.monotonic()
        sock.sendall(b"x" * 20_000)
        exactly(sock, 10_000)
        assert time.monotonic() - begun >= 0.09
        exactly(sock, 10_000)
        assert 0.19 <= time.monotonic() - begun < 1


def test_slices(proxy: FaultProxy) -> None:
    """Bytes arrive in pieces of one size, with pauses between them."""
    proxy.down = Slices(1, pause=0.01)
    with through(proxy) as sock:
        begun = time.monotonic()
        sock.sendall(b"abcdefghij")
        assert exactly(sock, 10) == b"abcdefghij"
        assert time.monotonic() - begun >= 0.09


def test_slices_are_of_one_size() -> None:
    """Pieces have the size asked for, the last one what is left."""
    pieces = list(Slices(4, pause=0.5).pieces(b"abcdefghij", now=1.0, last=0.0))
    assert pieces == [(1.0, b"abcd"), (1.5, b"efgh"), (2.0, b"ij")]


@pytest.mark.parametrize("n", [0, 1, 5, 9])
def test_cut_by_fin(proxy: FaultProxy, n: int) -> None:
    """Exactly n bytes arrive, then FIN."""
    proxy.down = Cut(n)
    with through(proxy) as sock:
        with suppress(ConnectionError):
            sock.sendall(b"0123456789")
        assert exactly(sock, 10) == b"0123456789"[:n]


def test_cut_by_rst(proxy: FaultProxy, echo: Echo) -> None:
    """Exactly n bytes arrive, then RST, at both ends."""
    proxy.down = Cut(5, how="rst")
    with through(proxy) as sock:
        sock.sendall(b"0123456789")
        assert exactly(sock, 5) == b"01234"
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert echo.ended.wait(5)
    assert echo.ends == ["rst"]


def test_cut_towards_the_server(proxy: FaultProxy) -> None:
    """The count is that of its own direction."""
    proxy.up = Cut(3)
    with through(proxy) as sock:
        sock.sendall(b"0123456789")
        assert exactly(sock, 10) in {b"", b"012"}  # the echo may be under way when both ends go
    assert proxy.bytes_up == 3


def test_swallow(proxy: FaultProxy, echo: Echo) -> None:
    """Everything is taken and nothing arrives, not even the end; later bytes do, if it stops."""
    with through(proxy) as sock:
        proxy.up = Swallow()
        sock.sendall(b"x" * 20_000_000)  # more than any buffer: it is read
        assert nothing_comes(sock)
        proxy.up = Pass()
        sock.sendall(b"y")
        assert exactly(sock, 1) == b"y"
        proxy.up = Swallow()
        sock.shutdown(socket.SHUT_WR)
        assert not echo.ended.wait(0.05)


def test_blackhole(echo: Echo) -> None:
    """Nothing is read, so that the sender stalls; what was held arrives once it ends."""
    with FaultProxy(echo.address, buffer=4096) as proxy, through(proxy, timeout=0.1) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.sendall(b"a")
        assert exactly(sock, 1) == b"a"
        proxy.up = Blackhole()
        sent = 0
        with suppress(TimeoutError):
            while sent < 1_000_000:
                sent += sock.send(b"x" * 1000)
        assert sent < 1_000_000
        proxy.up = Pass()
        sock.settimeout(5)
        assert exactly(sock, sent) == b"x" * sent


def test_blackhole_holds_what_is_under_way(proxy: FaultProxy) -> None:
    """Bytes that the proxy has read before the fault wait in it."""
    proxy.up = Latency(0.3)
    with through(proxy) as sock:
        sock.sendall(b"x")
        [link] = proxy.wait_links(1)
        while not link.up.waiting:
            time.sleep(0.001)
        proxy.up = Blackhole()
        assert nothing_comes(sock, 0.4)
        proxy.up = Pass()
        assert exactly(sock, 1) == b"x"


def test_blackhole_in_one_direction(proxy: FaultProxy, echo: Echo) -> None:
    """The other direction goes on."""
    with through(proxy) as sock:
        proxy.down = Blackhole()
        sock.sendall(b"x")
        assert nothing_comes(sock)
        sock.shutdown(socket.SHUT_WR)
        assert echo.ended.wait(5)
        proxy.down = Pass()
        assert exactly(sock, 2) == b"x"


@pytest.mark.parametrize("mode", [Blackhole(), Swallow(), WithholdFin()])
def test_ends_are_held_back(proxy: FaultProxy, mode: Mode) -> None:
    """A client does not learn that the server has gone until the fault is over."""
    with through(proxy) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"
        proxy.down = mode
        sock.shutdown(socket.SHUT_WR)
        assert nothing_comes(sock)
        proxy.down = Pass()
        assert sock.recv(1) == b""


def test_withheld_fin_lets_bytes_pass(proxy: FaultProxy) -> None:
    """Only the end is withheld."""
    proxy.both(WithholdFin())
    with through(proxy) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"


def test_held_back_reset_of_the_server() -> None:
    """A server's RST does not pass a half-open connection either."""
    with (
        StreamServer() as server,
        FaultProxy(server.url) as proxy,
        connect(proxy.url, close_timeout=0.05) as client,
    ):
        server.wait_connected(1)
        proxy.down = Blackhole()
        server.abort()
        for _ in range(3):  # nor does what one learns by writing to the dead
            client.send("into the void")
            with pytest.raises(TimeoutError):
                client.recv(timeout=0.02)


def test_ends_pass_as_they_are(proxy: FaultProxy, echo: Echo) -> None:
    """An RST of the client reaches the server as RST."""
    with through(proxy) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert echo.ended.wait(5)
    assert echo.ends == ["rst"]


def test_reset(proxy: FaultProxy) -> None:
    """Living connections are reset at once, new ones as they come."""
    with through(proxy) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"
        proxy.up = Reset()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with pytest.raises(ConnectionResetError), through(proxy) as sock:
        sock.recv(1)
    proxy.up = Pass()
    with through(proxy) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"


def test_refuse(proxy: FaultProxy) -> None:
    """New connections are refused by the system, living ones go on; then on the same port."""
    with through(proxy) as sock:
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError), through(proxy):
            pass
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"
        proxy.accept()
        proxy.accept()
        with through(proxy) as other:
            other.sendall(b"y")
            assert exactly(other, 1) == b"y"


def test_a_refused_port_is_not_free(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(OSError, match="in use"):
        socket.create_server((proxy.host, proxy.port))


def test_refusing_keeps_what_the_system_has_accepted(proxy: FaultProxy) -> None:
    """A connection that the proxy has not looked at yet lives on, too."""

    def connect_and_refuse() -> socket.socket:
        sock = socket.create_connection((proxy.host, proxy.port), timeout=5)
        proxy.refuse()
        return sock

    # On the proxy's own loop, which cannot accept meanwhile.
    with proxy._loop.call(connect_and_refuse) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 1) == b"x"


def test_sever(proxy: FaultProxy) -> None:
    """All living connections end at once, by RST or FIN; new ones are welcome."""
    with through(proxy) as one, through(proxy) as two:
        proxy.wait_links(2)
        proxy.sever()
        assert all(link.closed.is_set() for link in proxy.links)
        for sock in (one, two):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    with through(proxy) as sock:
        proxy.wait_links(3)
        proxy.sever("fin")
        assert sock.recv(1) == b""
    assert len(proxy.links) == 3


def test_target_that_refuses() -> None:
    """Where the target is down, connections through the proxy are reset."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = ("127.0.0.1", int(closed.getsockname()[1]))
    with (
        FaultProxy(address) as proxy,
        pytest.raises(ConnectionResetError),
        through(proxy) as sock,
    ):
        sock.recv(1)


def test_modes_for_new_connections(echo: Echo) -> None:
    """Modes given at the start hold for the first connection."""
    with FaultProxy(echo.address, up=Cut(2), down=Pass()) as proxy, through(proxy) as sock:
        sock.sendall(b"0123")
        exactly(sock, 4)
        assert proxy.bytes_up == 2


def test_wait_links_says_how_many_came(proxy: FaultProxy) -> None:
    """A wait in vain tells what there is."""
    with pytest.raises(TimeoutError, match="0 of 1"):
        proxy.wait_links(1, timeout=0.01)
