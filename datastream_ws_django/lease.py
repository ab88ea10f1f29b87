"""Leases in the database of the Django project."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db import connections, router, transaction
from django.db.models import F
from django.db.models.functions import Greatest
from django.utils import timezone

from datastream_ws.embedding import Held, Liveness, MemberRecord, SharedView

from .models import FleetHolding, FleetMember, StreamLease

__all__ = ["DatabaseLease", "DatabaseSharedStore"]

MEMBER_COLUMNS = ("beat", "life", "limit", "is_leaving")  # attributes of MemberRecord


@contextmanager
def database() -> Iterator[str]:
    """
    Enter with the alias of the leases' database. An error closes this thread's connection.

    Otherwise the connection stays open for the next call. A connection from a pool is returned.
    """
    alias = router.db_for_write(StreamLease)
    connection = connections[alias]
    try:
        yield alias
    except Exception:
        connection.close()
        raise
    if connection.settings_dict.get("OPTIONS", {}).get("pool"):
        connection.close()


def close_database() -> None:
    connections[router.db_for_write(StreamLease)].close()


class DatabaseLease:
    """
    A lease for one stream. It implements the protocol :class:`datastream_ws.lease.Lease`.

    It never compares the clocks of two machines. A waiting process takes over once the renewal
    counter has not changed for the holder's time to live, measured by its own clock. Each change
    is one UPDATE with the expected values as its condition. If two processes try, one succeeds.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._owner = (0, "")
        self._epoch = 0
        self._watch = Liveness()

    @property
    def _token(self) -> str:
        """The identifier of this owner. A forked child is a different owner."""
        pid = os.getpid()
        if self._owner[0] != pid:
            self._owner = (pid, f"{socket.gethostname()[:100]}:{pid}:{uuid.uuid4().hex}")
            self._epoch = 0
        return self._owner[1]

    def acquire(self, ttl: float) -> int | None:
        """Take the lease if it is free or has expired. Return its epoch, or ``None``."""
        with database():
            return self._acquire(ttl)

    def _acquire(self, ttl: float) -> int | None:
        row, _ = StreamLease.objects.get_or_create(stream=self._stream)
        if self._is_held(row):
            return None
        # Set before the update, which may take the lease although its response is lost.
        epoch = self._epoch = max(row.epoch + 1, time.time_ns() // 1_000_000)
        taken = self._rows(holder=row.holder, epoch=row.epoch, renewals=row.renewals).update(
            holder=self._token,
            epoch=epoch,
            renewals=F("renewals") + 1,
            ttl=ttl,
            renewed_at=timezone.now(),
        )
        return epoch if taken else None

    def _is_held(self, row: StreamLease) -> bool:
        if row.holder in ("", self._token):
            return False
        self._watch.observe((row.holder, row.epoch, row.renewals), row.ttl)
        return not self._watch.has_expired

    def renew(self, ttl: float) -> bool:
        """Renew the lease. Return ``False`` if another process has taken it."""
        with database():
            return bool(
                self._mine().update(renewals=F("renewals") + 1, ttl=ttl, renewed_at=timezone.now())
            )

    def release(self) -> None:
        """Release the lease, so that another process can take it immediately."""
        mine, held, self._epoch = self._mine(), self._epoch, 0
        try:
            if held:
                mine.update(holder="")
        finally:
            close_database()

    def shared_store(self) -> DatabaseSharedStore:
        """Return the store through which processes share a fleet of this name."""
        return DatabaseSharedStore(self._stream)

    def _rows(self, **expected: Any) -> Any:
        return StreamLease.objects.filter(stream=self._stream, **expected)

    def _mine(self) -> Any:
        return self._rows(holder=self._token, epoch=self._epoch)


class DatabaseSharedStore:
    """
    The store through which processes share a fleet. It implements the protocol ``SharedStore``.

    It has a row for each process and one for each stream that a process holds. As with
    :class:`DatabaseLease`, clocks are never compared, and each change has a condition.
    """

    has_lost_data = False  # a database keeps its rows when it restarts

    def __init__(self, fleet: str) -> None:
        self._fleet = fleet
        self._seen: frozenset[tuple[str, int]] | None = None  # their tokens and changes
        self._holders: dict[str, Held] = {}

    def join(self, me: MemberRecord, replaces: str, held: Mapping[str, int]) -> Collection[str]:
        with database() as alias:
            StreamLease.objects.using(alias).get_or_create(stream=self._fleet)
            if replaces != me.token:
                self._members(alias).filter(token=replaces).delete()
            if not self._write(alias, me):
                member = FleetMember(token=me.token, fleet=self._fleet, **_columns(me))
                member.save(using=alias, force_insert=True)
        return ()

    def renew(self, me: MemberRecord) -> bool:
        with database() as alias:
            return self._write(alias, me)

    def look(self) -> SharedView:
        with database() as alias:
            members = list(self._members(alias))
            changes = frozenset((member.token, member.changes) for member in members)
            if changes != self._seen:
                self._holders = {
                    key: Held(holder, epoch)
                    for key, holder, epoch in self._holdings(alias).values_list(
                        "key", "holder", "epoch"
                    )
                }
                members = list(self._members(alias))  # read again, after the holders
                self._seen = changes
        return SharedView({member.token: _record(member) for member in members}, self._holders)

    def take(
        self, token: str, keys: Collection[str], dead: Collection[str]
    ) -> tuple[int, Collection[str]]:
        with database() as alias, transaction.atomic(using=alias):
            epoch = self._next_epoch(alias)  # its row lock makes other processes wait
            if not self._count_change(alias, token):
                return 0, ()
            self._holdings(alias).bulk_create(
                [FleetHolding(fleet=self._fleet, key=key) for key in keys], ignore_conflicts=True
            )
            wanted = self._holdings(alias).filter(key__in=keys)
            wanted.filter(holder__in=["", token, *dead]).update(holder=token, epoch=epoch)
            taken = wanted.filter(holder=token, epoch=epoch)
            return epoch, list(taken.values_list("key", flat=True))

    def release(self, token: str, keys: Collection[str], dead: Collection[str]) -> None:
        with database() as alias, transaction.atomic(using=alias):
            self._count_change(alias, token)
            of_these = self._holdings(alias).filter(key__in=keys)
            of_these.filter(holder__in=["", token, *dead]).delete()

    def remove(self, member: MemberRecord) -> None:
        with database() as alias:
            self._members(alias).filter(token=member.token, beat=member.beat).delete()

    def leave(self, token: str) -> None:
        with database() as alias, transaction.atomic(using=alias):
            self._members(alias).filter(token=token).delete()
            self._holdings(alias).filter(holder=token).delete()

    def close(self) -> None:
        close_database()

    def _members(self, alias: str) -> Any:
        return FleetMember.objects.using(alias).filter(fleet=self._fleet)

    def _holdings(self, alias: str) -> Any:
        return FleetHolding.objects.using(alias).filter(fleet=self._fleet)

    def _write(self, alias: str, me: MemberRecord) -> bool:
        return bool(self._members(alias).filter(token=me.token).update(**_columns(me)))

    def _count_change(self, alias: str, token: str) -> bool:
        changed = self._members(alias).filter(token=token).update(changes=F("changes") + 1)
        return bool(changed)

    def _next_epoch(self, alias: str) -> int:
        row = StreamLease.objects.using(alias).filter(stream=self._fleet)
        now = time.time_ns() // 1_000_000
        if not row.update(epoch=Greatest(F("epoch") + 1, now)):  # deleted by hand
            row.create(stream=self._fleet, epoch=now)
        epoch: int = row.values_list("epoch", flat=True).get()
        return epoch


def _columns(me: MemberRecord) -> dict[str, Any]:
    return {"beat_at": timezone.now(), **{name: getattr(me, name) for name in MEMBER_COLUMNS}}


def _record(row: FleetMember) -> MemberRecord:
    return MemberRecord(token=row.token, **{name: getattr(row, name) for name in MEMBER_COLUMNS})
