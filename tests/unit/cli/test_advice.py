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
        (socket.gaierror(socket.EAI_NONAME, "x"), "there is no host feed: look at the spelling"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the name server does not answer"),
        (TimeoutError(), "the name server is away"),
    ],
)
def test_lookup(error: OSError, says: str) -> None:
    assert says in said(lookup_trouble("feed", error))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionRefusedError(), "is the server running, is the port right?"),
        (TimeoutError(), "a firewall"),
        (OSError(errno.ENETUNREACH, "x"), "is this machine online"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_reach(error: OSError, says: str) -> None:
    assert says in said(reach_trouble("192.0.2.1", 443, error, via_proxy=False))
    assert "is the proxy running" in said(
        reach_trouble("192.0.2.1", 3128, ConnectionRefusedError(), via_proxy=True)
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("Tunnel connection failed: 407 Auth"), "HTTPS_PROXY=http://user:password@"),
        (OSError("Tunnel connection failed: 403 No"), "does it allow this host?"),
        (ssl.SSLError("x"), "no agreement on TLS"),
        (ssl.SSLEOFError("x"), "is it ws:// there"),
        (TimeoutError(), "no answer to the TLS handshake"),
        (ConnectionResetError(), "hung up"),
    ],
)
def test_tls(error: OSError, says: str) -> None:
    assert says in said(tls_trouble("feed", error))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnauthorizedError("HTTP 401", status=401), "send credentials"),
        (UnauthorizedError("HTTP 403", status=403), "credentials do not allow"),
        (HandshakeError("HTTP 404", status=404), "look at the path"),
        (HandshakeError("HTTP 200", status=200), "an ordinary web page"),
        (HandshakeError("HTTP 302", status=302), "the URL that it is redirected to"),
        (HandshakeError("HTTP 407", status=407), "the proxy wants a user"),
        (HandshakeError("HTTP 429", status=429), "too many attempts"),
        (HandshakeError("HTTP 503", status=503), "trouble of its own"),
        (HandshakeError("none", status=None), "is it wss:// there?"),
        (StreamClosedError(4401, "bad token"), "4401: bad token"),
        (TimeoutError("late"), "no answer to the handshake"),
        (ConnectionResetError("reset"), "is it the right port?"),
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
        "certificate of feed.example by An Authority, good for 10 days"
    )
    assert certificate_text({}, now) == "certificate of no name by unknown"
