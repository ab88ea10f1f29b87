"""The way to an open connection: proxies, and what an attempt that fails says."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidUpgrade,
    InvalidURI,
    ProxyError,
    SecurityError,
)

from datastream_ws import ClientOptions, ConfigurationError, HandshakeError
from datastream_ws.connection.endpoint import Endpoint
from datastream_ws.connection.opening import attempt_error, proxy_for
from datastream_ws.connection.websockets_engine import WebsocketsEngine
from kit.rawsteps import TEXT, Frame
from kit.wire import Wire

CANARY = "c4n4ry-s3cr3t"
PROXY = f"http://user:{CANARY}@192.0.2.9:3128"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (InvalidURI(CANARY, CANARY), ConfigurationError, "url: is not a WebSocket URL"),
        (InvalidProxy(CANARY, CANARY), ConfigurationError, "proxy: is not a valid proxy URL"),
        (ImportError(CANARY), ConfigurationError, "requires python-socks"),
        (EOFError(CANARY), HandshakeError, "closed the connection during the handshake"),
        (InvalidUpgrade("Upgrade", CANARY), HandshakeError, "not a WebSocket upgrade"),
        (InvalidMessage(CANARY), HandshakeError, "the response to the handshake is not valid HTTP"),
        (caused(InvalidMessage(CANARY), SecurityError(CANARY)), HandshakeError, "too large"),
        (
            InvalidHandshake(CANARY),
            HandshakeError,
            "the response to the handshake is not valid HTTP",
        ),
        (InvalidProxyMessage(CANARY), HandshakeError, "the proxy's response is not valid HTTP"),
        (
            caused(ProxyError(CANARY), Exception("Username and password authentication failure")),
            ConfigurationError,
            "proxy: the SOCKS proxy refused",
        ),
        (
            caused(ProxyError(CANARY), Exception("Network unreachable")),
            HandshakeError,
            "the SOCKS proxy cannot connect: Network unreachable",
        ),
    ],
)
def test_what_failed_is_said_in_our_words(error: Exception, kind: type, text: str) -> None:
    ours = attempt_error(error, None)
    assert isinstance(ours, kind)
    assert text in str(ours)
    assert CANARY not in str(ours)


def test_errors_of_the_network_stay_what_they_are() -> None:
    error = ConnectionRefusedError(111, "Connection refused")
    assert attempt_error(error, None) is error
    reset = ConnectionResetError()
    assert isinstance(attempt_error(EOFError(), reset), HandshakeError)


def test_a_timeout_of_the_network_keeps_its_address() -> None:
    """The library has one text for all of them, which does not even say what timed out."""
    text = "Connect call failed ('192.0.2.1', 80)"
    with Wire() as wire:
        wire.fails_with = error = TimeoutError(110, text)
        opening = wire.begin()
        assert opening.exception() is error
    assert str(error) == "connection timed out at 192.0.2.1:80"


def alert(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] something")
    if reason is not None:
        error.reason = reason
    return error


def test_an_alert_behind_the_handshake_is_the_reason() -> None:
    required = alert("TLSV13_ALERT_CERTIFICATE_REQUIRED")
    error = attempt_error(InvalidMessage(""), required)
    assert error is required
    assert str(error).startswith("the server requires a client certificate. Load one")


# --- TLS --------------------------------------------------------------------------------------

NOT_TLS = "the server does not use TLS on this port, which may be for ws://"
ENDED = "the server ended the TLS handshake; the port may be for ws://"
RESET = "Connection reset by peer"


@pytest.mark.parametrize("proxy", [None, PROXY])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: alert("WRONG_VERSION_NUMBER"), NOT_TLS),
        (lambda: alert("CERTIFICATE_VERIFY_FAILED"), "something"),
        (lambda: ConnectionResetError(104, RESET), ENDED),
        (ConnectionResetError, ENDED),
        (lambda: OSError(113, "No route to host"), "No route to host"),
    ],
    ids=["speaks", "unverified", "resets", "hangs up", "unreachable"],
)
def test_wss_to_a_plain_port_says_so(
    proxy: str | None, make: Callable[[], OSError], text: str
) -> None:
    """Also through a proxy; other errors keep their words."""
    error = make()
    with Wire("wss://192.0.2.1/", proxy=proxy) as wire:
        wire.tls_fails_with = error
        opening = wire.begin()
        if proxy:
            wire.feed(b"HTTP/1.1 200 OK\r\n\r\n")
        assert opening.exception() is error
    assert text in str(error)
    assert "proxy" not in str(error)
    assert ("ws://" in str(error)) is (text in (ENDED, NOT_TLS))


@pytest.mark.parametrize("proxy", [None, PROXY, PROXY.replace("http", "https")])
def test_tls_may_take_as_long_as_open_timeout(proxy: str | None) -> None:
    """asyncio has a limit of its own, of 60 s."""
    with Wire("wss://192.0.2.1/", proxy=proxy, open_timeout=None) as wire:
        wire.begin()
        if proxy:
            wire.tunnel()
        assert wire.request.startswith(b"GET / ")
        limits = [seen.get("ssl_handshake_timeout") for _, seen in wire.dialled if "ssl" in seen]
    assert limits
    assert all(limit is not None and limit > 3600 for limit in limits)


# --- proxies ----------------------------------------------------------------------------------


def test_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "inside")
    assert proxy_for("ws://outside/") == PROXY
    assert proxy_for("ws://inside/") is None
    with Wire(proxy=True) as wire:
        wire.begin()
        assert wire.request.startswith(b"CONNECT 192.0.2.1:80 HTTP/1.1")
    monkeypatch.setenv("no_proxy", "192.0.2.1")
    with Wire(proxy=True) as wire:
        wire.open()
    assert wire.request.startswith(b"GET / ")


def test_through_a_proxy() -> None:
    """The tunnel first, with the proxy's password; then the handshake, without it."""
    with Wire(proxy=PROXY) as wire:
        wire.begin()
        assert b"Proxy-Authorization: Basic " in wire.request
        assert b"User-Agent: datastream-ws/" in wire.request
        wire.tunnel()
        assert b"Proxy-Authorization" not in wire.request
        wire.accept(Frame(TEXT, "hello").data)
    assert wire.messages == ["hello"]


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"HTTP/1.1 403 No\r\n\r\n", 403, "It does not allow this host"),
        (b"HTTP/1.0 407 No\r\n\r\n", 407, "Check the user and password"),
        (b"HTTP/1.1 502 No\r\n\r\n", 502, "the proxy responded with HTTP 502"),
        (b"220 smtp\r\n\r\n", None, "the proxy's response is not valid HTTP"),
    ],
)
def test_a_proxys_refusal_is_the_proxys(answer: bytes, status: int | None, text: str) -> None:
    with Wire(proxy=PROXY) as wire:
        opening = wire.begin()
        wire.feed(answer)
        error = opening.exception()
    assert isinstance(error, HandshakeError)
    assert error.status == status
    assert text in str(error)


