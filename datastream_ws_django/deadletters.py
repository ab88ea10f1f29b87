"""Failed messages as rows: kept, handled again, pruned."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from datastream_ws import HandlerError, Message
from datastream_ws.embedding import Handler, about, fields

from .conf import streams_settings
from .db import moment
from .delivery import call_handler, message_of, refuse_running_loop
from .models import FailedMessage

if TYPE_CHECKING:
    from .streams import Stream

__all__ = ["Retried", "keep", "prune", "retry"]

log = logging.getLogger("datastream_ws")

LONGEST_TRACEBACK = 20_000  # characters


def keep(stream: Stream, error: BaseException) -> None:
    """Write a row for each message that a handler failed with; an ``on_error`` hook."""
    if not isinstance(error, HandlerError) or not error.messages or error.still_running:
        return
    if not stream.settings.dead_letter_days:
        return
    rows = [row_of(stream.alias, message, error) for message in error.messages]
    try:
        FailedMessage.objects.bulk_create(rows)
    except (DatabaseError, InterfaceError) as failure:
        log.error(
            "stream %s: %d failed message(s) cannot be kept as rows (%s); is the database there, "
            "and was `manage.py migrate` run?",
            *(stream.alias, len(rows), type(failure).__name__),
            extra=fields(stream.alias, **about(failure)),
        )


def row_of(alias: str, message: Message, error: HandlerError) -> FailedMessage:
    data = message.data
    return FailedMessage(
        stream=alias,
        handler=name_of(error.handler)[:500],
        data=data.encode() if isinstance(data, str) else data,
        is_text=message.is_text,
        seq=message.seq,
        connection=message.connection,
        epoch=message.epoch,
        received_at=moment(message.received_at),
        failed_at=timezone.now(),
        **told(error.__cause__ or error),
    )


def name_of(function: object) -> str:
    return Handler(function, False).name if callable(function) else "route or when"


def told(error: BaseException) -> dict[str, str]:
    """The fields that say what happened."""
    lines = "".join(traceback.format_exception(error))
    # PostgreSQL's text has no place for NUL.
    return {
        "error": f"{type(error).__name__}: {error}".replace("\0", "\\0")[:1000],
        "traceback": lines.replace("\0", "\\0")[-LONGEST_TRACEBACK:],
    }


@dataclass
class Retried:
    """How a retry went, in messages."""

    handled: int = 0
    failed: int = 0


def retry(rows: Iterable[FailedMessage]) -> Retried:
    """
    Give messages to the handlers that failed with them, in this thread, in the given order.

    A row goes when its message was handled; else it tells of the new failure.
    """
    from .streams import datastreams

    refuse_running_loop()
    outcome = Retried()
    for row in rows:
        try:
            handle_again(datastreams[row.stream], row)
        except Exception as error:
            outcome.failed += 1
            note_failure(row, error)
        else:
            outcome.handled += 1
            row.delete()
    return outcome


def handle_again(stream: Stream, row: FailedMessage) -> None:
    message = message_of(
        stream,
        row.payload,
        seq=row.seq,
        connection=row.connection,
        epoch=row.epoch,
        received_at=row.received_at.timestamp(),
    )
    handlers = stream.handlers.match(message)
    # Those that succeeded must not see it twice; one that was renamed must not be missed.
    named = [handler for handler in handlers if handler.name[:500] == row.handler]
    for handler in named or handlers:
        call_handler(stream, handler, message)
    if not handlers:
        raise LookupError(f"stream {stream.alias} has no handler for this message any more")


def note_failure(row: FailedMessage, error: Exception) -> None:
    row.attempts += 1
    row.failed_at = timezone.now()
    for name, text in told(error).items():
        setattr(row, name, text)
    row.save()
    extra = fields(row.stream, **about(error))
    log.error("stream %s: %s failed again", row.stream, row, exc_info=error, extra=extra)


def prune() -> int:
    """Delete the rows that are older than their stream's DEAD_LETTER_DAYS; return how many."""
    deleted = 0
    for alias, settings in streams_settings.items():
        oldest = timezone.now() - timedelta(days=settings.dead_letter_days)
        deleted += FailedMessage.objects.filter(stream=alias, failed_at__lt=oldest).delete()[0]
    return deleted
