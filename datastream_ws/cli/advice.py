"""What a failed step of ``check`` means, and what to do about it. Pure."""

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

# Of X509_V_ERR_… (OpenSSL, x509_vfy.h).
NOT_YET_VALID, EXPIRED, SELF_SIGNED, SELF_SIGNED_ROOT, NO_ISSUER = 9, 10, 18, 19, 20
OTHER_HOST, OTHER_ADDRESS = 62, 64
UNTRUSTED = "give its authority's certificate with --cacert FILE (in programs: the option ssl)"
PROXY_UNTRUSTED = (
    "give its authority's certificate with --proxy-cacert FILE (in programs: the option proxy_ssl)"
)
CERTIFICATE_ADVICE = {
    NOT_YET_VALID: "it begins later: is this machine's clock right?",
    EXPIRED: "the server needs a new one; or this machine's clock is wrong",
    SELF_SIGNED: UNTRUSTED,
    SELF_SIGNED_ROOT: UNTRUSTED,
    NO_ISSUER: f"{UNTRUSTED}; if it is a public one, the server does not send its whole chain",
    OTHER_HOST: "use the host name that the certificate is for, or have the server get another",
    OTHER_ADDRESS: "use the host name that the certificate is for, not an address",
}
# Alerts by which a server refuses a client, by OpenSSL's names.
CLIENT_CERTIFICATE = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not trust the client certificate's authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the client certificate is revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server does not accept the client certificate",
}
CLIENT_CERTIFICATE_ADVICE = (
    "pass one that it accepts with --cert FILE --key FILE (in programs: the option ssl)"
)
STATUS_ADVICE = {
    400: "the server does not like the request: look at path, query, headers and --subprotocol",
    401: "send credentials, -H 'Authorization: Bearer …'; if you do, they are wrong or too old",
    403: "the credentials do not allow this stream, or the server wants a certain Origin header",
    404: "look at the path of the URL",
    405: "check the path of the URL: this one is not a WebSocket",
    407: "the proxy wants a user and password: HTTPS_PROXY=http://user:password@host:port",
    426: "the server wants another protocol version: is it a WebSocket server?",
    429: "too many attempts; wait, then try again",
}


class Trouble(Exception):
    """Why a step failed, and what to do."""

    def __init__(self, text: str, advice: str) -> None:
        super().__init__(text)
        self.text = text
        self.advice = advice


def lookup_trouble(host: str, error: BaseException) -> Trouble:
    """A name that cannot be looked up."""
    name = peer_text(host)
    if isinstance(error, TimeoutError):
        return Trouble(f"no answer on {name}", "the name server is away: look at your network")
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return Trouble(
            f"{name} cannot be looked up now",
            "the name server does not answer: is this machine online, is a VPN needed?",
        )
    return Trouble(f"there is no host {name}", "look at the spelling; is a VPN needed?")


def reach_trouble(address: str, port: int, error: OSError, *, via_proxy: bool) -> Trouble:
    """An address that cannot be connected to."""
    where = f"{address} port {port}"
    what = "the proxy" if via_proxy else "the server"
    if isinstance(error, ConnectionRefusedError):
        return Trouble(
            f"{where} refuses the connection: no server is listening there",
            f"is {what} running, is the port right?",
        )
    if isinstance(error, TimeoutError):
        return Trouble(f"{where} does not answer", "a firewall may be in between, or it is down")
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Trouble(f"there is no way to {where}", "is this machine online, is a VPN needed?")
    return Trouble(f"{where}: {error.strerror or said(error)}", "look at your network")


def tls_trouble(host: str, error: BaseException) -> Trouble:
    """A TLS handshake, or the proxy's tunnel for it, that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_trouble(error)
    reason = getattr(error, "reason", None) or ""
    if reason in CLIENT_CERTIFICATE:
        return Trouble(CLIENT_CERTIFICATE[reason], CLIENT_CERTIFICATE_ADVICE)
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return Trouble("the server does not speak TLS on this port", "is it ws:// there?")
    if isinstance(error, ssl.SSLEOFError):
        return Trouble("the server hung up on TLS", "is it ws:// there, is the port right?")
    if isinstance(error, ssl.SSLError):
        return Trouble(f"no agreement on TLS: {reason or said(error)}", "is the port right?")
    if isinstance(error, TimeoutError):
        return Trouble("no answer to the TLS handshake", "is it the right port?")
    text = peer_text(error)
    if "407" in text:
        return Trouble("the proxy wants credentials (407)", STATUS_ADVICE[407])
    if text.startswith("Tunnel"):
        return Trouble(f"the proxy refuses to connect: {text}", "does it allow this host?")
    return Trouble(f"the server hung up: {said(error)}", "is it the right port?")


def hung_up_trouble() -> Trouble:
    """A connection that ended right behind the TLS handshake, without an alert."""
    text = "the server hung up after the TLS handshake"
    return Trouble(text, f"if it requires a client certificate, {CLIENT_CERTIFICATE_ADVICE}")


def _certificate_trouble(error: ssl.SSLCertVerificationError) -> Trouble:
    of_proxy = "the proxy's certificate" in str(error)
    whose = "the proxy's certificate" if of_proxy else "the certificate"
    advice = CERTIFICATE_ADVICE.get(error.verify_code, UNTRUSTED)
    if of_proxy:
        advice = advice.replace(UNTRUSTED, PROXY_UNTRUSTED).replace("the server", "the proxy")
    return Trouble(f"{whose} is not accepted: {error.verify_message}", advice)


def certificate_text(certificate: Mapping[str, Any], now: float) -> str:
    """Say whose certificate it is, and how long it is good; *now* in UNIX time."""
    names = _name(certificate.get("subject")) or "no name"
    issuer = _name(certificate.get("issuer")) or "unknown"
    text = f"certificate of {names} by {issuer}"
    with_end = certificate.get("notAfter")
    if not isinstance(with_end, str):
        return text
    days = int((ssl.cert_time_to_seconds(with_end) - now) // DAY)
    return f"{text}, good for {days} day{'' if days == 1 else 's'}"


def _name(parts: Any) -> str:
    found = {key: value for part in parts or () for key, value in part}
    return str(found.get("commonName") or found.get("organizationName") or "")


def handshake_trouble(url: str, error: BaseException | None) -> Trouble:
    """A WebSocket handshake that failed, or a connection that ended right after it."""
    if isinstance(error, ReconnectError):  # after the one attempt that it had
        error = error.__cause__
    text = said(error)
    if isinstance(error, HandshakeError):
        return Trouble(text, _handshake_advice(url, error))
    if isinstance(error, StreamClosedError):
        why = f"the server ended the connection at once: {text}"
        advice = "its reason, if any, says why; often it is the credentials"
        return Trouble(why, advice)
    if isinstance(error, ssl.SSLError):
        return tls_trouble(url, error)
    if isinstance(error, TimeoutError):
        return Trouble("no answer to the handshake", "the server accepts, and says nothing: is it "
                       "a WebSocket server, is it overloaded?")  # fmt: skip
    return Trouble(text, "is it the right port?")


def _handshake_advice(url: str, error: HandshakeError) -> str:
    status = error.status
    if status is None or status == 400:
        other = "is it wss:// there?" if url.startswith("ws:") else "is it a WebSocket server?"
        return f"{STATUS_ADVICE[400]}; {other}" if status else other
    if status in STATUS_ADVICE:
        return STATUS_ADVICE[status]
    if status < 300:
        return "an ordinary web page is there, no WebSocket: look at host and path"
    if status < 400:
        return "write the URL that it is redirected to"
    return "the server has trouble of its own; try again later" if status >= 500 else "ask for help"
