"""
The fields of log records, for logs that are searched by field.

The fields are passed as ``extra=``, so they are attributes of each record, and formatters for JSON
find them there. A record about a stream has ``stream``, which is its name. Depending on the event,
it also has these fields:

- ``state``, and ``connection``, which is the connection's number,
- ``attempt``, and ``delay``, which is the number of seconds until the next attempt,
- ``error``, which is the type of the error,
- ``seq``, which is the number of a message, and ``handler``.

No field holds a URL, a header or a payload.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .exceptions import HandlerError
from .redaction import escaped, peer_text

if TYPE_CHECKING:
    from .protocols import Logger

__all__ = ["EscapingFormatter", "about", "fields", "write"]


class EscapingFormatter(logging.Formatter):
    """
    A formatter that escapes control characters, so that a server can't forge log lines.

    The text of a handler's exception often quotes the message. In a traceback it may contain line
    breaks and control characters. This formatter escapes control characters. It starts each line
    of a record except the first one with a bar and a space. It takes the arguments of
    :class:`logging.Formatter`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, with a bar before each line except the first one."""
        lines = super().format(record).split("\n")
        return "\n| ".join(map(escaped, lines))


def fields(stream: str, **others: Any) -> dict[str, Any]:
    """Return the fields for ``extra=`` that aren't ``None``."""
    known = {name: value for name, value in others.items() if value is not None}
    return {"stream": peer_text(stream)} | known


def about(error: BaseException | None) -> dict[str, Any]:
    """Return the fields that describe an error."""
    if error is None:
        return {}
    cause = error if error.__cause__ is None else error.__cause__
    found: dict[str, Any] = {"error": type(cause).__name__}
    if isinstance(error, HandlerError):
        found["handler"] = getattr(error.handler, "__qualname__", None)
        if error.message is not None:
            found |= {"seq": error.message.seq, "connection": error.message.connection}
    return found


def write(
    logger: Logger,
    level: str,
    text: str,
    *arguments: Any,
    exc_info: Any = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """
    Log a record, with fields if the logger supports them.

    Exceptions of the logger are ignored, because the logger or its handlers may be the user's.
    """
    more: dict[str, Any] = {} if exc_info is None else {"exc_info": exc_info}
    takes_fields = getattr(logger, "takes_fields", False)  # a wrapper of this package
    if takes_fields or isinstance(logger, logging.Logger | logging.LoggerAdapter):
        more["extra"] = extra
    with suppress(Exception):
        getattr(logger, level)(text, *arguments, **more)
