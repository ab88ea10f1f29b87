"""Certificates, TLS versions and proxies that do not let the client through."""

from __future__ import annotations

import re
import socket
import socketserver
import ssl
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import trustme

from datastream_ws import Client, HandshakeError, ReconnectError, State
from datastream_ws.exceptions import said
from datastream_ws.testing import StreamServer
from kit.rawserver import (
    Drain,
    RawConnection,
    RawServer,
    Respond,
    Script,
    Send,
    Stall,
    Upgrade,
)
from kit.seen import FAST, eventually

HURRY = FAST | {"max_reconnect_attempts": 3}
CA = trustme.CA()
TRUSTING = ssl.create_default_context()
CA.configure_trust(TRUSTING)


def serving(*names: str, **options: Any) -> ssl.SSLContext:
    """Return a server's context with a certificate for *names*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(*names, **options).configure_cert(context)
    return context


def failed(client: Client, timeout: float = 30.0) -> BaseException:
    """Start *client*, wait until it has failed, return why."""
    client.start()
    eventually(lambda: client.state is State.FAILED, timeout)
    client.close()
    assert client.error is not None
    assert client.stats().connections == 0
    return client.error


def life(server: RawServer) -> float:
    """How long the first connection lived, in seconds, as the server saw it."""
    [connection, *_] = server.connections
    assert connection.done.wait(30)
    assert connection.ended_at is not None
    return connection.ended_at - connection.opened_at


PAST = {
    "not_before": datetime(2019, 1, 1, tzinfo=UTC),
    "not_after": datetime(2020, 1, 1, tzinfo=UTC),
}
CERTIFICATES: dict[str, tuple[Callable[[], ssl.SSLContext], ssl.SSLContext | None]] = {
    "nobody vouches for it": (lambda: serving("127.0.0.1"), None),
    "expired": (lambda: serving("127.0.0.1", **PAST), TRUSTING),
    "for another name": (lambda: serving("elsewhere.invalid"), TRUSTING),
}


@pytest.mark.fault("20", "21", "22")
@pytest.mark.parametrize("case", CERTIFICATES)
def test_certificates_that_do_not_verify(case: str) -> None:
    """One attempt, and the client says why; no message was ever sent there."""
    context, trust = CERTIFICATES[case]
    with StreamServer(ssl=context()) as server:
        error = failed(Client(server.url, ssl=trust, headers={"Authorization": "s3cr3t"}, **HURRY))
        assert isinstance(error, ssl.SSLCertVerificationError)
        assert "s3cr3t" not in str(error)
        assert server.connections == []
    shown = said(error)
    assert shown.startswith("the certificate is not trusted: ")
    assert "SSL" not in shown
    assert "_ssl.c" not in shown


@pytest.mark.fault("21")
def test_a_renewed_certificate_heals_it() -> None:
    """With fatal_delay the client tries on slowly, and is there once the certificate is."""
    context = serving("127.0.0.1", **PAST)
    with (
        StreamServer(ssl=context) as server,
        Client(server.url, ssl=TRUSTING, fatal_delay=0.1, **HURRY) as client,
    ):
        eventually(lambda: client.stats().attempts >= 3)
        assert isinstance(client.error, ssl.SSLCertVerificationError)
        CA.issue_cert("127.0.0.1").configure_cert(context)
        client.wait_ready(30)


def wants_a_client_certificate() -> ssl.SSLContext:
    context = serving("127.0.0.1")
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def speaks_tls_1_1() -> ssl.SSLContext:
    context = serving("127.0.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def wants_one_in_tls_1_2() -> ssl.SSLContext:
    context = wants_a_client_certificate()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.fault("23", "24")
@pytest.mark.parametrize("context", [wants_one_in_tls_1_2, speaks_tls_1_1])
def test_servers_that_say_so_when_they_refuse_our_tls(
    context: Callable[[], ssl.SSLContext],
) -> None:
    """An alert is as final as a wrong certificate: one attempt."""
    with RawServer([Upgrade(), Stall()], ssl=context()) as server:
        error = failed(Client(server.url, ssl=TRUSTING, **HURRY))
        assert isinstance(error, ssl.SSLError)
        # OpenSSL 3.0 sends the former to a client that is too new, later ones the latter.
        assert re.search("alert (handshake failure|protocol version)", str(error))
        assert len(server.connections) == 1


@pytest.mark.fault("23", "24")
@pytest.mark.parametrize("context", [wants_a_client_certificate, speaks_tls_1_1])
def test_servers_that_refuse_our_tls_without_a_word(context: Callable[[], ssl.SSLContext]) -> None:
    """
    Never connected; attempts are counted and spaced, and the client gives up.

    A reset, or an end after the handshake, where TLS 1.3 puts its refusal, may be a restart.
    """
    with StreamServer(ssl=context()) as server:
        error = failed(Client(server.url, ssl=TRUSTING, **HURRY))
        assert isinstance(error, ReconnectError)
        assert error.attempts == 3
        assert server.connections == []


@pytest.mark.fault("25")
def test_a_tls_handshake_that_stalls() -> None:
    """open_timeout bounds it."""
    with RawServer([Drain()]) as server:
        url = f"wss://127.0.0.1:{server.port}"
        options = HURRY | {"max_reconnect_attempts": 1, "open_timeout": 0.5}
        error = failed(Client(url, **options))
        assert 0.4 <= life(server) <= 0.5 + 0.2
    assert isinstance(error.__cause__, TimeoutError)


@pytest.mark.fault("26")
def test_wss_to_a_plain_port_and_ws_to_a_tls_port() -> None:
    """Attempts are counted: a deploy may be under way."""
    with StreamServer() as plain, StreamServer(ssl=serving("127.0.0.1")) as secure:
        for url in (plain.url.replace("ws:", "wss:"), secure.url.replace("wss:", "ws:")):
            error = failed(Client(url, open_timeout=1.0, **HURRY))
            assert isinstance(error, ReconnectError)
            assert error.attempts == 3


class Deaf(socketserver.BaseRequestHandler):
    """What it has not read becomes a reset."""

    def handle(self) -> None:
        self.request.recv(1)


class Greeting(socketserver.BaseRequestHandler):
    """A server that speaks first, and not TLS."""

    def handle(self) -> None:
        self.request.sendall(b"220 feed ready\r\n")


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (Deaf, "the server ended the TLS handshake; the port may be for ws://"),
        (
            socketserver.BaseRequestHandler,
            "the server ended the TLS handshake; the port may be for ws://",
        ),
        (Greeting, "the server does not use TLS on this port, which may be for ws://"),
    ],
    ids=["resets", "hangs up", "speaks"],
)
def test_wss_to_a_plain_port_says_so(
    server: type[socketserver.BaseRequestHandler], says: str
) -> None:
    """A bare "ConnectionResetError" explains nothing."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), server) as plain:
        thread = threading.Thread(target=plain.serve_forever, args=(0.05,))
        thread.start()
        url = f"wss://127.0.0.1:{plain.server_address[1]}/"
        error = failed(Client(url, **HURRY | {"max_reconnect_attempts": 1}))
        plain.shutdown()
        thread.join()
    assert str(error) == f"gave up after 1 failed attempt; last error: {says}"


