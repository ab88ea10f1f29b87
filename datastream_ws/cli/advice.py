"""The explanation of a failed step of ``check``, with advice."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from .. import HandshakeError, ReconnectError, StreamClosedError
from ..embedding import peer_text, said

__all__ = [
    "Trouble",
    "certificate_text",
    "handshake_trouble",
    "hung_up_trouble",
    "lookup_trouble",
    "reach_trouble",
    "tls_trouble",
]

DAY = 86_400.0

# Values of X509_V_ERR_… (OpenSSL, x509_vfy.h).
NOT_YET_VALID, EXPIRED, SELF_SIGNED, SELF_SIGNED_ROOT, NO_ISSUER = 9, 10, 18, 19, 20
OTHER_HOST, OTHER_ADDRESS = 62, 64
UNTRUSTED = "pass its CA certificate with --cacert FILE (in programs: the option ssl)"
PROXY_UNTRUSTED = (
    "pass its CA certificate with --proxy-cacert FILE (in programs: the option proxy_ssl)"
)
CERTIFICATE_ADVICE = {
    NOT_YET_VALID: "it isn't valid yet; check the clock of this machine",
    EXPIRED: "renew it on the server, or check the clock of this machine",
    SELF_SIGNED: UNTRUSTED,
    SELF_SIGNED_ROOT: UNTRUSTED,
    NO_ISSUER: f"{UNTRUSTED}; if the CA is public, have the server send its whole chain",
    OTHER_HOST: "use the host name of the certificate, or have the server use another certificate",
    OTHER_ADDRESS: "use the host name of the certificate, not an address",
}
# TLS alerts with which a server refuses a client certificate, by OpenSSL's names.
CLIENT_CERTIFICATE = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not trust the client certificate's authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server refuses the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the client certificate is revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server refuses the client certificate",
}
CLIENT_CERTIFICATE_ADVICE = (
    "pass a valid one with --cert FILE --key FILE (in programs: the option ssl)"
)
STATUS_ADVICE = {
    400: "check the path, query, headers and --subprotocol",
    401: "send valid credentials, such as -H 'Authorization: Bearer …'",
    403: "check that the credentials allow this stream, or send the Origin header that it requires",
    404: "check the path of the URL",
    405: "check the path of the URL, because this one is not a WebSocket",
    407: "set a valid user and password, HTTPS_PROXY=http://user:password@host:port",
    426: "check that this is a WebSocket server, because it requires another protocol version",
    429: "wait, then retry, because there were too many attempts",
}


class Trouble(Exception):
    """The reason why a step failed, and the advice."""

    def __init__(self, text: str, advice: str) -> None:
        super().__init__(text)
        self.text = text
        self.advice = advice


def lookup_trouble(host: str, error: BaseException) -> Trouble:
    """Explain a failed DNS lookup."""
    name = peer_text(host)
    if isinstance(error, TimeoutError):
        return Trouble(
            f"no response for {name}", "check the network, because no name server responds"
        )
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return Trouble(
            f"{name} cannot be resolved now",
            "check that this machine is online, and whether it needs a VPN",
        )
    return Trouble(
        f"the host {name} does not exist", "check the spelling, and whether you need a VPN"
    )


def reach_trouble(address: str, port: int, error: OSError, *, via_proxy: bool) -> Trouble:
    """Explain a failed TCP connection."""
    where = f"{address} port {port}"
    what = "the proxy" if via_proxy else "the server"
    if isinstance(error, ConnectionRefusedError):
        return Trouble(
            f"connection refused by {where}; no server is listening there",
            f"check that {what} is running, and the port",
        )
    if isinstance(error, TimeoutError):
        return Trouble(f"{where} does not respond", f"check firewalls, and that {what} is running")
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Trouble(
            f"{where} is unreachable",
            "check that this machine is online, and whether it needs a VPN",
        )
    return Trouble(f"{where}: {error.strerror or said(error)}", "check the network")


def tls_trouble(host: str, error: BaseException) -> Trouble:
    """Explain a failed TLS handshake, or a failed tunnel through a proxy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_trouble(error)
    reason = getattr(error, "reason", None) or ""
    if reason in CLIENT_CERTIFICATE:
        return Trouble(CLIENT_CERTIFICATE[reason], CLIENT_CERTIFICATE_ADVICE)
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return Trouble("the server does not use TLS on this port", "check the port, or use ws://")
    if isinstance(error, ssl.SSLEOFError):
        return Trouble(
            "the server closed the connection during the TLS handshake",
            "check the port, or use ws://",
        )
    if isinstance(error, ssl.SSLError):
        return Trouble(f"the TLS handshake failed: {reason or said(error)}", "check the port")
    if isinstance(error, TimeoutError):
        return Trouble("no response to the TLS handshake", "check the port")
    text = peer_text(error)
    if "407" in text:
        return Trouble("the proxy requires credentials (407)", STATUS_ADVICE[407])
    if text.startswith("Tunnel"):
        return Trouble(
            f"the proxy refuses to connect: {text}", "check that the proxy allows this host"
        )
    return Trouble(f"the server closed the connection: {said(error)}", "check the port")


