"""The StreamServer keeps its word, seen by the plain client of websockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect as asyncio_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from datastream_ws import Client
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


def closing(client: ClientConnection) -> ConnectionClosed:
    """Return how the connection ends."""
    with pytest.raises(ConnectionClosed) as ended:
        client.recv(timeout=5)
    return ended.value


def bare(server: StreamServer, more: bytes = b"") -> socket.socket:
    """Return a TCP connection that is upgraded, with *more* sent along with the request."""
    sock = socket.create_connection((server.host, server.port), timeout=5)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + more
    )
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
    return sock


def refused(server: StreamServer) -> Any:
    """Return the HTTP answer to a handshake that the server turns down."""
    with pytest.raises(InvalidStatus) as error, connect(server.url):
        pass
    return error.value.response


class TestMessages:
    def test_records_in_order_with_their_types(self, server: StreamServer) -> None:
        """str and bytes arrive as such, in order over all connections."""
        with connect(server.url) as one, connect(server.url) as two:
            one.send("a")
            server.wait_received(1)
            two.send(b"b")
            server.wait_received(2)
            one.send("c")
            assert server.wait_received(3) == ["a", b"b", "c"]
        assert [c.received for c in server.connections] == [["a", "c"], [b"b"]]

    def test_sends_text_bytes_and_json(self, server: StreamServer) -> None:
        """str is a text frame, bytes a binary one, the rest JSON; all open ones get it."""
        with connect(server.url) as one, connect(server.url) as two:
            for obj in ("text", b"bytes", bytearray(b"array"), {"type": "x", "n": [1]}):
                assert server.send(obj) == 2
            for client in (one, two):
                frames = [client.recv(timeout=5) for _ in range(4)]
                assert frames[:3] == ["text", b"bytes", b"array"]
                assert json.loads(frames[3]) == {"type": "x", "n": [1]}

    def test_send_says_how_many_are_open(self, server: StreamServer) -> None:
        """A message that nobody gets is seen by its sender."""
        assert server.send("nobody") == 0

    def test_send_to_one(self, server: StreamServer) -> None:
        """A connection's own send reaches it alone."""
        with connect(server.url) as one, connect(server.url) as two:
            first, second = server.wait_connected(2)
            first.send("first")
            second.send("second")
            assert (one.recv(timeout=5), two.recv(timeout=5)) == ("first", "second")

    def test_send_to_a_closed_connection_raises(self, server: StreamServer) -> None:
        """A connection that has ended says so, with its number."""
        with connect(server.url):
            [connection] = server.wait_connected(1)
        assert connection.closed.wait(5)
        with pytest.raises(ConnectionError, match="connection 1"):
            connection.send("late")

    def test_send_does_not_wait_for_a_client_that_does_not_read(self, server: StreamServer) -> None:
        """More than the system buffers is taken without blocking."""
        with bare(server):
            begun = time.monotonic()
            server.send(b"x" * 20_000_000)
            assert time.monotonic() - begun < 2

    def test_large_messages(self, server: StreamServer) -> None:
        """There is no size limit in the way of a test."""
        with connect(server.url) as client:
            client.send("x" * 3_000_000)
            assert server.wait_received(1) == ["x" * 3_000_000]

    def test_threads_may_send_at_once(self, server: StreamServer) -> None:
        """Frames of many threads come out whole."""
        with connect(server.url) as client:
            threads = [
                threading.Thread(target=lambda n=n: [server.send(f"{n}") for _ in range(50)])
                for n in range(8)
            ]
            for thread in threads:
                thread.start()
            got = [client.recv(timeout=5) for _ in range(400)]
            for thread in threads:
                thread.join()
        assert sorted(got) == sorted(str(n) for n in range(8) for _ in range(50))


class TestWaiting:
    def test_wait_received_names_what_came(self, server: StreamServer) -> None:
        """The error of a wait in vain shows the messages that did arrive."""
        with connect(server.url) as client:
            client.send("only this")
            server.wait_received(1)
            with pytest.raises(TimeoutError, match=r"1 of 2 messages.*'only this'"):
                server.wait_received(2, timeout=0.01)

    def test_wait_connected_names_the_answers(self, server: StreamServer) -> None:
        """The error of a wait in vain shows how the attempts were answered."""
        server.refuse(503)
        refused(server)
        with pytest.raises(TimeoutError, match=r"0 of 1 connections.*\[503\]"):
            server.wait_connected(1, timeout=0.01)

    def test_wait_connected_counts_ended_ones(self, server: StreamServer) -> None:
        """n counts from the beginning, so that a reconnection is number two."""
        for _ in range(2):
            with connect(server.url):
                pass
        assert [c.number for c in server.wait_connected(2)] == [1, 2]


