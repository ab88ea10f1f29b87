"""What we make of a server's answers: our words for its refusals and its endings."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ..exceptions import HandshakeError, StreamClosedError, UnauthorizedError
from ..options import ClientOptions

__all__ = [
    "MOST_FRAGMENTS",
    "ResponseHeaders",
    "closed_by_peer",
    "cut_by_peer",
    "default_ssl_context",
    "peer_fault",
    "quiet_logger",
    "retry_after_seconds",
    "same_origin",
    "status_error",
    "tls_refusal",
]

LONGEST_RETRY_AFTER = 300.0  # seconds
MOST_FRAGMENTS = 4096  # of one message: empty ones cost memory, too, and no size limit ends them


class QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """The library prints headers, tokens, payloads and what peers say: nothing is made of it."""

    def isEnabledFor(self, level: int) -> bool:
        return False  # whatever matters ends a connection, and is reported with it


@functools.cache
def quiet_logger() -> QuietLogger:
    """Return the logger that is given to the library."""
    return QuietLogger(logging.getLogger("datastream_ws.engine"), {})


class ResponseHeaders(Mapping[str, str]):
    """The headers of an answer, by any spelling of their names; the ``repr`` shows no value."""

    __slots__ = ("_values",)

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in items:
            before = self._values.get(name.lower())
            self._values[name.lower()] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<headers: {', '.join(self._values)}>"


@functools.cache
def _verifying_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def default_ssl_context(options: ClientOptions) -> ssl.SSLContext:
    """Return the option's context, or one that verifies; made once, it reads many files."""
    return options.ssl if isinstance(options.ssl, ssl.SSLContext) else _verifying_context()


def same_origin(url: str, other: str) -> bool:
    """
    Whether two URLs share scheme, host and port, and name no user.

    False when one cannot be read. With a user the library would send an Authorization header.
    """
    try:
        return _origin(url) == _origin(other) and "@" not in urlsplit(url).netloc
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)


def tls_refusal(error: BaseException) -> ssl.SSLError | None:
    """Return the error of a server that refuses our TLS by an alert; ``None``: it is another."""
    reason = getattr(error, "reason", None)
    if not isinstance(error, ssl.SSLError) or "ALERT" not in str(reason):
        return None
    if reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
        text = "the server requires a client certificate. Load one into the context for ssl=…."
        error.args = (error.errno, text)
        error.strerror = text
    return error


def status_error(status: int, retry_after: str | None, now: datetime) -> HandshakeError:
    """Return the error of an HTTP answer that is no upgrade."""
    text = f"the server responded to the handshake with HTTP {status}"
    if status in (401, 403):
        return UnauthorizedError(f"{text}. Check the credentials in headers or url.", status=status)
    if 300 <= status < 400:
        text += (
            ", a redirect to another origin, which is not followed because it would get the headers"
        )
    wait = retry_after_seconds(retry_after, now) if retry_after is not None else None
    return HandshakeError(text, status=status, retry_after=wait)


def closed_by_peer(code: int, reason: str) -> StreamClosedError:
    """Return the error of a close frame that the peer sent first."""
    if code == 1009:
        text = "the server closed with 1009: a message from this client is too big for it"
        return StreamClosedError(code, reason, text)
    return StreamClosedError(code, reason)


def cut_by_peer(cause: BaseException | None) -> StreamClosedError:
    """Return the error of a connection that ended without a close frame."""
    error = StreamClosedError(1006, text="the connection was lost without a close frame")
    error.__cause__ = cause
    return error


def peer_fault(code: int, reason: str) -> StreamClosedError:
    """Return the error of a peer that broke the protocol or ``max_size``; *code* is ours."""
    if reason == "too many fragments":
        what = f"the server sent a message in more than {MOST_FRAGMENTS} fragments"
    elif code == 1009:
        what = "the server sent a message above max_size; raise the option max_size to take it"
    elif code == 1007:
        what = "the server sent a text message that is not UTF-8"
    else:
        what = f"the server broke the WebSocket protocol: {reason}"
    return StreamClosedError(code, text=f"{what} (closed with {code})")


def retry_after_seconds(value: str, now: datetime) -> float | None:
    """
    Read a Retry-After header: seconds or an HTTP date (RFC 9110 section 10.2.3).

    Returns:
        Seconds from *now*, in [0, 300]; ``None`` when it cannot be read.

    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # asctime's form, without a zone: HTTP dates are all GMT
            date = date.replace(tzinfo=UTC)
        seconds = (date.astimezone(UTC) - now).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
