"""A fleet in a real Celery worker: its messages become tasks, and commands reach one stream."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject
from kit.faultproxy import FaultProxy

pytestmark = pytest.mark.timeout(300)  # a worker takes seconds to start, on a busy machine many

MODULE = """
import json
from pathlib import Path

from celery import Celery
from datastream_ws import Fleet
from datastream_ws.celery import forward, install

given = json.loads((Path(__file__).parent / "project.json").read_text())
app = Celery("proj", broker=given["broker"])
app.conf.update(task_default_queue=given["queue"], broker_connection_retry_on_startup=True)
app.conf.update(given["conf"])


def accounts():
    return {key: {"url": f"{given['feed']}/{key}"} for key in (1, 2, "shop")}


fleet = Fleet(accounts, name="accounts", min_reconnect_delay=0.1, max_reconnect_delay=0.2)
install(app, fleet)
forward(fleet, "proj.ingest", **given["forward_options"])
"""


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


def test_tasks_get_the_key(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, module=MODULE)
    with project.worker("--datastream") as worker:
        server.wait_connected(3, 60)
        for key in (1, 2, "shop"):
            worker.wait_log(f"stream accounts/{key}: ready")
        server.send({"n": 1})
        server.send({"n": 2})
        worker.wait_log("ready.")
        assert worker.stop() == 0
    tasks = [task.argument for task in project.published()]
    assert {(task["key"], task["stream"]) for task in tasks} == {
        (1, "accounts/1"),
        (2, "accounts/2"),
        ("shop", "accounts/shop"),
    }
    for key in (1, 2, "shop"):
        mine = [json.loads(task["data"])["n"] for task in tasks if task["key"] == key]
        assert mine == [1, 2]
    spools = {path.name for path in (tmp_path / "state").rglob("*.spool")}
    assert len(spools) == 3, "each stream has a file of its own"


def test_batches_are_of_one_stream(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    project = CeleryProject(
        tmp_path,
        broker=redis_url,
        feed=server.url,
        module=MODULE,
        forward_options={"batch": (10, 0.2)},
    )
    with project.worker("--datastream") as worker:
        server.wait_connected(3, 60)
        for n in range(5):
            server.send({"n": n})
        worker.wait_log("ready.")
        assert worker.stop() == 0
    batches = [task.argument for task in project.published()]
    assert sum(len(batch) for batch in batches) == 15
    assert all(len({each["key"] for each in batch}) == 1 for batch in batches)


def test_remote_commands(tmp_path: Path, server: StreamServer, redis_url: str) -> None:
    conf = {"control_exchange": f"ds-{uuid.uuid4().hex[:8]}"}
    project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, conf=conf, module=MODULE)

    def celery(*arguments: str) -> str:
        done = project.celery(*arguments, "--timeout", "20", "-d", f"w1@{project.host}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    with project.worker("--datastream") as worker:
        server.wait_connected(3, 60)
        worker.wait_log("ready.")

        def inspected() -> dict[str, object]:
            answer = json.loads(celery("inspect", "datastream", "--json"))
            found: dict[str, object] = answer[f"w1@{project.host}"]["accounts"]
            return found

        project.wait(lambda: inspected()["streams"] == {"ready": 3})
        assert inspected()["state"] == "ready"
        assert "streams: 3 ready" in celery("inspect", "stats")
        assert "reconnect requested for accounts" in celery(
            "control", "datastream_reconnect", "accounts", "shop"
        )
        server.wait_connected(4, 20)
        assert server.connections[-1].path == "/shop"
        answer = celery("control", "datastream_reconnect", "accounts", "9")
        assert "no stream accounts/9 runs in this worker" in answer
        assert "pause requested for accounts" in celery("control", "datastream_pause", "accounts")
        project.wait(lambda: inspected()["state"] == "paused")
        assert worker.stop() == 0
    project.published()


def test_while_the_broker_is_away_all_streams_wait(
    tmp_path: Path, server: StreamServer, redis_url: str
) -> None:
    """They share a publisher: the streams behind the first one need not find out one by one."""
    with FaultProxy(redis_url) as proxy:
        proxy.refuse()
        project = CeleryProject(tmp_path, broker=proxy.url, feed=server.url, module=MODULE)
        with project.worker("--datastream") as worker:
            server.wait_connected(3, 60)
            for n in range(20):
                server.send({"n": n})
            worker.wait_log("the broker is unavailable")
            proxy.accept()
            worker.wait_log("the broker is available again")
            worker.wait_log("ready.")
            assert worker.stop() == 0
        tasks = [task.argument for task in project.published(redis_url)]
    for key in (1, 2, "shop"):
        mine = [json.loads(task["data"])["n"] for task in tasks if task["key"] == key]
        assert mine == list(range(20))
