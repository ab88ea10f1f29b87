"""
Measure how fast messages become tasks: ``python -m benchmarks.celery_forward [BROKER_URL]``.

One run alternates between three contestants, because ratios depend less on other load. They are
``forward(client, task)``, ``forward(client, task, batch=(100, 0.2))``, and a bare loop of
``task.apply_async()`` with the same confirms and timeouts. The messages come over a connection.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid
from contextlib import closing
from typing import Any

import celery
import kombu

from datastream_ws import Client
from datastream_ws.celery import forward, install
from datastream_ws.celery.broker import set_timeouts
from datastream_ws.celery.forwarding import publisher_of

from .blaster import Blaster, Load

__all__ = ["Arena", "batch_ratio", "main", "single_ratio"]

PAYLOAD = "x" * 90  # of a message of 139 bytes, as the blaster sends


def nothing(item: Any) -> None: ...


class Arena:
    """
    An app with its own queue, and the contestants, which return messages per second.

    Args:
        broker: The URL of the broker.
        persistent: Whether tasks are persistent, which is Celery's default. RabbitMQ confirms a
            persistent message after a write to disk, which would hide other differences.

    """

    def __init__(self, broker: str, *, persistent: bool = True) -> None:
        self.app: Any = celery.Celery("bench", broker=broker, set_as_current=False)
        self.queue = f"ds-bench-{uuid.uuid4().hex[:8]}"
        self.app.conf.task_default_queue = self.queue
        self.app.conf.task_default_delivery_mode = 2 if persistent else 1
        set_timeouts(self.app)
        if broker.startswith("amqp"):
            self.app.conf.broker_transport_options |= {"confirm_publish": True}
        self.task = self.app.task(name="bench.ingest", ignore_result=True)(nothing)

    def bare(self, count: int) -> float:
        """Publish the same argument as ``forward()``."""
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
        """Receive and publish. The time runs from the first handled message to the last."""
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


def single_ratio(arena: Arena, count: int, rounds: int) -> float:
    """Return the median ratio of single publishing to the bare loop."""
    arena.bare(10)
    found = []
    for _ in range(rounds):
        before, single, after = arena.bare(count), arena.forwarded(count), arena.bare(count)
        found.append(single / ((before + after) / 2))
        print(f"bare {before:,.0f}/s and {after:,.0f}/s, single {single:,.0f}/s")
        arena.clear()
    return statistics.median(found)


def batch_ratio(arena: Arena, count: int, rounds: int) -> float:
    """Return the median ratio of batches to single publishing."""
    found = []
    for _ in range(rounds):
        single = arena.forwarded(count)
        batched = arena.forwarded(40 * count, batch=(100, 0.2))
        found.append(batched / single)
        print(f"single {single:,.0f}/s, batches {batched:,.0f}/s")
        arena.clear()
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("broker", nargs="?", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with closing(Arena(given.broker, persistent=False)) as arena:
        single = single_ratio(arena, given.count, given.rounds)
    with closing(Arena(given.broker)) as arena:
        batch = batch_ratio(arena, given.count, given.rounds)
    print(f"single {single:.2f} of a bare loop of apply_async(); batch {batch:.1f} of single")


if __name__ == "__main__":
    main()