class TestConnections:
    def test_path_headers_and_time(self, server: StreamServer) -> None:
        """A connection knows its request, and when it came."""
        before = time.monotonic()
        with connect(server.url + "/feed?since=3", additional_headers={"X-Key": "k"}):
            [connection] = server.wait_connected(1)
        assert connection.path == "/feed?since=3"
        assert connection.headers["x-key"] == "k"
        assert before <= connection.opened_at <= time.monotonic()

    @pytest.mark.parametrize("code", [1000, 1001, 4001])
    def test_close_code_of_the_client(self, server: StreamServer, code: int) -> None:
        """What the client sent is recorded, once all it sent was taken."""
        with connect(server.url) as client:
            for _ in range(100):
                client.send("x")
            client.close(code, "done")
        [connection] = server.wait_connected(1)
        assert connection.closed.wait(5)
        assert (connection.close_code, connection.close_reason) == (code, "done")
        assert len(connection.received) == 100

    def test_vanished_client_is_1006(self, server: StreamServer) -> None:
        """An end without a close frame is recorded as 1006."""
        bare(server).close()
        [connection] = server.wait_connected(1)
        assert connection.closed.wait(5)
        assert connection.close_code == 1006

    def test_subprotocol(self) -> None:
        """The server picks from the subprotocols it was given."""
        with (
            StreamServer(subprotocols=["v2", "v1"]) as server,
            connect(server.url, subprotocols=["v1", "v2"]) as client,  # type: ignore[list-item]
        ):
            assert client.subprotocol == "v2"

    @pytest.mark.parametrize(("compression", "extensions"), [("deflate", 1), (None, 0)])
    def test_compression(self, compression: str | None, extensions: int) -> None:
        """permessage-deflate is negotiated unless it is switched off."""
        with StreamServer(compression=compression) as server, connect(server.url) as client:
            assert len(client.protocol.extensions) == extensions

    @pytest.mark.parametrize("way", ["close", "abort", "drop"])
    async def test_tls(self, way: str) -> None:
        """With a context the server speaks wss://, and connections end there as well."""
        authority = trustme.CA()
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server_side)
        client_side = ssl.create_default_context()
        authority.configure_trust(client_side)
        # The blocking client of websockets reads and writes one SSLSocket from two threads at
        # once, and hangs once in a few hundred handshakes.
        with StreamServer(ssl=server_side) as server:
            assert server.url.startswith("wss://")
            async with asyncio_connect(server.url, ssl=client_side) as client:
                await client.send("secret")
                assert await asyncio.to_thread(server.wait_received, 1) == ["secret"]
                getattr(server, way)()
                with pytest.raises(ConnectionClosed) as ended:
                    await client.recv()
                assert (ended.value.rcvd is None) == (way != "close")


