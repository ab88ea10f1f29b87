"""
Every error of the package.

::

    DataStreamError
    ├─ ConfigurationError (ValueError)   an option or URL is invalid     raised by constructors
    ├─ NotConnectedError                 there is no connection          raised by send(), …
    ├─ SendTimeoutError (TimeoutError)   the server stopped reading      raised, reported
    ├─ HandshakeError                    the server refused: .status     reported, kept in .error
    │  └─ UnauthorizedError              … with 401 or 403               reported, kept in .error
    ├─ StreamClosedError                 the connection ended: .code     reported, kept in .error
    ├─ ReconnectError                    the client failed: .attempts    kept in .error
    ├─ DecodeError (ValueError)          the payload is invalid          raised by Message.json()
    ├─ EncodeError (ValueError)          JSON has no such value          raised by send(), …
    ├─ HandlerError                      a handler raised: .message      reported
    ├─ InboxOverflowError                messages were dropped           reported
    ├─ SpoolError                        the spool file is unusable      reported, kept in .error
    └─ LeaseError                        the lease store is unavailable  reported

A *reported* error is passed to ``on_error`` hooks and to ``errors()``, and the stream continues.
An error *kept in .error* has made the client fail. :class:`Postponed` isn't an error. A handler
raises it to get the same message again later.

The text of an error never contains a header value, a query string, user information or a payload.
Text from the server is escaped and shortened.
"""

from __future__ import annotations

import os
import re
import ssl
from typing import Any

from .base_errors import (
    ConfigurationError,
    DataStreamError,
    DecodeError,
    EncodeError,
    NotConnectedError,
)
from .messages import Message
from .redaction import peer_text

__all__ = [
    "ConfigurationError",
    "DataStreamError",
    "DecodeError",
    "EncodeError",
    "HandlerError",
    "HandshakeError",
    "InboxOverflowError",
    "LeaseError",
    "NotConnectedError",
    "Postponed",
    "ReconnectError",
    "SendTimeoutError",
    "SpoolError",
    "StreamClosedError",
    "UnauthorizedError",
]


ERRNO = re.compile(r"\[Errno -?\d+\] ")
CONNECT_FAILED = re.compile(r"Connect call failed \('([^']*)', (\d+)[^)]*\)")  # asyncio's text
TLS_NUMBERS = re.compile(r"^\[\w+(?:: \w+)?\] | \(_ssl\.c:\d+\)$")  # of OpenSSL and Python
FAILED = "no connection to"
LONGEST_SECONDS = 1e9  # locks, timers and selectors can't wait longer than about 9e9


class SendTimeoutError(DataStreamError, TimeoutError):
    """The write queue made no progress for ``write_timeout`` seconds."""


class HandshakeError(DataStreamError):
    """
    The opening handshake failed.

    Attributes:
        status: The HTTP status of the response. ``None`` if there was no HTTP response.
        retry_after: Seconds that the server asked the client to wait, at most 300, or ``None``.

    """

    def __init__(
        self, text: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class UnauthorizedError(HandshakeError):
    """The server responded to the handshake with 401 or 403."""


class StreamClosedError(DataStreamError):
    """
    A connection ended.

    Attributes:
        code: The server's close code (RFC 6455 section 7.4), or 1006 if there was none. If the
            client ended the connection because of the server's error, it's the client's code
            (1002, 1007 or 1009).
        reason: The server's reason, escaped and shortened. It may be empty.

    """

    def __init__(self, code: int, reason: str = "", text: str | None = None) -> None:
        self.code = code
        self.reason = peer_text(reason)
        said = f": {self.reason}" if self.reason else ""
        super().__init__(text or f"connection closed with code {code}{said}")


class ReconnectError(DataStreamError):
    """
    The client gave up after ``max_reconnect_attempts`` failed attempts.

    Attributes:
        attempts: The number of consecutive failed attempts, including the first one.

    The last failure is the ``__cause__``.
    """

    def __init__(self, text: str, *, attempts: int) -> None:
        super().__init__(text)
        self.attempts = attempts


class HandlerError(DataStreamError):
    """
    A handler or hook raised an exception, which is the ``__cause__``.

    Attributes:
        messages: All messages of a batch, or the one message. A hook has none.
        handler: The callable that raised the exception.
        still_running: Whether the handler is still running after ``handler_timeout``, without an
            exception. It may still succeed. The ``__cause__`` shows where it is.

    """

    def __init__(
        self,
        text: str,
        *,
        handler: Any,
        messages: tuple[Message, ...] = (),
        still_running: bool = False,
    ) -> None:
        super().__init__(text)
        self.handler = handler
        self.messages = messages
        self.still_running = still_running

    @property
    def message(self) -> Message | None:
        """The message, or the first one of a batch. ``None`` for a hook."""
        return self.messages[0] if self.messages else None


class InboxOverflowError(DataStreamError):
    """The inbox is full and ``overflow`` dropped messages or the connection."""


class SpoolError(DataStreamError):
    """The spool file cannot be opened, read or written."""


class LeaseError(DataStreamError):
    """The lease is lost, or its store is unavailable."""


class Postponed(Exception):
    """
    A request for the same message again, before any other. A handler raises it.

    Args:
        delay: Seconds until the handler is called again. A negative number counts as 0.

    """

    def __init__(self, delay: float = 1.0) -> None:
        self.delay = min(max(0.0, delay), LONGEST_SECONDS)
        super().__init__(self.delay)

    def __str__(self) -> str:
        return f"postponed for {self.delay:g} s"


def said(error: BaseException | None) -> str:
    """Return an error as one line for logs and stats, escaped and shortened."""
    if isinstance(error, ssl.SSLError):
        return tls_text(error)
    if isinstance(error, OSError):
        return network_text(error)
    text = ERRNO.sub("", peer_text(error)) if error is not None else ""
    if isinstance(error, DataStreamError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def network_text(error: OSError) -> str:
    """Return the text of an operating system or network error, without its errno."""
    text = CONNECT_FAILED.sub(_refusal, ERRNO.sub("", peer_text(error)))
    if isinstance(error, ConnectionRefusedError):
        text = text.replace(FAILED, "connection refused by")
    elif error.errno and error.errno > 0:
        text = text.replace(FAILED, f"{os.strerror(error.errno).lower()} at")
    if type(error).__name__ == "gaierror" and error.strerror:
        return f"the host name cannot be resolved: {text}"
    return text or type(error).__name__


def tls_text(error: ssl.SSLError) -> str:
    """Return a TLS error in words, without OpenSSL's names for it."""
    text = TLS_NUMBERS.sub("", peer_text(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        of_proxy = "the proxy's certificate" in text
        whose = "the proxy's certificate" if of_proxy else "the certificate"
        why = getattr(error, "verify_message", None) or text.removeprefix(f"{whose}: ")
        return f"{whose} is not trusted: {peer_text(why)}"
    if not error.args:
        return f"TLS failed: {type(error).__name__}"
    return text if text.startswith("the ") else f"TLS failed: {text}"


def _refusal(failed: re.Match[str]) -> str:
    host, port = failed.groups()
    return f"{FAILED} [{host}]:{port}" if ":" in host else f"{FAILED} {host}:{port}"