# --- proxies ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tunnel:
    """Answer the CONNECT; the next request is the handshake."""

    def run(self, connection: RawConnection) -> None:
        connection.read_request()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.request = b""


def through(proxy: str, **options: Any) -> Client:
    return Client("ws://feed.invalid/", **HURRY | {"proxy": proxy, "close_timeout": 0.2} | options)


@pytest.mark.fault("27")
@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses(status: int) -> None:
    """It will not change its mind: one attempt."""
    with RawServer([Respond(status)]) as proxy:
        error = failed(through(f"http://127.0.0.1:{proxy.port}"))
        assert len(proxy.connections) == 1
    assert isinstance(error, HandshakeError)
    assert error.status == status


@pytest.mark.fault("28")
@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_whose_upstream_is_down(status: int) -> None:
    """The next attempt may find it up."""
    script: Script = [Tunnel(), Upgrade(), Stall()]
    with (
        RawServer([Respond(status)], script) as proxy,
        through(f"http://127.0.0.1:{proxy.port}") as client,
    ):
        client.wait_ready(30)
        assert client.stats().attempts == 2


@pytest.mark.fault("29")
def test_a_proxy_that_is_away_or_silent() -> None:
    """Refused: attempts are counted. Silent, or silent after half an answer: open_timeout."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert isinstance(failed(through(f"http://127.0.0.1:{port}")).__cause__, OSError)
    scripts: list[Script] = [[Drain()], [Send(b"HTTP/1.1 200"), Drain()]]
    for script in scripts:
        with RawServer(script) as proxy:
            options = {"open_timeout": 0.5, "max_reconnect_attempts": 1}
            error = failed(through(f"http://127.0.0.1:{proxy.port}", **options))
            assert 0.4 <= life(proxy) <= 0.5 + 0.2
        assert isinstance(error.__cause__, TimeoutError)
