"""The README's Django section, followed to the letter from ``startproject``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.djangoproject import PATIENCE, ROOT, Process

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Django\n")[2].partition("\n## ")[0]
FILES = re.findall(r'^```python title="(.*?)"\n(.*?)^```', SECTION, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    python manage\.py (.*?)(?:  +#.*)?$", SECTION, re.MULTILINE)

SHOW = "from flags.models import Flag; print(list(Flag.objects.values_list('key', 'value')))"


class Newcomer:
    """Somebody with an empty folder and this page."""

    def __init__(self, folder: Path, url: str) -> None:
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "PYTHONPATH": str(ROOT),
        }
        self.folder = folder
        self.run("-m", "django", "startproject", "mysite", ".")
        self.run("manage.py", "startapp", "flags")
        for name, content in FILES:
            self.add(name, content.replace("wss://api.example.com/stream", url))

    def add(self, name: str, content: str) -> None:
        path = self.folder / name
        before = path.read_text() if name.endswith("settings.py") else ""
        path.write_text(before + "\n" + textwrap.dedent(content))

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> Process:
        command = [sys.executable, "manage.py", *arguments]
        return Process(command, self.folder, self.env, self.folder / "output.txt")


@pytest.fixture
def feed() -> Iterator[StreamServer]:
    """A server that answers a subscription."""

    def answer(connection: StreamConnection, data: str | bytes) -> None:
        connection.send({"type": "flag_update", "key": "feature1", "value": False})
        connection.send({"type": "flag_update", "key": "feature2", "value": True})
        connection.send({"type": "flag_update", "key": "feature1", "value": True})

    with StreamServer(on_message=answer) as server:
        yield server


def test_four_steps_and_rows_appear(tmp_path: Path, feed: StreamServer) -> None:
    newcomer = Newcomer(tmp_path, feed.url)
    *before, run, status = COMMANDS
    assert (run, status) == ("run_datastream", "datastream_status")
    for command in before:
        newcomer.run("manage.py", *command.split())
    newcomer.run("manage.py", *status.split(), code=1)
    with newcomer.start(*run.split()) as runner:
        expected = "[('feature1', True), ('feature2', True)]"
        runner.wait_for(lambda: expected in newcomer.run("manage.py", "shell", "-c", SHOW))
        newcomer.run("manage.py", *status.split())
        assert feed.connections[0].headers["Authorization"] == "Bearer 1234"
        runner.terminate()
        assert runner.wait() == 0
    assert feed.connections[0].close_code == 1000


def test_settings_of_a_new_project_pass_the_checks(tmp_path: Path, feed: StreamServer) -> None:
    newcomer = Newcomer(tmp_path, "wss://api.example.com/stream")
    printed = newcomer.run("manage.py", "check", "--deploy", "--tag", "datastream")
    assert "no issues" in printed
