"""Store failed messages as rows, retry them, and delete old ones."""

from __future__ import annotations

import hashlib
import logging
import re
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.db.models import Count, Func, IntegerField, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from datastream_ws import HandlerError, Message
from datastream_ws.embedding import Handler, about, fields

from .claims import claim, release
from .conf import streams_settings
from .db import moment
from .delivery import call_handler, message_of, refuse_running_loop
from .models import FailedMessage
from .streams import Stream, datastreams

__all__ = ["Retried", "keep_failures_of", "prune", "retry", "storable"]

log = logging.getLogger("datastream_ws")

LONGEST_TRACEBACK = 20_000  # characters
LOOK_SECONDS = 60.0
# Numbers and quoted texts vary between failures of the same kind.
VARYING = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


def keep_failures_of(stream: Stream) -> None:
    """Write a row for each message with which a handler of *stream* fails."""
    stream.handlers.on_failure.append(Keeper(stream).keep)


class Keeper:
    """
    Writes the failed messages of one stream as rows, in the thread where the handler failed.

    The limits are compared with the table once a minute, because that reads all rows. Several
    processes can therefore exceed the limits by the rows that they write in a minute.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._looked_at = float("-inf")
        self._rows = self._bytes = 0.0  # left below the limits
        self._lost = 0

    def keep(self, error: HandlerError) -> None:
        """Write a row for each message of a failure. Messages above the limits are only counted."""
        if not error.messages or not self._stream.settings.dead_letter_days:
            return
        rows = [row_of(self._stream.alias, message, error) for message in error.messages]
        try:
            with self._stream.hygiene.run():
                self._look()
                kept = [row for row in rows if self._has_room_for(row)]
                FailedMessage.objects.bulk_create(kept)
        except (DatabaseError, InterfaceError) as failure:
            self._tell(
                "stream %s: failed messages cannot be kept as rows (%d now, %s). Check the "
                "database, and run `manage.py migrate`",
                *(len(rows), type(failure).__name__),
            )

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        size = Coalesce(Sum(Bytes("data") + Bytes("error") + Bytes("traceback")), 0)
        found = FailedMessage.objects.filter(stream=self._stream.alias).order_by()
        taken = found.aggregate(rows=Count("pk"), bytes=size)
        settings = self._stream.settings
        self._rows = most(settings.dead_letter_rows) - taken["rows"]
        self._bytes = most(settings.dead_letter_bytes) - taken["bytes"]
        self._looked_at = now
        if self._lost and self._rows > 0 and self._bytes > 0:
            self._tell(
                "stream %s: failed messages are kept as rows again; %d were not kept", self._lost
            )
            self._lost = 0

    def _has_room_for(self, row: FailedMessage) -> bool:
        size = len(row.data) + len(row.error.encode()) + len(row.traceback.encode())
        if self._rows >= 1 and self._bytes >= size:
            self._rows -= 1
            self._bytes -= size
            return True
        self._lost += 1
        if self._lost == 1:
            self._tell(
                "stream %s: DEAD_LETTER_ROWS or DEAD_LETTER_BYTES is reached, so failed messages "
                "are not kept as rows; retry or delete some"
            )
        return False

    def _tell(self, text: str, *facts: object) -> None:
        log.error(text, self._stream.alias, *facts, extra=fields(self._stream.alias))


class Bytes(Func):
    """The size of a text or binary column in bytes."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Use LENGTH, because older SQLite than 3.43 has no OCTET_LENGTH."""
        template = "LENGTH(CAST(%(expressions)s AS BLOB))"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_oracle(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Use LENGTH, which counts characters, because Oracle has it for every type."""
        return self.as_sql(compiler, connection, function="LENGTH", **context)


def most(limit: int | None) -> float:
    return float("inf") if limit is None else limit


def row_of(alias: str, message: Message, error: HandlerError) -> FailedMessage:
    data = message.data
    handler, words = name_of(error.handler), told(error.__cause__ or error)
    return FailedMessage(
        stream=alias,
        handler=handler,
        group=group_of(handler, words["error"]),
        data=data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data,
        is_text=message.is_text,
        key=message.key if isinstance(message.key, int | None) else storable(str(message.key)),
        seq=message.seq,
        connection=message.connection,
        epoch=message.epoch,
        received_at=moment(message.received_at),
        failed_at=timezone.now(),
        **words,
    )


def group_of(handler: str, error: str) -> str:
    """Return the same hash for failures of one handler with the same kind of error."""
    kind = VARYING.sub("…", error)
    return hashlib.sha256(f"{handler}\n{kind}".encode()).hexdigest()[:40]


def name_of(function: object) -> str:
    name = Handler(function, False).name if callable(function) else "route or when"
    return storable(name)[:500]


def told(error: BaseException) -> dict[str, str]:
    """Return the fields of a row that describe an error."""
    lines = "".join(traceback.format_exception(error))
    try:
        text = str(error)
    except Exception:  # raised by __str__ of a project's own exception
        text = "(no text)"
    return {
        "error": storable(f"{type(error).__name__}: {text}")[:1000],
        "traceback": storable(lines)[-LONGEST_TRACEBACK:],
    }


def storable(text: str) -> str:
    """Escape NUL and lone surrogates, which databases and pages cannot contain."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


@dataclass
class Retried:
    """
    The outcome of a retry, in messages.

    Attributes:
        left_out: Messages that another process is retrying, or has retried or deleted.

    """

    handled: int = 0
    failed: int = 0
    left_out: int = 0


def retry(rows: Iterable[FailedMessage | None]) -> Retried:
    """
    Pass messages to the handlers that failed with them, in this thread and in the given order.

    A message that is handled loses its row. Otherwise the row describes the new failure. Rows that
    another process is retrying, or has retried since they were read, are left out.

    Args:
        rows: The rows. ``None`` is one that another process has retried or deleted.

    """
    refuse_running_loop()
    outcome = Retried()
    for row in rows:
        if row is None or not claim(row):
            outcome.left_out += 1
            continue
        try:
            handle_again(datastreams[row.stream], row)
        except Exception as error:
            outcome.failed += 1
            note_failure(row, error)
        except BaseException:  # Ctrl-C
            release(row)
            raise
        else:
            outcome.handled += 1
            row.delete()
    return outcome


def handle_again(stream: Stream, row: FailedMessage) -> None:
    message = message_of(
        stream,
        row.payload,
        key=row.key,
        seq=row.seq,
        connection=row.connection,
        epoch=row.epoch,
        received_at=row.received_at.timestamp(),
    )
    handlers = stream.handlers.match(message)
    # Other handlers had succeeded. If the failed one was renamed, all handlers get the message.
    named = [handler for handler in handlers if name_of(handler.function) == row.handler]
    for handler in named or handlers:
        call_handler(stream, handler, message)
    if not handlers:
        raise LookupError(f"stream {stream.alias} no longer has a handler for this message")


def note_failure(row: FailedMessage, error: Exception) -> None:
    """Record that a retry failed. The time of the first failure stays, and with it the expiry."""
    words = told(error)
    release(
        row,
        attempts=row.attempts + 1,
        group=group_of(row.handler, words["error"]),
        **words,
    )
    extra = fields(row.stream, **about(error))
    text = "stream %s: message %d failed again in %s"
    log.error(text, row.stream, row.seq, row.handler, exc_info=error, extra=extra)


def prune() -> int:
    """Delete rows older than DEAD_LETTER_DAYS of their stream, and return their number."""
    deleted = 0
    for alias, settings in streams_settings.items():
        oldest = timezone.now() - timedelta(days=settings.dead_letter_days)
        deleted += FailedMessage.objects.filter(stream=alias, failed_at__lt=oldest).delete()[0]
    return deleted
