"""A lease in the database: one row per stream, on any database Django supports."""

from __future__ import annotations

import os
import socket
import time
import uuid
from typing import Any

from django.db import connections, router
from django.db.models import F
from django.utils import timezone

from datastream_ws.embedding import Liveness

from .models import StreamLease

__all__ = ["DatabaseLease"]


class DatabaseLease:
    """
    A lease for one stream, of the protocol :class:`datastream_ws.lease.Lease`.

    No two machines' clocks are compared: who waits for a dead holder sees the row's renewal
    counter stand still for the holder's time to live, on its own clock. Each change is one
    UPDATE that names what it expects to find, so that of two who try only one succeeds.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._token = f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid.uuid4().hex}"
        self._epoch = 0
        self._watch = Liveness()

    def acquire(self, ttl: float) -> int | None:
        """Take the lease if it is free, or if its holder has not renewed it for so long."""
        try:
            return self._acquire(ttl)
        except Exception:
            self._close()
            raise
        finally:
            self._give_back()

    def _acquire(self, ttl: float) -> int | None:
        row, _ = StreamLease.objects.get_or_create(stream=self._stream)
        if self._is_held(row):
            return None
        epoch = max(row.epoch + 1, time.time_ns() // 1_000_000)
        taken = self._rows(holder=row.holder, epoch=row.epoch, renewals=row.renewals).update(
            holder=self._token,
            epoch=epoch,
            renewals=F("renewals") + 1,
            ttl=ttl,
            renewed_at=timezone.now(),
        )
        self._epoch = epoch
        return epoch if taken else None

    def _is_held(self, row: StreamLease) -> bool:
        if row.holder in ("", self._token):
            return False
        self._watch.look((row.holder, row.epoch, row.renewals), row.ttl)
        return not self._watch.is_over

    def renew(self, ttl: float) -> bool:
        """Count the renewal, if the row is still ours."""
        try:
            renewed = self._mine().update(
                renewals=F("renewals") + 1, ttl=ttl, renewed_at=timezone.now()
            )
        except Exception:
            self._close()
            raise
        finally:
            self._give_back()
        return bool(renewed)

    def release(self) -> None:
        """Leave the row to whoever comes first."""
        try:
            if self._epoch:
                self._mine().update(holder="")
        finally:
            self._epoch = 0
            self._close()

    def _rows(self, **expected: Any) -> Any:
        return StreamLease.objects.filter(stream=self._stream, **expected)

    def _mine(self) -> Any:
        return self._rows(holder=self._token, epoch=self._epoch)

    # The keeper's thread has a database connection of its own, open as long as it campaigns.

    def _close(self) -> None:
        connections[router.db_for_write(StreamLease)].close()

    def _give_back(self) -> None:
        """A pool's connection is not kept from others."""
        connection = connections[router.db_for_write(StreamLease)]
        if connection.settings_dict.get("OPTIONS", {}).get("pool"):
            connection.close()