class TestEnding:
    def test_close_sends_code_and_reason(self, server: StreamServer) -> None:
        """All open connections get the close frame, and their answer is recorded."""
        with connect(server.url) as one, connect(server.url) as two:
            server.close(1012, "restart")
            for client in (one, two):
                received = closing(client).rcvd
                assert received is not None
                assert (received.code, received.reason) == (1012, "restart")
            for connection in server.connections:
                assert connection.closed.wait(5)
                assert connection.close_code == 1012

    def test_close_comes_after_what_was_sent(self, server: StreamServer) -> None:
        """Messages sent before the close frame arrive before it; later ones go nowhere."""
        with connect(server.url) as client:
            server.send("before")
            server.close()
            assert server.send("after") == 0
            assert client.recv(timeout=5) == "before"
            closing(client)

    @pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (1000, "x" * 124)])
    def test_close_refuses_what_no_frame_may_carry(
        self, server: StreamServer, code: int, reason: str
    ) -> None:
        """Reserved codes and long reasons fail where they are written."""
        with pytest.raises(ValueError, match="close"):
            server.close(code, reason)

    def test_abort_is_rst(self, server: StreamServer) -> None:
        """abort() resets the TCP connection, and the connection is closed on return."""
        with bare(server) as sock:
            server.wait_connected(1)
            server.abort()
            assert server.connections[0].closed.is_set()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)

    def test_abort_with_unread_bytes_is_rst(self, server: StreamServer) -> None:
        """abort() resets a muted connection as well."""
        with bare(server) as sock:
            server.mute()
            sock.sendall(b"\x81\x80\0\0\0\0")
            server.abort()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)

    def test_drop_is_fin(self, server: StreamServer) -> None:
        """drop() ends the TCP connection without RST and without a close frame."""
        with bare(server) as sock:
            server.drop()
            assert sock.recv(1) == b""

    def test_drop_is_fin_even_if_muted(self, server: StreamServer) -> None:
        """Bytes that were not read do not turn the FIN into an RST."""
        with bare(server) as sock:
            server.mute()
            sock.sendall(b"\x81\x80\0\0\0\0" * 100)
            server.drop()
            assert sock.recv(1) == b""

    def test_dropped_connection_takes_nothing(self, server: StreamServer) -> None:
        """What comes after drop() is not received, as with a process that died."""
        with bare(server) as sock:
            server.drop()
            assert sock.recv(1) == b""
            sock.sendall(b"\x81\x81\0\0\0\0x")
        assert server.connections[0].closed.wait(5)
        assert server.received == []

    def test_one_connection_may_be_ended_alone(self, server: StreamServer) -> None:
        """The ends exist for a single connection, too; the others live on."""
        with connect(server.url), connect(server.url) as two:
            first, second = server.wait_connected(2)
            first.abort()
            assert not first.is_open
            assert second.is_open
            server.send("still here")
            assert two.recv(timeout=5) == "still here"

    def test_ending_nothing_is_nothing(self, server: StreamServer) -> None:
        """Without connections, and when stopped, the ends do nothing."""
        for _ in range(2):
            server.close()
            server.abort()
            server.drop()
            server.stop()


class TestMute:
    def test_no_reads_and_no_pongs(self, server: StreamServer) -> None:
        """While muted nothing is taken and no ping is answered; then everything is."""
        with connect(server.url) as client:
            server.mute()
            client.send("held")
            pong = client.ping()
            assert not pong.wait(0.05)
            assert server.received == []
            server.unmute()
            assert pong.wait(5)
            assert server.wait_received(1) == ["held"]

    def test_muted_server_still_sends(self, server: StreamServer) -> None:
        """mute() is deafness, not dumbness."""
        with connect(server.url) as client:
            server.mute()
            server.send("hear me")
            assert client.recv(timeout=5) == "hear me"
            server.unmute()

    def test_connections_that_come_while_muted(self, server: StreamServer) -> None:
        """New handshakes stay unanswered, seen as attempts without status."""
        server.mute()
        with pytest.raises(TimeoutError), connect(server.url, open_timeout=0.1):
            pass
        assert [attempt.status for attempt in server.attempts] == [None]
        assert server.connections == []
        server.unmute()
        with connect(server.url):
            server.wait_connected(1)

    def test_flow_control_does_not_undo_it(self) -> None:
        """A backlog of messages that shrinks while muted starts no reading."""
        go_on = threading.Event()

        async def dawdle(connection: StreamConnection, data: str | bytes) -> None:
            await asyncio.to_thread(go_on.wait, 5)

        with StreamServer(on_message=dawdle) as server, connect(server.url) as client:
            for _ in range(100):
                client.send("backlog")
            assert client.ping().wait(5)
            server.mute()
            go_on.set()
            server.wait_received(100)
            assert not client.ping().wait(0.05)
            server.unmute()

    def test_small_receive_buffer_stalls_the_client(self) -> None:
        """With receive_buffer a writing client stalls soon after mute()."""
        with StreamServer(receive_buffer=4096) as server, bare(server) as sock:
            server.mute()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                sock.sendall(b"x" * 200_000)

    def test_stop_while_muted_is_quick(self, server: StreamServer) -> None:
        """A muted server does not wait for answers it would not read."""
        with connect(server.url):
            server.mute()
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 0.45  # GRACE is 0.5


