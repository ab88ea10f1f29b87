"""
Measure the cost of renewing the leases of thousands of streams in Redis.

::

    python -m benchmarks.leases [URL] [--streams 3000] [--seconds 60]

Three processes share the streams, without clients. It measures the renewing thread of one process.
"""

from __future__ import annotations

import argparse
import threading
import time
import uuid
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any

from datastream_ws.fleet.sharing import Sharing
from datastream_ws.lease import RedisLease

__all__ = ["main"]

TTL = 15.0
PROCESSES = 3


def joined(url: str, name: str, streams: int) -> Sharing:
    sharing = Sharing(
        RedisLease(url, name).shared_store(),
        TTL,
        limit=None,
        room=lambda: 100,
        on_change=lambda: None,
        report=print,
    )
    sharing.start()
    while len(sharing.processes) < PROCESSES:  # so that no stream has to move
        time.sleep(0.01)
    sharing.want([f"stream-{number}" for number in range(streams)])
    return sharing


def follow(sharing: Sharing) -> None:
    """Act for the clients, which run, and end when their streams move."""
    held, giving = sharing.held(), sharing.giving()
    for holding in held.values():
        holding.is_used = True
    for key in giving & held.keys():
        sharing.release(key, held[key])


def other(url: str, name: str, streams: int, stop: Event) -> None:
    sharing = joined(url, name, streams)
    while not stop.wait(0.05):
        follow(sharing)
    sharing.close().result(10)


def scripts_run(client: Any) -> int:
    """Return the number of scripts that Redis has run. Each is one round trip."""
    stats: dict[str, Any] = client.info("commandstats")
    return int(stats.get("cmdstat_eval", {}).get("calls", 0))


def measure(url: str, streams: int, seconds: float) -> None:
    import redis

    name = f"bench-{uuid.uuid4().hex}"
    context = get_context("spawn")
    stop = context.Event()
    others = [
        context.Process(target=other, args=(url, name, streams, stop)) for _ in range(PROCESSES - 1)
    ]
    for process in others:
        process.start()
    own = joined(url, name, streams)
    with redis.Redis.from_url(url) as client:
        while len(own.held()) < 0.9 * streams / PROCESSES or not own.is_settled:
            follow(own)
            time.sleep(0.01)
        scripts, used, began = scripts_run(client), time.process_time(), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        share_of_core = 100 * (time.process_time() - used) / took
        per_second = (scripts_run(client) - scripts) / took / PROCESSES
        print(f"{len(own.held()):,} of {streams:,} streams here, lease_ttl={TTL:g}:")
        print(f"{share_of_core:.2f} % of a core, {per_second:.1f} round trips a second,")
        print(f"of which {1 / (TTL * 0.2):.2f} are renewals; {threading.active_count()} threads")
        stop.set()
        own.close().result(10)
        for process in others:
            process.join()
        client.delete(*(f"datastream-ws:{{{name}}}:{kind}" for kind in ("holders", "fleet")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leases", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("url", nargs="?", default="redis://127.0.0.1:6379/0")
    parser.add_argument("--streams", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=60.0)
    words = parser.parse_args()
    measure(words.url, words.streams, words.seconds)


if __name__ == "__main__":
    main()
