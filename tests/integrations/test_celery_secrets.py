"""No secret of a worker is shown: not by the log, not to those who ask, not on the disk."""

from __future__ import annotations

from pathlib import Path
from signal import SIGQUIT

import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject
from kit.redisserver import PrivateRedis

CANARY = "c4n4ry-s3cr3t"


@pytest.mark.xdist_group("celery secrets")
def test_no_secret_is_shown(tmp_path: Path) -> None:
    """At DEBUG, while the broker is there, while it is away, and at a cold end."""
    folder = tmp_path / "p"
    with StreamServer() as server, PrivateRedis(tmp_path, CANARY) as redis:
        project = CeleryProject(
            folder,
            broker=redis.url,
            feed=f"{server.url}/?token={CANARY}",
            options={"headers": {"Authorization": CANARY}, "lease": redis.url},
        )
        with project.worker("--datastream", "-l", "DEBUG") as worker:
            server.wait_connected(1, 60)
            server.send({"n": 1})
            worker.wait_stats(lambda stats: stats["messages_handled"] == 1)
            asked = project.celery("inspect", "stats", "--json")
            assert "datastream" in asked.stdout, asked.stderr
            shown = project.celery("inspect", "datastream", "--json")
            assert '"messages_handled": 1' in shown.stdout, shown.stderr
            redis.kill()
            server.send({"n": 2})
            worker.wait_log("the broker")
            worker.stop(SIGQUIT)
    assert server.connections[0].headers["Authorization"] == CANARY
    told = "".join([worker.log, asked.stdout, asked.stderr, shown.stdout, shown.stderr])
    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "project.json"]
    assert len(written) > 2
    assert CANARY not in told
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
