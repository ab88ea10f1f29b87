"""The database rows of a worker's streams, for Django's admin, health checks and commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from .. import Client, Fleet
from ..embedding import describe

__all__ = ["StatusRows"]

BEAT_SECONDS = 5.0
LAST_BEAT_SECONDS = 2.0


class StatusRows:
    """
    The thread that updates the database rows of Django streams, as ``run_datastream`` does.

    Args:
        clients: The clients of streams in ``DATASTREAMS``, which aren't started yet.

    """

    def __init__(self, clients: Sequence[Client | Fleet]) -> None:
        from datastream_ws_django.heartbeat import Heartbeat

        self._clients = clients
        self._heartbeat = Heartbeat(clients)
        self._woken = threading.Event()
        self._closing = False
        for client in clients:
            if isinstance(client, Client):  # a large fleet would change all the time
                client.on_state(lambda event: self._woken.set())
        self._thread = threading.Thread(target=self._run, name="datastream-beat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Update the rows for the last time. It takes only a few seconds if the database hangs."""
        self._closing = True
        self._woken.set()
        self._thread.join(LAST_BEAT_SECONDS)
        self._heartbeat.close()

    def _run(self) -> None:
        while not self._closing:
            self._beat()
            self._woken.wait(BEAT_SECONDS)
            self._woken.clear()
        self._beat()

    def _beat(self) -> None:
        now = time.time()
        self._heartbeat.beat([describe(client, now) for client in self._clients])
