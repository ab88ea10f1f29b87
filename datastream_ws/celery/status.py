"""Rows of a worker's streams, for Django's admin, health views and ``datastream_status``."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from .. import Client, Fleet
from ..embedding import describe

__all__ = ["StatusRows"]

BEAT_SECONDS = 5.0
LAST_BEAT_SECONDS = 2.0


class StatusRows:
    """
    Keeps the rows of streams of Django's, as ``run_datastream`` does; on threads of its own.

    Args:
        clients: Of streams of ``DATASTREAMS``, not started yet.

    """

    def __init__(self, clients: Sequence[Client | Fleet]) -> None:
        from datastream_ws_django.heartbeat import Heartbeat

        self._clients = clients
        self._heartbeat = Heartbeat(clients)
        self._woken = threading.Event()
        self._closing = False
        for client in clients:
            if isinstance(client, Client):  # in a fleet one of a thousand always changes
                client.on_state(self._wake)
        self._thread = threading.Thread(target=self._run, name="datastream-beat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is true at the end, within a few seconds; the database may hang."""
        self._closing = True
        self._woken.set()
        self._thread.join(LAST_BEAT_SECONDS)
        self._heartbeat.close()

    def _wake(self, event: Any) -> None:
        self._woken.set()

    def _run(self) -> None:
        while not self._closing:
            self._beat()
            self._woken.wait(BEAT_SECONDS)
            self._woken.clear()
        self._beat()

    def _beat(self) -> None:
        now = time.time()
        self._heartbeat.beat([describe(client, now) for client in self._clients])