class TestRefuse:
    def test_status_headers_and_body(self, server: StreamServer) -> None:
        """The answer is an HTTP response as asked for."""
        server.refuse(429, {"Retry-After": "2"}, body="slow down")
        response = refused(server)
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "2"
        assert response.body == b"slow down"

    def test_times(self, server: StreamServer) -> None:
        """After so many refusals the next handshake is accepted, and all are on record."""
        server.refuse(503, times=2)
        refused(server)
        refused(server)
        with connect(server.url):
            attempts = server.wait_attempts(3)
        assert [attempt.status for attempt in attempts] == [503, 503, 101]
        assert attempts[0].at < attempts[1].at < attempts[2].at

    def test_until_accept(self, server: StreamServer) -> None:
        """Without a number it refuses until accept()."""
        server.refuse(401)
        assert [refused(server).status_code for _ in range(3)] == [401] * 3
        server.accept()
        with connect(server.url):
            server.wait_connected(1)

    def test_open_connections_stay(self, server: StreamServer) -> None:
        """Only handshakes are refused."""
        with connect(server.url) as client:
            server.refuse(500)
            server.send("still here")
            assert client.recv(timeout=5) == "still here"

    def test_unregistered_status_and_repeated_headers(self, server: StreamServer) -> None:
        """Any status and any header lines can be had."""
        server.refuse(599, [("X-A", "1"), ("X-A", "2")])
        response = refused(server)
        assert response.status_code == 599
        assert response.headers.get_all("X-A") == ["1", "2"]

    def test_large_body_arrives_whole(self, server: StreamServer) -> None:
        """A body is not cut off by the end of the connection."""
        server.refuse(503, body=b"x" * 5_000_000)
        request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        request += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        with socket.create_connection((server.host, server.port), timeout=5) as sock:
            sock.sendall(request + b"\r\n")
            size = 0
            while data := sock.recv(65536):
                size += len(data)
        assert size > 5_000_000

    def test_101_is_no_refusal(self, server: StreamServer) -> None:
        """The one status that is none fails where it is written."""
        with pytest.raises(ValueError, match="accept"):
            server.refuse(101)


class TestLife:
    def test_stopped_server_is_refused_by_the_system(self, server: StreamServer) -> None:
        """After stop() the port is closed, and clients were told 1001."""
        with connect(server.url) as client:
            server.stop()
            received = closing(client).rcvd
        assert received is not None
        assert received.code == 1001
        with pytest.raises(ConnectionRefusedError):
            connect(server.url)

    def test_restart_keeps_port_and_records(self, server: StreamServer) -> None:
        """A restarted server has the same URL and remembers what was."""
        url = server.url
        with connect(url) as client:
            client.send("before")
            server.wait_received(1)
        server.restart()
        assert server.url == url
        with connect(url) as client:
            client.send("after")
            assert server.wait_received(2) == ["before", "after"]
        assert [c.number for c in server.wait_connected(2)] == [1, 2]

    def test_restart_while_connections_live(self, server: StreamServer) -> None:
        """The port can be had again at once, whatever state its old connections are in."""
        for n in (1, 2):
            with bare(server):
                server.wait_connected(n)
                server.restart()

    def test_start_and_stop_twice(self) -> None:
        """start() and stop() do nothing when that is how it is."""
        server = StreamServer()
        server.stop()
        server.start()
        port = server.port
        server.start()
        assert server.port == port
        server.stop()
        server.stop()

    def test_port_in_use(self, server: StreamServer) -> None:
        """A port that is taken is an error of start(), which leaves nothing behind."""
        with pytest.raises(OSError, match="in use"):
            StreamServer(port=server.port).start()

    def test_bad_option_leaves_nothing_behind(self) -> None:
        """An option that websockets does not know fails at start(), with thread and port gone."""
        with pytest.raises(TypeError, match="no_such"):
            StreamServer(no_such=1).start()

    def test_url_before_start(self) -> None:
        """Without a port there is no URL, and the error says what to do."""
        with pytest.raises(RuntimeError, match="start"):
            _ = StreamServer().url

    def test_send_when_stopped_raises(self) -> None:
        """A message for a server that does not run is an error, with the cure."""
        with pytest.raises(RuntimeError, match="start"):
            StreamServer().send("x")

    def test_muted_handshake_does_not_hold_up_stop(self, server: StreamServer) -> None:
        """TCP connections without a handshake end with the server."""
        with socket.create_connection((server.host, server.port), timeout=5) as sock:
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 1.5
            assert sock.recv(1) == b""

    def test_nothing_is_left(self, server: StreamServer) -> None:
        """With connections in every state stop() leaves nothing: the leak guard looks on."""
        with connect(server.url), bare(server), bare(server) as dropped:
            server.wait_connected(3)[2].drop()
            assert dropped.recv(1) == b""
            server.stop()
        assert not any(t.name == "StreamServer" for t in threading.enumerate())


