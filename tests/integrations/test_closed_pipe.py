"""The commands in a pipe whose reader has exited, as in `| head -1`: they exit without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datastream_ws.process.signals import BROKEN_PIPE
from datastream_ws.testing import StreamServer

FILES = {
    "app.py": """
import os
from flask import Flask
from datastream_ws_flask import DataStream
app = Flask(__name__)
app.config.update(DATASTREAM_URL="ws://127.0.0.1:1/", DATASTREAM_HEALTH_FILE="health.json")
datastream = DataStream(app)
""",
    "health.json": '{"streams": []}',
    "settings.py": """
SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["datastream_ws_django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DATASTREAMS = {"default": {"URL": "ws://127.0.0.1:1/"}}
""",
    "proj.py": """
from celery import Celery
from datastream_ws import Client
from datastream_ws.celery import install
app = Celery("proj", broker="memory://")
install(app, Client("ws://127.0.0.1:1/"))
""",
}
DJANGO = ["django", "datastream_status"]
FLASK = ["flask", "--app", "app", "datastream", "status"]
CELERY = ["celery", "-A", "proj", "inspect", "-t", "0.1", "datastream"]
CHECK = ["datastream_ws.cli", "check", "--json", "ws://127.0.0.1:1/"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done, _, text = run(tmp_path, ["django", "migrate"], stdout=subprocess.DEVNULL)
    assert done == 0, text
    return tmp_path


def run(folder: Path, command: list[str], stdout: int) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout or "", done.stderr


def in_closed_pipe(folder: Path, command: list[str]) -> tuple[int, str]:
    """Return the exit code and stderr of a command whose reader has exited."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, _, text = run(folder, command, writer)
    finally:
        os.close(writer)
    return code, text


@pytest.mark.parametrize(
    "command",
    [
        *(DJANGO, [*DJANGO, "--json"], [*DJANGO, "--watch"], [*DJANGO, "--watch", "--json"]),
        *(FLASK, [*FLASK, "--json"], [*FLASK, "--watch"], [*FLASK, "--watch", "--json"]),
        *(CELERY, [*CELERY, "--watch"]),
        CHECK,
    ],
    ids=" ".join,
)
def test_a_command_whose_reader_has_exited(folder: Path, command: list[str]) -> None:
    assert in_closed_pipe(folder, command) == (BROKEN_PIPE, "")


def test_listen_ends_with_its_reader(tmp_path: Path) -> None:
    """It exits in order, because it closes its connection first."""
    with StreamServer(on_connect=lambda connection: connection.send("a")) as server:
        code, text = in_closed_pipe(tmp_path, ["datastream_ws.cli", "listen", server.url])
    assert code == 0
    assert "Traceback" not in text
    assert "Broken" not in text
