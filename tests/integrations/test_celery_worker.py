"""A stream in a real Celery worker: what starts it, what stops it, what it says of itself."""

from __future__ import annotations

import base64
import json
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject, check_published
from kit.faultproxy import FaultProxy

pytestmark = pytest.mark.timeout(300)  # a worker takes seconds to start, on a busy machine many


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """A broker that every machine has: folders."""
    for name in ("messages", "processed", "control"):
        (tmp_path / name).mkdir()
    return {
        "broker": "filesystem://",
        "conf": {
            "broker_transport_options": {
                "data_folder_in": str(tmp_path / "messages"),
                "data_folder_out": str(tmp_path / "messages"),
                "processed_folder": str(tmp_path / "processed"),
                "control_folder": str(tmp_path / "control"),
            },
            "worker_enable_remote_control": False,
        },
    }


def sent(server: StreamServer, *numbers: int) -> None:
    for n in numbers:
        server.send({"type": "number", "n": n})


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_messages_become_tasks(
    tmp_path: Path, server: StreamServer, files: dict[str, Any], pool: str
) -> None:
    """The main path on a bare machine, in every pool, to the task and its argument."""
    project = CeleryProject(tmp_path / "p", feed=server.url, consume=True, **files)
    with project.worker("-P", pool, "-c", "2", "--datastream") as worker:
        server.wait_connected(1, 60)
        sent(server, *range(1, 21))
        server.send(b"\x00\xff")
        items = project.wait(lambda: len(found := project.lines("ingested.jsonl")) == 21 and found)
        assert worker.stop() == 0, worker.log
    by_seq = sorted(items, key=lambda item: item["seq"])
    assert [json.loads(item["data"])["n"] for item in by_seq[:20]] == list(range(1, 21))
    first, binary = by_seq[0], by_seq[20]
    assert first.keys() == {
        "data", "route", "seq", "connection", "epoch", "received_at", "stream"
    }  # fmt: skip
    assert (first["route"], first["stream"], first["connection"]) == ("number", "default", 1)
    assert (base64.b64decode(binary["data"]), binary["binary"]) == (b"\x00\xff", True)
    assert server.connections[0].close_code in (1000, 1001)


def test_a_worker_without_datastream_opens_no_connection(
    tmp_path: Path, server: StreamServer, redis_url: str
) -> None:
    """Installed is not started."""
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url)
    with project.worker() as worker:
        worker.wait_log("ready.")
        assert worker.stop() == 0
    assert server.attempts == []


@pytest.mark.parametrize("how", ["environment", "conf"])
def test_other_ways_to_ask_for_it(
    tmp_path: Path, server: StreamServer, redis_url: str, how: str
) -> None:
    """CELERY_WORKER_DATASTREAM=1, or app.conf.datastream; --no-datastream wins."""
    conf = {"datastream": {"enabled": how == "conf"}}
    env = {"CELERY_WORKER_DATASTREAM": "1"} if how == "environment" else {}
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, conf=conf)
    with project.worker(**env):
        server.wait_connected(1, 60)
    with project.worker("--no-datastream", **env) as worker:
        worker.wait_log("ready.")
        assert worker.stop() == 0
    assert len(server.attempts) == 1


def test_chosen_streams(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    """--datastream-streams names those this worker runs; a name that is none is refused."""
    project = CeleryProject(
        tmp_path, broker=redis_url, feed=server.url, streams=("a", "b", "c"), forward=False
    )
    with project.worker("--datastream", "--datastream-streams", "c,a") as worker:
        server.wait_connected(2, 60)
        worker.wait_log("ready.")
        assert worker.stop() == 0
    assert len(server.attempts) == 2
    with project.worker("--datastream", "--datastream-streams", "a,x") as worker:
        assert worker.process.wait(60) == 1
    assert "unknown stream 'x'. Use one of: a, b, c" in worker.log


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_green_pools_are_refused(
    tmp_path: Path, server: StreamServer, redis_url: str, pool: str
) -> None:
    """With the reason and the cure, before anything is opened."""
    pytest.importorskip(pool)
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url)
    with project.worker("-P", pool, "--datastream") as worker:
        assert worker.process.wait(60) == 1
    assert f"does not work with the {pool} pool" in worker.log
    assert server.attempts == []