UNVERIFIED = ssl.SSLCertVerificationError(1, "certificate verify failed")


@pytest.mark.parametrize(
    ("proxy", "error", "text"),
    [
        (PROXY, ConnectionRefusedError(111, "refused"), "the proxy: refused"),
        (PROXY, socket.gaierror(-2, "not known"), "the proxy: not known"),
        (PROXY, OSError("odd"), "the proxy: odd"),
        (PROXY, TimeoutError(110, "Connection timed out"), "the proxy: Connection timed out"),
        (PROXY.replace("http", "https"), UNVERIFIED, "the proxy's certificate: certificate"),
    ],
)
def test_what_keeps_us_from_the_proxy_says_so(proxy: str, error: OSError, text: str) -> None:
    with Wire(proxy=proxy) as wire:
        wire.fails_with = error
        opening = wire.begin()
        assert opening.exception() is error
    assert text in str(error)


def test_the_proxys_own_tls() -> None:
    """The option proxy_ssl is the context for an https proxy; for others it does not matter."""
    context = ssl.create_default_context()
    for scheme in ("http", "https"):
        with Wire(proxy=PROXY.replace("http", scheme), proxy_ssl=context) as wire:
            wire.begin()
            [(_, arguments)] = wire.dialled
        assert arguments.get("ssl") is (context if scheme == "https" else None)


# --- Unix sockets -----------------------------------------------------------------------------


def test_a_unix_socket_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of proxies."""
    monkeypatch.setenv("http_proxy", PROXY)
    with Wire("ws+unix:///run/feed.sock:/v1?x=1", proxy=True) as wire:
        wire.open()
        assert wire.addresses == ["/run/feed.sock"]
    assert b"GET /v1?x=1 HTTP/1.1\r\nHost: localhost\r\n" in wire.request


# --- without the hook -------------------------------------------------------------------------


def test_a_release_without_our_hook_is_read_the_slow_way() -> None:
    def unhooked(options: ClientOptions) -> WebsocketsEngine:
        return WebsocketsEngine(options, hooked=False)

    make: Callable[[ClientOptions], Any] = unhooked
    with Wire(make=make) as wire:
        wire.open(Frame(TEXT, "hello").data)
        wire.feed(Frame(TEXT, "again").data)
        wire.end()
    assert wire.messages == ["hello", "again"]
    assert wire.end_seen is not None
    assert Endpoint("ws://h/").headers == {}
