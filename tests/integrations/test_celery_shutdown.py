"""How a worker with a stream ends: warm, cold, killed, behind a broker that hangs."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from signal import SIGKILL, SIGQUIT, SIGTERM
from typing import Any

import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject, Worker, check_published, ledger, wait_until
from kit.faultproxy import FaultProxy, Swallow
from kit.numbered import NumberedServer
from kit.spoolfile import rows_in

CELERY_SECONDS = 120.0  # its own goodbyes to a broker that hangs, each within a timeout

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


def sent(server: StreamServer, first: int, last: int) -> None:
    for n in range(first, last + 1):
        server.send({"type": "number", "n": n})


def in_spool(project: CeleryProject) -> int:
    """Return how many messages the spool file holds."""
    [path] = (project.folder / "state").glob("datastream-ws/proj/*.spool")
    return len(rows_in(path))


def test_warm_with_500_waiting(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    """All are published, the server is told goodbye, the exit code is 0."""
    with FaultProxy(redis_url) as proxy:
        project = CeleryProject(tmp_path, broker=proxy.url, feed=server.url)
        with project.worker("--datastream") as worker:
            server.wait_connected(1, 60)
            worker.wait_log("ready.")
            proxy.refuse()
            proxy.sever()
            sent(server, 1, 500)
            worker.wait_stats(lambda stats: stats["messages_received"] == 500)
            worker.wait_log("the broker is unavailable")
            worker.signal(SIGTERM)
            worker.wait_log("Warm shutdown")
            proxy.accept()
            assert worker.process.wait(60) == 0, worker.log[-3000:]
        assert check_published(project.published(redis_url), 500) == 0
    assert server.connections[0].close_code in (1000, 1001)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("patience", [1.0, pytest.param(None, marks=pytest.mark.soak)])
def test_warm_behind_a_hung_broker(
    tmp_path: Path,
    server: StreamServer,
    broker: str,
    patience: float | None,
    request: pytest.FixtureRequest,
) -> None:
    """What cannot be published is in the spool, in time; the next start publishes it."""
    url = request.getfixturevalue({"redis": "redis_url", "rabbitmq": "amqp_url"}[broker])
    with FaultProxy(url) as proxy:
        options = {"close_timeout": 4.0}
        project = CeleryProject(
            tmp_path, broker=proxy.url, feed=server.url, options=options, patience=patience
        )
        with project.worker("--datastream") as worker:
            server.wait_connected(1, 60)
            worker.wait_log("ready.")
            sent(server, 1, 10)
            worker.wait_stats(lambda stats: stats["messages_handled"] == 10)
            proxy.both(Swallow())
            sent(server, 11, 500)
            worker.wait_stats(lambda stats: stats["messages_received"] == 500)
            began = time.monotonic()
            worker.signal(SIGTERM)
            worker.wait_log("stream default: closed")
            ours = time.monotonic() - began
            assert ours < 4.0 + 1.0, "within close_timeout, however long Celery's own goodbyes take"
            assert worker.process.wait(CELERY_SECONDS) == 0, worker.log[-3000:]
            took = time.monotonic() - began
        assert in_spool(project) == 490
        print(f"\nstopped after {took:.1f} s, our part within {ours:.1f} s; 490 in the spool")
    again = CeleryProject(tmp_path, broker=url, feed=server.url)
    again.queue, again.host = project.queue, project.host
    rewrite_queue(again)
    with again.worker("--datastream") as worker:
        worker.wait_stats(lambda stats: stats["messages_handled"] == 490)
        assert worker.stop() == 0
    check_published(again.published(), 500)


def rewrite_queue(project: CeleryProject) -> None:
    """Have a project use the queue of another."""
    path = project.folder / "project.json"
    given: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**given, "queue": project.queue}))


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_cold(tmp_path: Path, server: StreamServer, redis_url: str, pool: str) -> None:
    """Our part ends within a second, and the journal holds what was not published."""
    with FaultProxy(redis_url) as proxy:
        conf = {"broker_read_url": redis_url, "broker_write_url": proxy.url}
        project = CeleryProject(
            tmp_path,
            broker=redis_url,
            feed=server.url,
            conf=conf,
            options={"journal": True, "spool": str(tmp_path / "state/datastream-ws/proj/a.spool")},
        )
        (tmp_path / "state/datastream-ws/proj").mkdir(parents=True)
        with project.worker("-P", pool, "-c", "1", "--datastream") as worker:
            server.wait_connected(1, 60)
            worker.wait_log("ready.")
            proxy.refuse()
            proxy.sever()
            sent(server, 1, 300)
            worker.wait_stats(lambda stats: stats["messages_received"] == 300)
            worker.signal(SIGQUIT)
            wait_until(lambda: server.connections[0].close_code is not None, 20)
            worker.process.wait(60)
        took = seconds_between(worker.log, "stream default: closing", "stream default: closed")
        print(f"\nour part of a cold shutdown: {took:.2f} s")
        assert took < 1.0
        assert in_spool(project) == 300


def seconds_between(log: str, first: str, second: str) -> float:
    """Return how far apart two lines of a worker's log are."""

    def moment(text: str) -> datetime:
        [line] = [line for line in log.splitlines() if line.endswith(text)]
        return datetime.strptime(line[1:24], "%Y-%m-%d %H:%M:%S,%f")

    return (moment(second) - moment(first)).total_seconds()


@pytest.mark.parametrize(
    "times", [5, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_killed_at_random_moments(tmp_path: Path, redis_url: str, times: int) -> None:
    """With a journal nothing that was received is lost, however often the worker is killed."""
    chance = random.Random(times)
    options = {"journal": True, "spool": str(tmp_path / "{name}.spool")}
    with NumberedServer(1_000_000, rate=300) as server:
        project = CeleryProject(
            tmp_path / "p", broker=redis_url, feed=server.url, options=options, resume=True
        )
        for _ in range(times):
            with project.worker("--datastream") as worker:
                worker.wait_stats(lambda stats: stats["messages_handled"] > 20)
                time.sleep(chance.uniform(0.0, 1.5))
                worker.signal(SIGKILL)
                worker.process.wait()
        server.count = 0
        with project.worker("--datastream") as worker:
            last = settled(worker)
            assert worker.stop() == 0
        tasks = project.published()
    highest = max(number(task.argument) for task in tasks)
    doubled = check_published(tasks, highest)
    print(f"\nkilled {times} times: {highest} published, 0 lost, {doubled} doubled; {ledger(last)}")


def settled(worker: Worker) -> dict[str, Any]:
    """Wait until nothing is left to publish."""
    return worker.wait_stats(
        lambda stats: (
            stats["state"] == "ready" and stats["messages_handled"] == stats["messages_received"]
        )
    )


def number(argument: dict[str, Any]) -> int:
    n: int = json.loads(argument["data"])["n"]
    return n