def hung_up_trouble() -> Trouble:
    """Explain a connection that ended just after the TLS handshake, without an alert."""
    text = "the server closed the connection after the TLS handshake"
    return Trouble(text, f"if it requires a client certificate, {CLIENT_CERTIFICATE_ADVICE}")


def _certificate_trouble(error: ssl.SSLCertVerificationError) -> Trouble:
    of_proxy = "the proxy's certificate" in str(error)
    whose = "the proxy's certificate" if of_proxy else "the certificate"
    advice = CERTIFICATE_ADVICE.get(error.verify_code, UNTRUSTED)
    if of_proxy:
        advice = advice.replace(UNTRUSTED, PROXY_UNTRUSTED).replace("the server", "the proxy")
    return Trouble(f"{whose} is not trusted: {error.verify_message}", advice)


def certificate_text(certificate: Mapping[str, Any], now: float) -> str:
    """Return the subject, the issuer and the remaining days. *now* is the UNIX time."""
    names = _name(certificate.get("subject")) or "no name"
    issuer = _name(certificate.get("issuer")) or "unknown"
    text = f"certificate of {names} by {issuer}"
    with_end = certificate.get("notAfter")
    if not isinstance(with_end, str):
        return text
    days = int((ssl.cert_time_to_seconds(with_end) - now) // DAY)
    return f"{text}, valid for {days} day{'' if days == 1 else 's'}"


def _name(parts: Any) -> str:
    found = {key: value for part in parts or () for key, value in part}
    return str(found.get("commonName") or found.get("organizationName") or "")


def handshake_trouble(url: str, error: BaseException | None) -> Trouble:
    """Explain a failed WebSocket handshake, or a connection that ended just after it."""
    if isinstance(error, ReconnectError):  # the check makes only one attempt
        error = error.__cause__
    text = said(error)
    if isinstance(error, HandshakeError):
        return Trouble(text, _handshake_advice(url, error))
    if isinstance(error, StreamClosedError):
        why = f"the server closed the connection immediately: {text}"
        advice = "check the reason, if there is one, and the credentials"
        return Trouble(why, advice)
    if isinstance(error, ssl.SSLError):
        return tls_trouble(url, error)
    if isinstance(error, TimeoutError):
        return Trouble("no response to the handshake", "check that this is a WebSocket "
                       "server, and that it isn't overloaded")  # fmt: skip
    return Trouble(text, "check the port")


def _handshake_advice(url: str, error: HandshakeError) -> str:
    status = error.status
    if status is None or status == 400:
        other = "try wss://" if url.startswith("ws:") else "check that this is a WebSocket server"
        return f"{STATUS_ADVICE[400]}; {other}" if status else other
    if status in STATUS_ADVICE:
        return STATUS_ADVICE[status]
    if status < 300:
        return "check the host and the path, because this is a web page"
    if status < 400:
        return "use the URL that the server redirects to"
    if status >= 500:
        return "retry later, because the server has a problem"
    return "check the request with the operator of the server"
