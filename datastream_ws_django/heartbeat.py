"""The thread on which a process writes its status rows and reads commands."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.utils import timezone

from datastream_ws import Client, Fleet, Stats
from datastream_ws.embedding import DEAD, StreamHealth, fields, signals_to
from datastream_ws.runner import EXIT_FORCED, leave

from . import control, deadletters, history
from .db import NAME_LENGTH, close_all
from .migrated import log_unapplied
from .models import StreamStatus
from .rows import FleetRows, Rows, write

__all__ = ["Heartbeat", "beating"]

log = logging.getLogger("datastream_ws")

PRUNE_SECONDS = 3600.0
KEPT_DAYS = 1  # of rows whose process has ended
FRESH_SECONDS = 15.0  # three heartbeats
LAST_SECONDS = 5.0  # to write the last rows, because a busy machine needs more than one or two


@contextmanager
def beating(clients: Sequence[Client | Fleet]) -> Iterator[Callable[[list[StreamHealth]], None]]:
    """
    Yield a runner's function ``on_beat``, which writes the status rows of *clients*.

    At the end of the block, the last rows are written. A signal that arrives meanwhile, such as a
    second Ctrl-C while the database hangs, ends the process.
    """
    heartbeat = Heartbeat(clients)
    try:
        yield heartbeat.beat
    finally:
        with signals_to(lambda number: leave(EXIT_FORCED)):
            heartbeat.close()


class Heartbeat:
    """
    Writes the status rows of a process, on a thread of its own that may wait for the database.

    A report that arrives while rows are being written replaces an older one that is waiting. The
    same thread writes history and events, carries out commands, and deletes old rows once an hour.

    Args:
        clients: Streams and fleets that carry out commands and provide their statistics.

    """

    def __init__(self, clients: Sequence[Client | Fleet] = ()) -> None:
        self._clients = {client.name: client for client in clients}
        self._host = socket.gethostname()[:NAME_LENGTH]
        process = f"{self._host}, process {os.getpid()}"
        self._commands = control.Commands(clients, process)
        self._others = Others(self._host)
        self._history = history.History()
        self._events = history.EventLog(process)
        self._rows = Rows(self._host)
        self._fleets = {
            client.name: FleetRows(client, self._rows)
            for client in clients
            if isinstance(client, Fleet)
        }
        self._latest: list[StreamHealth] = []
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        self._has_looked = False
        self._pruned_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="datastream-status", daemon=True)
        self._thread.start()

    def beat(self, streams: list[StreamHealth]) -> None:
        """Pass a report to the thread, which writes it soon. This never blocks."""
        with self._changed:
            self._latest = streams
            self._changed.notify_all()

    def close(self, timeout: float = LAST_SECONDS) -> None:
        """Write the waiting rows and end the thread. Give up after *timeout* seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (streams := self._next()) is not None:
            self._fenced(self._beat, streams)
        self._history.end()
        self._fenced(self._history.write)

    def _next(self) -> list[StreamHealth] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._latest or self._closing)
            streams, self._latest = self._latest, []
            return streams or None

    def _beat(self, streams: list[StreamHealth]) -> None:
        if not self._has_looked:  # if the database is unavailable, the next beat looks
            self._failing = log_unapplied()  # a missing table needs no second warning
            self._has_looked = True
        self._write(streams)
        clients = self._clients.items()
        self._others.look([name for name, client in clients if client.options.lease is None])
        self._commands.obey()
        self._write_history(streams)
        self._prune()

    def _write(self, streams: list[StreamHealth]) -> None:
        """Write the rows of streams and fleets, and those of the fleets' streams."""
        rows = [self._rows.row(stream, self._stats(stream.name)) for stream in streams]
        try:
            for stream in streams:
                if stream.name in self._fleets:
                    rows += self._fleets[stream.name].due(stream.at)
            write(rows)
        except Exception:
            for fleet in self._fleets.values():
                fleet.make_all_due()
            raise

    def _fenced(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            try:
                work(*arguments)
            finally:
                close_all()  # which can fail, too
        except Exception as error:
            if not self._failing:
                log.warning(
                    "status rows cannot be written (%s: %s); the streams continue. Check the "
                    "database",
                    *(type(error).__name__, str(error).partition("\n")[0]),
                )
            self._failing = True
        else:
            self._failing = False

    def _write_history(self, streams: list[StreamHealth]) -> None:
        seen = {stream.name: self._stats(stream.name) for stream in streams}
        for stream in streams:
            self._history.note(stream, seen[stream.name])
        self._history.write()
        self._events.write(
            (name, stats.recent_events if stats else ()) for name, stats in seen.items()
        )

    def _stats(self, name: str) -> Stats | None:
        client = self._clients.get(name)
        return None if client is None else client.stats()

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        gone = timezone.now() - timedelta(days=KEPT_DAYS)
        StreamStatus.objects.filter(beat_at__lt=gone).delete()
        deadletters.prune()
        history.prune()
        control.prune()


class Others:
    """Warns if another process runs the same stream and no lease prevents it."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._seen: dict[tuple[str, str, int], Any] = {}  # the first heartbeat seen of each process
        self._told: set[str] = set()

    def look(self, streams: Sequence[str]) -> None:
        """Warn once per stream if another process keeps reporting it. A dead process does not."""
        untold = [name for name in streams if name not in self._told]
        if not untold:
            return
        fresh = timezone.now() - timedelta(seconds=FRESH_SECONDS)
        rows = StreamStatus.objects.filter(stream__in=untold, beat_at__gte=fresh)
        rows = rows.exclude(state__in=DEAD).exclude(host=self._host, pid=os.getpid())
        for stream, host, pid, beat_at in rows.values_list("stream", "host", "pid", "beat_at"):
            if beat_at > self._seen.setdefault((stream, host, pid), beat_at):
                self._warn(stream, host, pid)

    def _warn(self, stream: str, host: str, pid: int) -> None:
        if stream in self._told:
            return
        self._told.add(stream)
        log.warning(
            "stream %s: process %d on %s runs it as well, so each message is handled twice. "
            "Stop one of them, or set LEASE",
            stream,
            pid,
            host,
            extra=fields(stream),
        )
