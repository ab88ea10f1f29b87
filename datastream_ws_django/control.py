"""Pause, resume and reconnect streams from another process, through rows in the database."""

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
# A stream of a fleet cannot be paused, because it may be rebuilt or move to another process.
KEY_VERBS = ("reconnect",)
# A row gets its key before it is committed, so a lower key can appear after a higher one.
LATE_ROWS = 100
NOT_STARTED = ("idle", "connecting")


def ask(alias: str, verb: str, by: str, key: str = "") -> StreamCommand:
    """
    Store a command. Every process that runs the stream carries it out at its next heartbeat.

    Args:
        alias: The stream's key in ``DATASTREAMS``.
        verb: One of ``VERBS``.
        by: The user who requests it, for the event log.
        key: Key of the fleet's stream that is to reconnect. An empty key means the whole fleet.

    Raises:
        ValueError: If the verb is unknown, or does not work with a key.

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
    """Return the pauses that are still in force, by stream."""
    newest = StreamCommand.objects.filter(stream__in=aliases, verb__in=("pause", "resume"))
    numbers = newest.order_by().values("stream").annotate(newest=Max("pk"))
    found = StreamCommand.objects.filter(pk__in=[row["newest"] for row in numbers], verb="pause")
    return {command.stream: command for command in found}


class Commands:
    """
    Carries out commands on the clients of this process. Only the heartbeat's thread uses it.

    A process that starts carries out a pause that is still in force. Several processes may run a
    stream, and a standby may take over, so every process carries out each command once.
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
        """Read new commands and carry them out in order."""
        if self._clients:
            self._pending += self._new()
            for command in list(self._pending):
                self._obey(command)

    def _new(self) -> list[StreamCommand]:
        if self._seen is None:
            seen = {command.pk for command in self._rows().order_by("-pk")[:LATE_ROWS]}
            pauses = list(standing_pauses(list(self._clients)).values())
            self._seen = seen  # last, so that an error of the database loses no pause
            return pauses
        newest = max(self._seen, default=0)
        found = list(self._rows().filter(pk__gt=newest - LATE_ROWS).order_by("pk"))
        new = [command for command in found if command.pk not in self._seen]
        newest = max((command.pk for command in found), default=newest)
        self._seen = {pk for pk in self._seen if pk > newest - LATE_ROWS}
        self._seen |= {command.pk for command in found}
        return new

    def _rows(self) -> QuerySet[StreamCommand]:
        return StreamCommand.objects.filter(self._wanted, verb__in=VERBS)

    def _obey(self, command: StreamCommand) -> None:
        """Carry out a command. It stays pending if the client has not started yet."""
        client = self._client_of(command.stream)
        is_carried_out = False
        if client is not None:  # otherwise another process may have this stream of a fleet
            try:
                getattr(client, command.verb)()
                is_carried_out = True
            except NotConnectedError:  # not started yet, or stopped
                if isinstance(client, Fleet) or client.state.value in NOT_STARTED:
                    return
        # First, because an error of the database must not repeat the command.
        self._pending.remove(command)
        if is_carried_out:
            self._note(command)

    def _client_of(self, name: str) -> Client | Fleet | None:
        client = self._clients.get(name)
        if client is not None:
            return client
        fleets = [
            (alias, fleet)
            for alias, fleet in self._clients.items()
            if isinstance(fleet, Fleet) and name.startswith(f"{alias}/")
        ]
        if not fleets:  # some databases compare without regard to case
            return None
        alias, fleet = max(fleets, key=lambda pair: len(pair[0]))
        found: Any = fleet
        try:
            stream: Client = found[name.removeprefix(f"{alias}/")]
        except KeyError:
            return None
        return stream

    def _note(self, command: StreamCommand) -> None:
        log.warning(
            "stream %s: %s requested by %s",
            *(peer_text(command.stream), command.verb, peer_text(command.asked_by)),
            extra=fields(command.stream),
        )
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
    """Delete commands that are older than a week, except pauses that are still in force."""
    oldest = timezone.now() - timedelta(days=KEPT_DAYS)
    old = StreamCommand.objects.filter(asked_at__lt=oldest)
    streams = list(old.order_by().values_list("stream", flat=True).distinct())
    kept = [command.pk for command in standing_pauses(streams).values()]
    old.exclude(pk__in=kept).delete()
