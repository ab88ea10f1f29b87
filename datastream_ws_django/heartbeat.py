"""The rows that tell other processes how a runner's streams are, written on a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
import time
from datetime import timedelta
from typing import Any

from django.db import connections
from django.utils import timezone

from datastream_ws.embedding import StreamHealth

from . import deadletters
from .db import NAME_LENGTH, moment
from .models import StreamStatus

__all__ = ["Heartbeat"]

log = logging.getLogger("datastream_ws")

PRUNE_SECONDS = 3600.0
KEPT_DAYS = 1  # of a runner that is gone

COUNTERS = (
    *("messages_received", "messages_handled", "messages_failed", "messages_dropped"),
    *("messages_waiting", "messages_spooled", "reconnects"),
)


class Heartbeat:
    """
    Writes what a runner says of its streams; a database that hangs holds up nobody else.

    What comes while a row is being written replaces what waits. The same thread prunes old rows,
    once an hour.
    """

    def __init__(self) -> None:
        self._host = socket.gethostname()[:NAME_LENGTH]
        self._latest: list[StreamHealth] = []
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        self._pruned_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="datastream-status", daemon=True)
        self._thread.start()

    def beat(self, streams: list[StreamHealth]) -> None:
        """Have the rows say *streams* soon; never blocks."""
        with self._changed:
            self._latest = streams
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Write what waits, within *timeout* seconds, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (streams := self._next()) is not None:
            self._write_or_tell(streams)
        connections.close_all()

    def _next(self) -> list[StreamHealth] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._latest or self._closing)
            streams, self._latest = self._latest, []
            return streams or None

    def _write_or_tell(self, streams: list[StreamHealth]) -> None:
        try:
            for stream in streams:
                self._write(stream)
            self._prune()
        except Exception as error:
            if not self._failing:
                log.warning(
                    "status rows cannot be written (%s: %s); the streams run on. Run `manage.py "
                    "migrate` if the table is missing",
                    *(type(error).__name__, str(error).partition("\n")[0]),
                )
            self._failing = True
        else:
            self._failing = False
        finally:
            connections.close_all()

    def _write(self, stream: StreamHealth) -> None:
        values: dict[str, Any] = {name: getattr(stream, name) for name in COUNTERS}
        values |= {
            "state": stream.state,
            "beat_at": moment(stream.at),
            "connected_since": moment(stream.connected_since),
            "last_message_at": moment(stream.last_message_at),
            "last_error": stream.last_error or "",
        }
        # Single statements: SQLite lets them wait for another writer. A transaction that reads and
        # then writes, as update_or_create() is, it refuses at once ("database is locked").
        key = {"stream": stream.name, "host": self._host, "pid": stream.pid}
        if not StreamStatus.objects.filter(**key).update(**values):
            StreamStatus.objects.create(**key, **values)

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        gone = timezone.now() - timedelta(days=KEPT_DAYS)
        StreamStatus.objects.filter(beat_at__lt=gone).delete()
        deadletters.prune()
