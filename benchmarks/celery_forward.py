"""
How fast messages become tasks: ``python -m benchmarks.celery_forward [BROKER_URL]``.

Three contestants take turns in one run, because only a ratio survives a busy machine: a bare loop
of ``task.apply_async()`` with the same confirms and timeouts, ``forward(client, task)``, and
``forward(client, task, batch=(100, 0.2))``. The messages come over a real connection.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid
from typing import Any

import celery
import kombu

from datastream_ws import Client
from datastream_ws.celery import forward, install
from datastream_ws.celery.broker import set_timeouts
from datastream_ws.celery.forwarding import publisher_of

from .blaster import Blaster, Load

__all__ = ["Arena", "main"]

PAYLOAD = "x" * 90  # with what is around it 139 bytes, as the blaster sends


def nothing(item: Any) -> None: ...


class Arena:
    """An app, a queue of its own, and the contestants; each returns messages per second."""

    def __init__(self, broker: str) -> None:
        self.app: Any = celery.Celery("bench", broker=broker, set_as_current=False)
        self.queue = f"ds-bench-{uuid.uuid4().hex[:8]}"
        self.app.conf.task_default_queue = self.queue
        set_timeouts(self.app)
        if broker.startswith("amqp"):
            self.app.conf.broker_transport_options |= {"confirm_publish": True}
        self.task = self.app.task(name="bench.ingest", ignore_result=True)(nothing)

    def bare(self, count: int) -> float:
        """Publish what forward() would."""
        argument = {
            "data": json.dumps({"type": "tick", "payload": PAYLOAD}),
            "route": "tick",
            "seq": 1,
            "connection": 1,
            "epoch": 1,
            "received_at": time.time(),
            "stream": "default",
        }
        began = time.perf_counter()
        for _ in range(count):
            self.task.apply_async(args=(argument,))
        return count / (time.perf_counter() - began)

    def forwarded(self, count: int, batch: tuple[int, float] | None = None) -> float:
        """Receive and publish, from the first message confirmed to the last one."""
        with Blaster(Load(count=count)) as blaster:
            client = Client(blaster.url, name=uuid.uuid4().hex)
            install(self.app, client)
            forward(client, self.task, batch=batch)
            with client:
                first = self._wait_handled(client, 1)
                began = time.perf_counter()
                self._wait_handled(client, count)
                took = time.perf_counter() - began
            publisher_of(client).close(5.0)
        return (count - first) / took

    def _wait_handled(self, client: Client, count: int) -> int:
        deadline = time.monotonic() + 300
        while (handled := client.stats().messages_handled) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{client.stats()}")
            time.sleep(0.002)
        return handled

    def clear(self) -> None:
        """Remove the queue."""
        with self.app.connection_for_write() as connection:
            kombu.Queue(self.queue, routing_key=self.queue)(connection.channel()).delete()

    def close(self) -> None:
        """Remove the queue, and close the pool of the bare loop."""
        self.clear()
        self.app.pool.force_close_all()
        self.app.close()


def ratios(arena: Arena, count: int, rounds: int) -> tuple[float, float]:
    """Return single to bare, and batch to single: the medians of some rounds."""
    single_to_bare, batch_to_single = [], []
    for _ in range(rounds):
        before = arena.bare(count)
        single = arena.forwarded(count)
        after = arena.bare(count)
        batched = arena.forwarded(20 * count, batch=(100, 0.2))
        arena.clear()
        bare = (before + after) / 2
        single_to_bare.append(single / bare)
        batch_to_single.append(batched / single)
        print(f"bare {bare:,.0f}/s  single {single:,.0f}/s  batch {batched:,.0f}/s")
    return statistics.median(single_to_bare), statistics.median(batch_to_single)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("broker", nargs="?", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    arena = Arena(given.broker)
    arena.bare(10)
    single, batch = ratios(arena, given.count, given.rounds)
    arena.close()
    print(f"single {single:.2f} of a bare loop of apply_async(); batch {batch:.1f} of single")


if __name__ == "__main__":
    main()