class TestCallbacks:
    def test_on_connect_greets_before_the_first_message(self) -> None:
        """on_connect comes before on_message, and may send."""
        calls: list[str] = []

        def greet(connection: StreamConnection) -> None:
            calls.append("connect")
            connection.send("hello")

        def echo(connection: StreamConnection, data: str | bytes) -> None:
            calls.append(str(data))
            connection.send(data)

        with StreamServer(on_connect=greet, on_message=echo) as server:
            with bare(server, b"\x81\x81\0\0\0\0x"):
                server.wait_received(1)
            with connect(server.url) as client:
                assert client.recv(timeout=5) == "hello"
                client.send("echo")
                assert client.recv(timeout=5) == "echo"
        assert calls == ["connect", "x", "connect", "echo"]

    def test_coroutine_on_connect_runs_beside_the_connection(self) -> None:
        """A feed goes on while messages are taken, and ends with its connection."""
        ended = threading.Event()

        async def feed(connection: StreamConnection) -> None:
            try:
                for n in range(1_000_000):
                    connection.send(str(n))
                    await asyncio.sleep(0.001)
            finally:
                ended.set()

        with StreamServer(on_connect=feed) as server:
            with connect(server.url, max_queue=None) as client:
                client.send("taken")
                server.wait_received(1)
                assert [client.recv(timeout=5) for _ in range(3)] == ["0", "1", "2"]
            assert ended.wait(5)
        assert server.errors == []

    def test_callbacks_may_end_connections(self) -> None:
        """The ends work on the server's own loop."""

        def end(connection: StreamConnection, data: str | bytes) -> None:
            {"close": connection.close, "abort": connection.abort, "drop": connection.drop}[
                str(data)
            ]()

        with StreamServer(on_message=end) as server:
            for way in ("close", "abort", "drop"):
                with connect(server.url) as client:
                    client.send(way)
                    closing(client)

    def test_waiting_in_a_callback_raises(self) -> None:
        """What would block the server's loop for ever says so instead."""
        problems: list[str] = []

        def wait(connection: StreamConnection) -> None:
            for call in (lambda: running.wait_received(1), running.stop, running.restart):
                with pytest.raises(RuntimeError) as error:
                    call()
                problems.append(str(error.value))

        with StreamServer(on_connect=wait) as running, connect(running.url):
            running.wait_connected(1)
        assert len(problems) == 3
        assert all("another thread" in problem for problem in problems)

    @pytest.mark.parametrize("callback", ["on_connect", "on_message"])
    def test_failing_callback_fails_the_test(self, callback: str) -> None:
        """The connection is closed with 1011, and the exception leaves the with block."""

        def fail(*args: object) -> None:
            raise ZeroDivisionError("in the callback")

        codes: list[int] = []

        def run() -> None:
            options: dict[str, Any] = {callback: fail}
            with StreamServer(**options) as server, connect(server.url) as client:
                with suppress(ConnectionClosed):
                    client.send("x")
                received = closing(client).rcvd
                codes.append(received.code if received else 0)

        with pytest.raises(ZeroDivisionError, match="in the callback"):
            run()
        assert codes == [1011]

    def test_stuck_callback_does_not_hold_up_stop(self) -> None:
        """A coroutine that waits for ever is cancelled when the server stops."""

        async def wait(connection: StreamConnection, data: str | bytes) -> None:
            await asyncio.Event().wait()

        with StreamServer(on_message=wait) as server, connect(server.url) as client:
            client.send("x")
            server.wait_received(1)
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 3


def test_log_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The server's side writes no header and no payload into the log, not even at DEBUG."""
    caplog.set_level("WARNING", "websockets.client")  # the other side, and not ours
    caplog.set_level("DEBUG")
    with (
        StreamServer() as server,
        connect(server.url, additional_headers={"X-Key": "s3cret"}) as client,
    ):
        client.send("s3cret")
        server.wait_received(1)
    assert "s3cret" not in caplog.text


def test_keepalive_of_the_server() -> None:
    """With ping_interval the server pings, and closes when no pong comes."""
    with (
        StreamServer(ping_interval=0.05, ping_timeout=0.05, close_timeout=0.05) as server,
        bare(server) as sock,
    ):
        assert sock.recv(1) == b"\x89"
        assert server.connections[0].closed.wait(5)
        assert server.connections[0].close_code == 1006


def test_a_client_that_is_ready_has_its_connection_on_record(server: StreamServer) -> None:
    for number in range(1, 101):
        with Client(server.url) as client:
            client.wait_ready(10)
            assert len(server.connections) == number


FORK = """
import os, sys
from datastream_ws.testing import StreamServer

with StreamServer() as server:
    pid = os.fork()
    if not pid:
        try:
            server.send("to nobody")
        except RuntimeError:
            sys.exit(7)  # leaves the block
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_leaves_the_block() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
