"""The README's Celery section, followed to the letter."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.celeryproject import ROOT, CeleryProject

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Celery\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^    (celery .*?)(?:  +#.*)?$", SECTION, re.MULTILINE)


def test_commands_are_those_shown_here() -> None:
    assert COMMANDS == [
        "celery -A proj worker --datastream",
        "celery -A proj inspect datastream",
        "celery -A proj control datastream_pause",
    ]


@pytest.mark.timeout(180)
def test_example(tmp_path: Path, redis_url: str) -> None:
    """What the feed answers to the subscription ends up in the task."""

    def answer(connection: StreamConnection, data: str | bytes) -> None:
        connection.send({"type": "flag_update", "key": "feature1"})

    [example] = re.findall(r'^```python title="proj\.py"\n(.*?)^```', SECTION, re.S | re.M)
    name = f"readme-{uuid.uuid4().hex[:8]}"
    with StreamServer(on_message=answer) as server:
        module = example.replace("wss://api.example.com/stream", server.url)
        module = module.replace("redis://localhost", redis_url)
        # The lease and the queue are others' on a shared Redis.
        module = module.replace("lease=", f"name={name!r}, lease=")
        project = CeleryProject(
            tmp_path, broker=redis_url, feed=server.url, consume=True, module=module
        )
        with (tmp_path / "proj.py").open("a") as file:
            file.write(f"\napp.conf.task_default_queue = {project.queue!r}\n")
            file.write(f"app.conf.control_exchange = {name!r}\n")
        with project.worker("--datastream") as worker:
            worker.wait_log("feature1")
            worker.wait_log("ready.")
            shown = project.celery("inspect", "datastream", "--timeout", "20", "-d", "w1@test")
            assert '"state": "ready"' in shown.stdout
            paused = project.celery("control", "datastream_pause", "--timeout", "20")
            assert paused.returncode == 0
            worker.wait_log("paused")
            assert worker.stop() == 0
    project.published()
