"""What ``check`` says of each failure."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from datastream_ws import HandshakeError, ReconnectError, StreamClosedError, UnauthorizedError
from datastream_ws.cli.advice import (
    Trouble,
    certificate_text,
    handshake_trouble,
    lookup_trouble,
    reach_trouble,
    tls_trouble,
)


def said(trouble: Trouble) -> str:
    return f"{trouble.text}: {trouble.advice}"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "x"),
            "the host feed does not exist: check the spelling",
        ),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "cannot be resolved now"),
        (TimeoutError(), "no name server responds"),
    ],
)
def test_lookup(error: OSError, says: str) -> None:
    assert says in said(lookup_trouble("feed", error))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionRefusedError(), "check that the server is running, and the port"),
        (TimeoutError(), "check firewalls"),
        (OSError(errno.ENETUNREACH, "x"), "check that this machine is online"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_reach(error: OSError, says: str) -> None:
    assert says in said(reach_trouble("192.0.2.1", 443, error, via_proxy=False))
    assert "check that the proxy is running" in said(
        reach_trouble("192.0.2.1", 3128, ConnectionRefusedError(), via_proxy=True)
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("Tunnel connection failed: 407 Auth"), "HTTPS_PROXY=http://user:password@"),
        (OSError("Tunnel connection failed: 403 No"), "check that the proxy allows this host"),
        (ssl.SSLError("x"), "the TLS handshake failed"),
        (ssl.SSLEOFError("x"), "or use ws://"),
        (TimeoutError(), "no response to the TLS handshake"),
        (ConnectionResetError(), "the server closed the connection"),
    ],
)
def test_tls(error: OSError, says: str) -> None:
    assert says in said(tls_trouble("feed", error))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnauthorizedError("HTTP 401", status=401), "send valid credentials"),
        (UnauthorizedError("HTTP 403", status=403), "check that the credentials allow"),
        (HandshakeError("HTTP 404", status=404), "check the path"),
        (HandshakeError("HTTP 200", status=200), "this is a web page"),
        (HandshakeError("HTTP 302", status=302), "the URL that the server redirects to"),
        (HandshakeError("HTTP 407", status=407), "set a valid user"),
        (HandshakeError("HTTP 429", status=429), "too many attempts"),
        (HandshakeError("HTTP 503", status=503), "the server has a problem"),
        (HandshakeError("none", status=None), "try wss://"),
        (StreamClosedError(4401, "bad token"), "4401: bad token"),
        (TimeoutError("late"), "no response to the handshake"),
        (ConnectionResetError("reset"), "check the port"),
    ],
)
def test_handshake(error: Exception, says: str) -> None:
    assert says in said(handshake_trouble("ws://feed", error))
    gave_up = ReconnectError("gave up", attempts=1)
    gave_up.__cause__ = error
    assert says in said(handshake_trouble("ws://feed", gave_up))


def test_certificate() -> None:
    certificate = {
        "subject": ((("commonName", "feed.example"),),),
        "issuer": ((("organizationName", "An Authority"),),),
        "notAfter": "Jan 11 00:00:00 2030 GMT",
    }
    now = ssl.cert_time_to_seconds("Jan  1 00:00:00 2030 GMT")
    assert certificate_text(certificate, now) == (
        "certificate of feed.example by An Authority, valid for 10 days"
    )
    assert certificate_text({}, now) == "certificate of no name by unknown"
