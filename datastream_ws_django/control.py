"""Pause, resume and reconnect from another process: commands as rows, read with the heartbeat."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import router, transaction
from django.db.models import Max, Q, QuerySet
from django.utils import timezone

from datastream_ws import Client, Fleet, NotConnectedError
from datastream_ws.embedding import fields, peer_text

from .db import NAME_LENGTH
from .history import KEPT_DAYS
from .models import StreamCommand, StreamEvent

__all__ = ["KEY_VERBS", "VERBS", "Commands", "ask", "prune", "standing_pauses"]

log = logging.getLogger("datastream_ws")

VERBS = ("pause", "resume", "reconnect")
# A fleet's stream may be replaced, or move, and would not stay paused: its row is what decides.
KEY_VERBS = ("reconnect",)
# Rows are numbered before they are committed: a lower number may show up after a higher one.
LATE_ROWS = 100
NOT_STARTED = ("idle", "connecting")


def ask(alias: str, verb: str, by: str, key: str = "") -> StreamCommand:
    """
    Ask every process that runs a stream to obey *verb*; they read it with their next heartbeat.

    Args:
        alias: The stream's key in ``DATASTREAMS``.
        verb: One of ``VERBS``.
        by: Who asks, for the event log.
        key: Of a fleet: the one stream that is to reconnect; empty: all of them.

    Raises:
        ValueError: If the verb is unknown, or not for one stream of a fleet.

    """
    if verb not in VERBS:
        raise ValueError(f"Unknown command {verb!r}. Use one of {', '.join(VERBS)}.")
    if key and verb not in KEY_VERBS:
        raise ValueError(f"Only reconnect is for one stream of a fleet, not {verb}.")
    now = timezone.now()
    by = by[:NAME_LENGTH]
    name = f"{alias}/{key}" if key else alias
    with transaction.atomic(using=router.db_for_write(StreamCommand)):
        command = StreamCommand.objects.create(stream=name, verb=verb, asked_by=by, asked_at=now)
        StreamEvent.objects.create(
            stream=name, at=now, kind="command", text=f"{verb} requested by {by}"
        )
    shown = (peer_text(name), verb, peer_text(by))
    log.info("stream %s: %s requested by %s", *shown, extra=fields(name))
    return command


def standing_pauses(aliases: Sequence[str]) -> dict[str, StreamCommand]:
    """Return the pauses that no resume has ended, by stream."""
    newest = StreamCommand.objects.filter(stream__in=aliases, verb__in=("pause", "resume"))
    numbers = newest.order_by().values("stream").annotate(newest=Max("pk"))
    found = StreamCommand.objects.filter(pk__in=[row["newest"] for row in numbers], verb="pause")
    return {command.stream: command for command in found}


class Commands:
    """
    Has the clients of this process obey; used on the heartbeat's thread only.

    A process that starts obeys a pause that stands. Each command is obeyed once by each process,
    because several may run a stream, and which of them is connected may change.
    """

    def __init__(self, clients: Sequence[Client | Fleet], process: str) -> None:
        self._clients: Mapping[str, Client | Fleet] = {client.name: client for client in clients}
        self._wanted = Q(stream__in=list(self._clients))
        for client in clients:
            if isinstance(client, Fleet):
                self._wanted |= Q(stream__startswith=f"{client.name}/")
        self._process = process
        self._seen: set[int] | None = None
        self._pending: list[StreamCommand] = []

    def obey(self) -> None:
        """Read the commands that are new, and obey them in order."""
        if self._clients:
            self._pending += self._new()
            self._pending = [command for command in self._pending if not self._obey(command)]

    def _new(self) -> list[StreamCommand]:
        if self._seen is None:
            self._seen = {command.pk for command in self._rows().order_by("-pk")[:LATE_ROWS]}
            return list(standing_pauses(list(self._clients)).values())
        newest = max(self._seen, default=0)
        found = list(self._rows().filter(pk__gt=newest - LATE_ROWS).order_by("pk"))
        new = [command for command in found if command.pk not in self._seen]
        newest = max((command.pk for command in found), default=newest)
        self._seen = {pk for pk in self._seen if pk > newest - LATE_ROWS}
        self._seen |= {command.pk for command in found}
        return new

    def _rows(self) -> QuerySet[StreamCommand]:
        return StreamCommand.objects.filter(self._wanted, verb__in=VERBS)

    def _obey(self, command: StreamCommand) -> bool:
        """Return whether nothing is left to do about it."""
        client = self._client_of(command.stream)
        if client is None:
            return True  # a stream of a fleet that runs elsewhere, or no more
        try:
            getattr(client, command.verb)()
        except NotConnectedError:  # not started yet, or it has ended
            return not isinstance(client, Fleet) and client.state.value not in NOT_STARTED
        extra = fields(command.stream)
        log.warning(
            "stream %s: %s requested by %s",
            *(peer_text(command.stream), command.verb, peer_text(command.asked_by)),
            extra=extra,
        )
        self._note(command)
        return True

    def _client_of(self, name: str) -> Client | Fleet | None:
        client = self._clients.get(name)
        if client is not None:
            return client
        alias = max((each for each in self._clients if name.startswith(f"{each}/")), key=len)
        key = name.removeprefix(f"{alias}/")
        fleet: Any = self._clients[alias]
        try:
            found: Client = fleet[key]
        except KeyError:
            return None
        return found

    def _note(self, command: StreamCommand) -> None:
        now = timezone.now()
        StreamCommand.objects.filter(pk=command.pk, obeyed_at=None).update(
            obeyed_at=now, obeyed_by=self._process[:NAME_LENGTH]
        )
        StreamEvent.objects.create(
            stream=command.stream,
            at=now,
            kind="command",
            text=f"{command.verb} carried out; requested by {command.asked_by}",
            process=self._process,
        )


def prune() -> None:
    """Delete commands that are older than a week, except the pauses that stand."""
    oldest = timezone.now() - timedelta(days=KEPT_DAYS)
    old = StreamCommand.objects.filter(asked_at__lt=oldest)
    streams = list(old.order_by().values_list("stream", flat=True).distinct())
    kept = [command.pk for command in standing_pauses(streams).values()]
    old.exclude(pk__in=kept).delete()
