"""Three workers, one stream: who has it, and who takes over."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject, Worker, wait_until

pytestmark = pytest.mark.timeout(300)

TTL = 4.0


@contextmanager
def feeding(server: StreamServer) -> Iterator[None]:
    """Send 100 numbers a second to whoever is connected."""
    ended = threading.Event()

    def feed() -> None:
        for n in itertools.count(1):
            if ended.wait(0.01):
                return
            server.send({"type": "number", "n": n})

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def three_workers(
    folder: Path, server: StreamServer, redis_url: str
) -> Iterator[tuple[CeleryProject, list[Worker]]]:
    """Start three workers; when they are given, one is connected and two stand by."""
    pytest.importorskip("redis")
    project = CeleryProject(
        folder,
        broker=redis_url,
        feed=server.url,
        options={"lease": redis_url, "lease_ttl": TTL},
        streams=(f"lease-{uuid.uuid4().hex[:8]}",),
    )
    workers = [project.start("--datastream", node=f"w{n}") for n in range(3)]
    try:
        for worker in workers:
            worker.wait_log("ready.")
            worker.wait_stats(lambda stats: stats["state"] in ("ready", "standby"))
        yield project, workers
    finally:
        for worker in workers:
            worker.kill()


def holder(workers: list[Worker]) -> Worker:
    [found] = [worker for worker in workers if worker.stats().get("state") == "ready"]
    return found


def open_connections(server: StreamServer) -> int:
    return sum(connection.is_open for connection in server.connections)


def test_one_connection_and_a_holder_that_is_killed(tmp_path: Path, redis_url: str) -> None:
    """kill -9: another worker is connected within the TTL."""
    with (
        StreamServer() as server,
        three_workers(tmp_path, server, redis_url) as (project, workers),
        feeding(server),
    ):
        server.wait_connected(1, 60)
        assert open_connections(server) == 1
        killed = holder(workers)
        killed.signal(SIGKILL)
        began = time.monotonic()
        server.wait_connected(2, 60)
        took = time.monotonic() - began
        print(f"\nkilled: taken over after {took:.1f} s of {TTL} s")
        assert took < TTL
        assert open_connections(server) == 1
        [other] = {wait_for_holder([w for w in workers if w is not killed])}
        other.wait_stats(lambda stats: stats["messages_handled"] > 20)
    project.published()


def wait_for_holder(workers: list[Worker]) -> Worker:
    wait_until(lambda: any(w.stats().get("state") == "ready" for w in workers), 30)
    return holder(workers)


def test_an_orderly_end(tmp_path: Path, redis_url: str) -> None:
    """SIGTERM: another worker is connected within a second of the goodbye."""
    with StreamServer() as server, three_workers(tmp_path, server, redis_url) as (project, workers):
        server.wait_connected(1, 60)
        holder(workers).signal(SIGTERM)
        wait_until(lambda: not server.connections[0].is_open, 30)
        began = time.monotonic()
        server.wait_connected(2, 30)
        took = time.monotonic() - began
        print(f"\norderly end: taken over {took:.2f} s after the goodbye")
        assert took < 1.0
    project.published()


def test_a_holder_that_was_stopped(tmp_path: Path, redis_url: str) -> None:
    """SIGSTOP for longer than the TTL: nothing of an older epoch after the first of a newer."""
    with (
        StreamServer() as server,
        three_workers(tmp_path, server, redis_url) as (project, workers),
        feeding(server),
    ):
        server.wait_connected(1, 60)
        stopped = holder(workers)
        stopped.wait_stats(lambda stats: stats["messages_handled"] > 50)
        stopped.signal(SIGSTOP)
        server.wait_connected(2, 60)
        others = [worker for worker in workers if worker is not stopped]
        wait_for_holder(others).wait_stats(lambda stats: stats["messages_handled"] > 50)
        stopped.signal(SIGCONT)
        stopped.wait_stats(lambda stats: stats["state"] == "standby")
        new = holder(others)
        handled = new.stats()["messages_handled"]
        new.wait_stats(lambda stats: stats["messages_handled"] > handled + 50)
        assert open_connections(server) == 1
        epochs = [task.argument["epoch"] for task in project.published()]
    newest = max(epochs)
    late = [epoch for epoch in epochs[epochs.index(newest) :] if epoch != newest]
    print(f"\n{len(epochs)} published, {len(late)} with an older epoch after the first of a newer")
    assert len(set(epochs)) == 2
    assert len(late) <= 1  # the one that was being published when the process was stopped
