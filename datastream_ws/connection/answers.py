"""Errors and texts for the ways in which a server refuses or ends a connection."""

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
MOST_FRAGMENTS = 4096  # of one message; max_size does not bound empty fragments, which cost memory


class QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that drops every record, because the library logs headers, tokens and payloads."""

    def isEnabledFor(self, level: int) -> bool:
        return False


@functools.cache
def quiet_logger() -> QuietLogger:
    """Return the logger to pass to the library."""
    return QuietLogger(logging.getLogger("datastream_ws.engine"), {})


class ResponseHeaders(Mapping[str, str]):
    """
    The headers of an HTTP response, with case-insensitive names.

    Values of a repeated header are joined with commas (RFC 9110 section 5.3). The ``repr`` shows no
    value, because a value may be a secret.
    """

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
    """
    Return the context of the option ``ssl``, or a verifying one.

    The verifying context is made once per process, because making it reads many files.
    """
    return options.ssl if isinstance(options.ssl, ssl.SSLContext) else _verifying_context()


def same_origin(url: str, other: str) -> bool:
    """
    Return whether two URLs share scheme, host and port, and *url* names no user.

    An invalid URL has no origin, so the result is false. A user in the URL does not count as the
    same origin, because the library would send an Authorization header for it.
    """
    try:
        return _origin(url) == _origin(other) and "@" not in urlsplit(url).netloc
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)


def tls_refusal(error: BaseException) -> ssl.SSLError | None:
    """Return *error* if it is the server's TLS alert (RFC 8446 section 6), otherwise ``None``."""
    reason = getattr(error, "reason", None)
    if not isinstance(error, ssl.SSLError) or "ALERT" not in str(reason):
        return None
    if reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
        text = "the server requires a client certificate. Load one into the context for ssl=…."
        error.args = (error.errno, text)
        error.strerror = text
    return error


def status_error(status: int, retry_after: str | None, now: datetime) -> HandshakeError:
    """
    Return the error for an HTTP response that is not an upgrade.

    Args:
        status: The HTTP status code.
        retry_after: Value of the header ``Retry-After``. ``None`` means that there is none.
        now: The current time, from which an HTTP date counts.

    """
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
    """Return the error for a close frame that the server sent first."""
    if code == 1009:
        text = "the server closed with 1009 because a message from this client is too big"
        return StreamClosedError(code, reason, text)
    return StreamClosedError(code, reason)


def cut_by_peer(cause: BaseException | None) -> StreamClosedError:
    """Return the error for a connection that ended without a close frame."""
    error = StreamClosedError(1006, text="the connection was lost without a close frame")
    error.__cause__ = cause
    return error


def peer_fault(code: int, reason: str) -> StreamClosedError:
    """
    Return the error for a server that broke the protocol or exceeded ``max_size``.

    Args:
        code: The close code that the client sent (RFC 6455 section 7.4.1).
        reason: The reason that the client sent with it.

    """
    advice = ""
    if reason == "too many fragments":
        what = f"the server sent a message in more than {MOST_FRAGMENTS} fragments"
    elif code == 1009:
        what = "the server sent a message above max_size"
        advice = ". Raise the option max_size to accept it."
    elif code == 1007:
        what = "the server sent a text message that is not UTF-8"
    else:
        what = f"the server broke the WebSocket protocol: {reason}"
    return StreamClosedError(code, text=f"{what} (closed with {code}){advice}")


def retry_after_seconds(value: str, now: datetime) -> float | None:
    """
    Parse the value of a ``Retry-After`` header (RFC 9110 section 10.2.3).

    The value is a number of seconds or an HTTP date.

    Returns:
        Seconds from *now*, from 0 to 300. ``None`` means that the value is invalid.

    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # the asctime form has no zone, and every HTTP date is in GMT
            date = date.replace(tzinfo=UTC)
        seconds = (date.astimezone(UTC) - now).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