def test_remote_commands(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    """inspect and control, to one worker by its name."""
    # The commands of a database number are shared by all workers there: this app has its own.
    conf = {"control_exchange": f"ds-{uuid.uuid4().hex[:8]}"}
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, conf=conf)

    def celery(*arguments: str) -> str:
        done = project.celery(*arguments, "--timeout", "20", "-d", f"w1@{project.host}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    with project.worker("--datastream") as worker:
        server.wait_connected(1, 60)
        worker.wait_log("ready.")
        sent(server, 1, 2, 3)
        worker.wait_stats(lambda stats: stats["messages_handled"] == 3)
        answer = json.loads(celery("inspect", "datastream", "--json"))[f"w1@{project.host}"][
            "default"
        ]
        assert (answer["state"], answer["messages_handled"]) == ("ready", 3)
        table = celery("inspect", "datastream")
        assert re.search(rf"(?m)^default  ready +\d+ s  w1@{project.host} +0 s .* 3 +0 ", table), (
            table
        )
        stats = json.loads(celery("inspect", "stats", "--json"))[f"w1@{project.host}"]["datastream"]
        assert stats["default"].startswith("ready: received 3, handled 3, failed 0")
        assert "pause requested for default" in celery("control", "datastream_pause", "default")
        worker.wait_stats(lambda stats: stats["state"] == "paused")
        assert "resume requested for default" in celery("control", "datastream_resume")
        server.wait_connected(2, 20)
        assert "reconnect requested for default" in celery("control", "datastream_reconnect")
        server.wait_connected(3, 20)
        assert "no stream 'x' runs in this worker. Use one of: default" in celery(
            "control", "datastream_pause", "x"
        )
        assert worker.stop() == 0
    project.published()


def test_a_stream_that_fails_for_good_stops_the_worker_if_wanted(
    tmp_path: Path, server: StreamServer, redis_url: str
) -> None:
    """on_fatal "shutdown": a warm stop, exit code 3."""
    server.refuse(403)
    conf = {"datastream": {"on_fatal": "shutdown"}}
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, conf=conf)
    with project.worker("--datastream") as worker:
        assert worker.process.wait(60) == 3, worker.log
    assert "Warm shutdown" in worker.log or "the worker stops" in worker.log


def test_a_stream_that_fails_for_good_leaves_the_worker_alone(
    tmp_path: Path, server: StreamServer, redis_url: str
) -> None:
    """on_fatal "log", the default: the stream tries again at the pace of fatal_delay."""
    server.refuse(403, times=1)
    project = CeleryProject(
        tmp_path, broker=redis_url, feed=server.url, options={"fatal_delay": 0.5}
    )
    with project.worker("--datastream") as worker:
        server.wait_connected(1, 60)
        worker.wait_log("ready.")
        assert worker.stop() == 0


def test_broker_down_at_start(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    """The stream's messages wait, and are published in order once the broker is there."""
    with FaultProxy(redis_url) as proxy:
        proxy.refuse()
        project = CeleryProject(tmp_path, broker=proxy.url, feed=server.url)
        with project.worker("--datastream") as worker:
            server.wait_connected(1, 60)
            sent(server, *range(1, 101))
            stats = worker.wait_stats(lambda stats: stats["messages_received"] == 100)
            assert (stats["messages_handled"], stats["messages_failed"]) == (0, 0)
            worker.wait_log("the broker is unavailable")
            proxy.accept()
            worker.wait_stats(lambda stats: stats["messages_handled"] == 100)
            worker.wait_log("ready.")
            assert worker.stop() == 0
        assert check_published(project.published(redis_url), 100) == 0


def test_batches(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    """One task for many messages; max_wait ends a batch that is not full."""
    project = CeleryProject(
        tmp_path, broker=redis_url, feed=server.url, forward_options={"batch": (10, 0.5)}
    )
    with project.worker("--datastream") as worker:
        server.wait_connected(1, 60)
        sent(server, *range(1, 26))
        worker.wait_stats(lambda stats: stats["messages_handled"] == 25)
        assert worker.stop() == 0
    tasks = project.published()
    assert check_published(tasks, 25) == 0
    assert [len(task.argument) for task in tasks][-1] <= 10


@pytest.mark.leaks_allowed("kombu 5.5 lets go of a closed Redis connection's epoll late")
@pytest.mark.parametrize("count", [40, pytest.param(150, marks=pytest.mark.ci)])
def test_recycled_children_beside_a_busy_stream(
    tmp_path: Path, server: StreamServer, redis_url: str, count: int
) -> None:
    """--max-tasks-per-child 1: each task is a fork of a process with our threads in it."""
    stream_queue = f"ds-test-{uuid.uuid4().hex[:12]}"
    project = CeleryProject(
        tmp_path,
        broker=redis_url,
        feed=server.url,
        consume=True,
        forward_options={"queue": stream_queue},
    )
    ended = threading.Event()

    def keep_sending() -> None:
        n = 0
        while not ended.wait(0.01):
            for _ in range(10):
                n += 1
                server.send({"type": "number", "n": n})

    prefork = ("-P", "prefork", "-c", "2", "--max-tasks-per-child", "1")
    with project.worker(*prefork, "--datastream") as worker:
        server.wait_connected(1, 60)
        worker.wait_log("ready.")
        feeding = threading.Thread(target=keep_sending)
        feeding.start()
        try:
            send_work(project, count)
            worked = project.wait(
                lambda: len(found := project.lines("worked.jsonl")) == count and found, 200
            )
        finally:
            ended.set()
            feeding.join()
        assert worker.stop() == 0, worker.log[-3000:]
    assert sorted(n for n, _, _ in worked) == list(range(count))
    assert len({pid for _, pid, _ in worked}) == count
    assert {state for _, _, state in worked} == {"idle"}  # none of them has the stream
    assert len(server.attempts) == 1
    clear(redis_url, project.queue, stream_queue)


def send_work(project: CeleryProject, count: int) -> None:
    app = celery.Celery("sender", broker=project.broker)
    with app.connection_for_write() as connection:
        for n in range(count):
            app.send_task("proj.work", args=(n,), queue=project.queue, connection=connection)
    app.close()


def clear(url: str, *queues: str) -> None:
    with kombu.Connection(url) as connection:
        for queue in queues:
            kombu.Queue(queue, routing_key=queue)(connection.channel()).delete()
