"""The broker's password is shown nowhere: not by the log, not to those who ask, not on the disk."""

from __future__ import annotations

from pathlib import Path
from signal import SIGQUIT

import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject
from kit.redisserver import PrivateRedis

CANARY = "c4n4ry-s3cr3t"


@pytest.mark.xdist_group("celery secrets")
def test_the_brokers_password_is_not_shown(tmp_path: Path) -> None:
    """At DEBUG, while the broker is there, while it is away, and at a cold end."""
    folder = tmp_path / "p"
    with StreamServer() as server, PrivateRedis(tmp_path, CANARY) as redis:
        project = CeleryProject(folder, broker=redis.url, feed=server.url)
        with project.worker("--datastream", "-l", "DEBUG") as worker:
            server.wait_connected(1, 60)
            server.send({"n": 1})
            worker.wait_stats(lambda stats: stats["messages_handled"] == 1)
            asked = project.celery("inspect", "stats", "--json")
            assert "datastream" in asked.stdout, asked.stderr
            redis.kill()
            server.send({"n": 2})
            worker.wait_log("the broker")
            worker.stop(SIGQUIT)
    told = worker.log + asked.stdout + asked.stderr
    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "project.json"]
    assert len(written) > 2
    assert CANARY not in told
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
