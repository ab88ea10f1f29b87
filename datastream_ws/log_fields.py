"""
What the log records of a stream carry besides their text, for logs that are searched by field.

The fields are given as ``extra=``, so that any formatter that writes JSON finds them as attributes
of the record: ``stream`` (its name) on each, and where they are known ``state``, ``connection``
(its number), ``attempt``, ``delay`` (seconds until the next), ``error`` (the type), ``seq`` (of a
message) and ``handler``. None of them holds a URL, a header or a payload.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .exceptions import HandlerError
from .redaction import escaped, peer_text

if TYPE_CHECKING:
    from .option_checks import Logger

__all__ = ["EscapingFormatter", "about", "fields", "write"]


class EscapingFormatter(logging.Formatter):
    """
    Format log records so that no text of a server forges one or drives a terminal.

    The text of an exception that a handler raises often quotes the message. In a traceback it may
    hold line breaks and control characters. This formatter escapes control characters, and a bar
    and a space begin each line of a record but the first. It takes the arguments of
    :class:`logging.Formatter`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, with a bar before each line but the first."""
        lines = super().format(record).split("\n")
        return "\n| ".join(map(escaped, lines))


def fields(stream: str, **others: Any) -> dict[str, Any]:
    """Return fields for ``extra=``, without those that are ``None``."""
    known = {name: value for name, value in others.items() if value is not None}
    return {"stream": peer_text(stream)} | known


def about(error: BaseException | None) -> dict[str, Any]:
    """Return the fields that an error gives."""
    if error is None:
        return {}
    found: dict[str, Any] = {"error": type(error.__cause__ or error).__name__}
    if isinstance(error, HandlerError):
        found["handler"] = getattr(error.handler, "__qualname__", None)
        if error.message is not None:
            found |= {"seq": error.message.seq, "connection": error.message.connection}
    return found


def write(
    logger: Logger, level: str, text: str, *arguments: Any, exc_info: Any, extra: dict[str, Any]
) -> None:
    """Log with fields where the logger takes them; what a user's own may take is less."""
    more: dict[str, Any] = {} if exc_info is None else {"exc_info": exc_info}
    takes_fields = getattr(logger, "takes_fields", False)  # a logger of ours that hands on
    if takes_fields or isinstance(logger, logging.Logger | logging.LoggerAdapter):
        more["extra"] = extra
    getattr(logger, level)(text, *arguments, **more)
