"""The scripted byte server sends what the script says, however wrong that is."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time

import pytest
import trustme
from websockets.asyncio.client import connect as asyncio_connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidHeaderValue,
    InvalidStatus,
)
from websockets.sync.client import connect

from kit.rawserver import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Drain,
    Expect,
    ExpectFrame,
    Fin,
    Frame,
    RawServer,
    Respond,
    Rst,
    Script,
    Send,
    Sleep,
    Stall,
    Upgrade,
    WaitFor,
)


def bare(server: RawServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=5)


def test_valid_conversation() -> None:
    """With decent frames it is a decent server, and keeps what the client sent."""
    script: Script = [
        Upgrade(["X-Extra: yes"]),
        Frame(PING, b"?"),
        ExpectFrame(PONG),
        Frame(TEXT, "hello"),
        Frame(BINARY, b"\0" * 70_000),
        Frame(TEXT, "in ", fin=False),
        Frame(CONTINUATION, "two"),
        ExpectFrame(TEXT),
        Close(1000, "done"),
        ExpectFrame(CLOSE),
    ]
    with RawServer(script) as server, connect(server.url + "/path") as client:
        assert client.response is not None
        assert client.response.headers["X-Extra"] == "yes"
        assert [client.recv(timeout=5) for _ in range(3)] == ["hello", b"\0" * 70_000, "in two"]
        client.send("x" * 300)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)
        [connection] = server.connections
        assert connection.done.wait(5)
    assert connection.request.startswith(b"GET /path HTTP/1.1\r\n")
    assert connection.header("upgrade") == "websocket"
    assert [(f.opcode, f.payload[:9]) for f in connection.frames] == [
        (PONG, b"?"),
        (TEXT, b"xxxxxxxxx"),
        (CLOSE, b"\x03\xe8done"),
    ]
    assert connection.frames[-1].close_code == 1000
    assert connection.error is None


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Frame(TEXT, b"\xff"), 1007),
        (Frame(3), 1002),
        (Frame(TEXT, "x", rsv=2), 1002),
        (Frame(TEXT, "x", masked=True), 1002),
        (Frame(PING, b"x" * 126), 1002),
        (Frame(PING, fin=False), 1002),
        (Frame(CONTINUATION, b"orphan"), 1002),
        (Frame(TEXT, size=2**63 - 1), 1009),
        (Close(1005), 1002),
        (Frame(CLOSE, b"\3"), 1002),
        (Close(1000, b"\xff"), 1007),
        (Send(b"\x81\x02x"), None),
    ],
)
def test_invalid_frames(wrong: Frame | Send, code: int | None) -> None:
    """A client is told of each in its close frame, and the server has it on record."""
    end = ExpectFrame(CLOSE) if code else Fin()
    with RawServer([Upgrade(), wrong, end]) as server, connect(server.url) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)
        [connection] = server.connections
        assert connection.done.wait(5)
        assert [frame.close_code for frame in connection.frames] == ([code] if code else [])


def test_handshakes_that_are_none() -> None:
    """Wrong answers to the handshake, one connection after another; the last one repeats."""
    scripts: list[Script] = [
        [Respond(429, ["Retry-After: 2"], b"slow down")],
        [Respond(599)],
        [Upgrade(accept="wrong")],
        [Expect(), Send(b"SSH-2.0-OpenSSH\r\n")],
        [],
    ]
    errors = []
    with RawServer(*scripts) as server:
        for _ in range(6):
            with pytest.raises((InvalidHandshake, ConnectionClosed, ConnectionError)) as error:
                connect(server.url).__enter__()
            errors.append(error.value)
        times = server.times
    first, second = errors[:2]
    assert isinstance(first, InvalidStatus)
    assert isinstance(second, InvalidStatus)
    assert first.response.headers["Retry-After"] == "2"
    assert first.response.body == b"slow down"
    assert second.response.status_code == 599
    assert isinstance(errors[2], InvalidHeaderValue)
    assert len(times) == 6
    assert times == sorted(times)


def test_accepts_and_closes_at_once() -> None:
    """The empty script, which makes a careless client spin, ends connections by FIN."""
    with RawServer([]) as server:
        for _ in range(50):
            with bare(server) as sock:
                assert sock.recv(1) == b""
        assert len(server.wait_connections(50)) == 50


def test_fin_is_fin_whatever_is_unread() -> None:
    """A client that has sent something still sees FIN and no RST."""
    sent = threading.Event()
    with RawServer([WaitFor(sent), Fin()]) as server, bare(server) as sock:
        sock.sendall(b"x" * 100_000)
        sent.set()
        assert sock.recv(1) == b""
        [connection] = server.connections
        assert not connection.done.wait(0.05)  # closing now would reset what the client reads
        sock.close()
        assert connection.done.wait(5)
        assert connection.error is None


def test_rst() -> None:
    """The connection is reset after what was sent before."""
    with RawServer([Send(b"before"), Expect(b"!"), Rst()]) as server, bare(server) as sock:
        assert sock.recv(100) == b"before"
        sock.sendall(b"!")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_slow_bytes() -> None:
    """Bytes come one by one, as slowly as asked."""
    with RawServer([Send(b"slow", piece=1, pause=0.02), Fin()]) as server, bare(server) as sock:
        begun = time.monotonic()
        assert sock.makefile("rb").read() == b"slow"
        assert time.monotonic() - begun >= 0.06


def test_sleep_and_wait_for() -> None:
    """A script pauses for a time, or until the test says so."""
    event = threading.Event()
    with RawServer([Sleep(0.05), Send(b"a"), WaitFor(event), Send(b"b")]) as server:
        begun = time.monotonic()
        with bare(server) as sock:
            assert sock.recv(10) == b"a"
            assert time.monotonic() - begun >= 0.05
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(10)
            event.set()
            sock.settimeout(5)
            assert sock.recv(10) == b"b"


@pytest.mark.parametrize(
    "step", [Stall(), Drain(), Sleep(60), WaitFor(threading.Event()), Expect(), Fin()]
)
def test_stopping_ends_every_step(step: Stall) -> None:
    """However a script waits, the server stops at once and leaves nothing."""
    with RawServer([step]) as server:
        sock = bare(server)
        server.wait_connections(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    sock.close()


def test_client_that_leaves_early_is_recorded() -> None:
    """A script cut short says why."""
    with RawServer([Expect()]) as server:
        bare(server).close()
        [connection] = server.wait_connections(1)
        assert connection.done.wait(5)
        assert "client ended" in str(connection.error)


async def test_tls() -> None:
    """With a context the script runs inside TLS."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    script: Script = [Upgrade(), Frame(TEXT, "secret"), Close(), ExpectFrame(CLOSE)]
    with RawServer(script, ssl=server_side) as server:
        async with asyncio_connect(server.url, ssl=client_side) as client:
            assert await asyncio.wait_for(client.recv(), 5) == "secret"
            await client.wait_closed()


def test_wait_connections_says_how_many_came() -> None:
    """A wait in vain tells what there is."""
    with RawServer() as server, pytest.raises(TimeoutError, match="0 of 1"):
        server.wait_connections(1, timeout=0.01)
