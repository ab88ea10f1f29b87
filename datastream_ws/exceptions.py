"""
Every error of the package.

::

    DataStreamError
    ├─ ConfigurationError (ValueError)   an option or URL is wrong         raised by constructors
    ├─ NotConnectedError                 nothing to send on                raised by send(), …
    ├─ SendTimeoutError (TimeoutError)   the peer takes nothing any more   raised, reported
    ├─ HandshakeError                    .status: the server said no       reported, kept in .error
    │  └─ UnauthorizedError              401 or 403                        reported, kept in .error
    ├─ StreamClosedError                 .code, .reason: it ended          reported, kept in .error
    ├─ ReconnectError                    .attempts: gave up                kept in .error
    ├─ DecodeError (ValueError)          not what the codec reads          raised by Message.json()
    ├─ EncodeError (ValueError)          nothing that JSON has             raised by send(), …
    ├─ HandlerError                      .message, .handler, __cause__     reported
    ├─ InboxOverflowError                dropped: messages, a connection   reported
    ├─ SpoolError                        the spool file is unusable        raised, reported
    └─ LeaseError                        the lease store is unusable       reported

*Reported* means: given to ``on_error`` hooks and to ``errors()``; the stream goes on.
:class:`Postponed` is no error: a handler raises it to see the same message again later.

No text here carries a header value, a query string, userinfo or a payload; text from the
peer is escaped and cut (see ``datastream_ws.redaction``).
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


ERRNO = re.compile(r"\[Errno -?\d+\] ")  # the words behind it say the same
CONNECT_FAILED = re.compile(r"Connect call failed \('([^']*)', (\d+)[^)]*\)")  # asyncio's
FAILED = "no connection to"
LONGEST_DELAY = 1e9  # seconds; what locks can wait for ends at about 9e9


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
            client ended the connection because of an error of the server, the client's code
            (1002, 1007, 1009).
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
        message: The message that it handled, or the first one of a batch. ``None`` for a hook.
        messages: All messages of a batch, or the one message. Empty for a hook.
        handler: The callable that raised the exception.
        still_running: Whether it has raised nothing, but runs longer than ``handler_timeout``. It
            may still succeed. The cause shows where it is.
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
        return self.messages[0] if self.messages else None


class InboxOverflowError(DataStreamError):
    """The inbox is full and ``overflow`` dropped messages or the connection."""


class SpoolError(DataStreamError):
    """The spool file cannot be opened, read or written."""


class LeaseError(DataStreamError):
    """The lease is lost, or its store is unavailable."""


class Postponed(Exception):
    """
    Raise it in a handler to get the same message again, before any other.

    Args:
        delay: Seconds until the handler is called again.

    """

    def __init__(self, delay: float = 1.0) -> None:
        self.delay = min(max(0.0, delay), LONGEST_DELAY)
        super().__init__(self.delay)

    def __str__(self) -> str:
        return f"postponed for {self.delay:g} s"


def said(error: BaseException | None) -> str:
    """Return one line on an error, escaped and cut, for logs and stats."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return network_text(error)
    text = ERRNO.sub("", peer_text(error)) if error is not None else ""
    if isinstance(error, DataStreamError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def network_text(error: OSError) -> str:
    """Return an error of the system's or the network's in words, without its number."""
    text = CONNECT_FAILED.sub(_refusal, ERRNO.sub("", peer_text(error)))
    if isinstance(error, ConnectionRefusedError):
        text = text.replace(FAILED, "connection refused by")
    elif error.errno and error.errno > 0:
        text = text.replace(FAILED, f"{os.strerror(error.errno).lower()} at")
    if type(error).__name__ == "gaierror" and error.strerror:
        return f"the host name cannot be resolved: {text}"
    return text or type(error).__name__


def _refusal(failed: re.Match[str]) -> str:
    host, port = failed.groups()
    return f"{FAILED} [{host}]:{port}" if ":" in host else f"{FAILED} {host}:{port}"
