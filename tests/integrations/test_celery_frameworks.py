"""Streams of Django's and Flask's in a worker."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from kit.celeryproject import CeleryProject, check_published

pytestmark = pytest.mark.timeout(180)

DJANGO = """
import os
from celery import Celery
from datastream_ws.celery import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
install(app)            # before django.setup(): DATASTREAMS are not read yet
"""
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "datastream_ws_django", "shop"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{folder}/db.sqlite3"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATASTREAMS = {{
    "default": {{"URL": "{feed}"}},
    "off": {{"URL": "{feed}", "ENABLED": False}},
}}
CELERY_BROKER_URL = "{broker}"
CELERY_TASK_DEFAULT_QUEUE = "{queue}"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
"""
SHOP = """
from datastream_ws.celery import forward
from datastream_ws_django import datastream
from django.contrib.contenttypes.models import ContentType

forward(datastream, "shop.ingest")

@datastream.on_message("number")
def count(message):
    ContentType.objects.create(app_label="seen", model=str(message.json()["n"]))
    print(f"stored {ContentType.objects.filter(app_label='seen').count()}")
"""

FLASK = """
import json
from pathlib import Path

from celery import Celery
from flask import Flask, current_app
from datastream_ws.celery import forward, install
from datastream_ws_flask import DataStream

given = json.loads((Path(__file__).parent / "project.json").read_text())
datastream = DataStream()
app = Celery("proj", broker=given["broker"])
app.conf.task_default_queue = given["queue"]

def create_app():
    flask_app = Flask("shop")
    flask_app.config["DATASTREAM_URL"] = given["feed"]
    datastream.init_app(flask_app)
    return flask_app

forward(datastream, "shop.ingest")
install(app, datastream, flask_app=create_app)

@datastream.on_message("number")
def seen(message):
    print(f"seen {message.json()['n']} in {current_app.name}")
"""


def send(server: StreamServer, count: int) -> None:
    for n in range(1, count + 1):
        server.send({"type": "number", "n": n})


def test_django(tmp_path: Path, redis_url: str) -> None:
    """install(app): DATASTREAMS, handlers with the ORM, forward() beside them."""
    pytest.importorskip("django")
    with StreamServer() as server:
        project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, module=DJANGO)
        words = {"folder": tmp_path, "feed": server.url, "broker": redis_url}
        (tmp_path / "settings.py").write_text(SETTINGS.format(queue=project.queue, **words))
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "__init__.py").touch()
        (tmp_path / "shop" / "datastreams.py").write_text(SHOP)
        migrate(project)
        with project.worker("--datastream") as worker:
            server.wait_connected(1, 60)
            worker.wait_log("ready.")
            send(server, 20)
            worker.wait_log("stored 20")
            project.wait(lambda: status_rows(tmp_path)[0][0] == "ready")
            assert worker.stop() == 0, worker.log[-2000:]
            assert status_rows(tmp_path) == [("closed", worker.pid, 20, 20)]
        assert check_published(project.published(), 20) == 0
        assert len(server.attempts) == 1


def status_rows(folder: Path) -> list[tuple[str, int, int, int]]:
    """What the admin shows of the worker's stream."""
    with closing(sqlite3.connect(folder / "db.sqlite3")) as database:
        return database.execute(
            "SELECT state, pid, messages_received, messages_handled FROM datastream_streamstatus "
            "WHERE stream = 'default'"
        ).fetchall()


def migrate(project: CeleryProject) -> None:
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "-v0", "--settings", "settings"],
        cwd=project.folder,
        env=project.env,
        check=True,
        timeout=60,
    )


def test_flask(tmp_path: Path, redis_url: str) -> None:
    """flask_app=: a factory, not called before the worker starts; handlers in its context."""
    pytest.importorskip("flask")
    with StreamServer() as server:
        project = CeleryProject(tmp_path, broker=redis_url, feed=server.url, module=FLASK)
        with project.worker("--datastream") as worker:
            server.wait_connected(1, 60)
            worker.wait_log("ready.")
            send(server, 20)
            worker.wait_log("seen 20 in shop")
            assert worker.stop() == 0, worker.log[-2000:]
        assert check_published(project.published(), 20) == 0
