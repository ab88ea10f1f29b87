"""``datastream_ws_django.tasks.forward`` with real backends: Django's own, and the database's."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import django
import pytest

from datastream_ws.testing import StreamServer
from kit.djangoproject import PATIENCE, Process
from kit.pages import Block, steps
from kit.seen import eventually
from kit.spoolfile import rows_in

needs_tasks = pytest.mark.skipif(django.VERSION < (6, 0), reason="Django 6.0 has Tasks")

SETTINGS = """
import json, os
SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["datastream_ws_django", "shop", *json.loads(os.environ["APPS"])]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3",
             "OPTIONS": {"timeout": 0.2, "transaction_mode": "IMMEDIATE"}}}
TASKS = {"default": {"BACKEND": os.environ["BACKEND"], "QUEUES": ["default", "ticks"]}}
DATASTREAMS = {"default": {
    "URL": os.environ["URL"], "SPOOL": "spool.sqlite3", "JOURNAL": True,
    "MIN_RECONNECT_DELAY": 0.02, "MAX_RECONNECT_DELAY": 0.1,
}}
"""
TASKS = """
import json, os
from django.tasks import task

def note(**words):
    with open("done.jsonl", "a") as file:
        file.write(json.dumps(words) + "\\n")

@task
def one(message):
    note(one=json.loads(message["data"])["n"], seq=message["seq"], stream=message["stream"])

@task(queue_name="ticks")
def many(messages):
    note(many=[json.loads(message["data"])["n"] for message in messages])

@task(takes_context=True)
def failing(context, message):
    note(failing=context.attempt)
    raise RuntimeError("of the task")
"""
DATASTREAMS = """
from datastream_ws_django import datastream
from datastream_ws_django.tasks import forward
from shop.tasks import one, many, failing
forward(datastream, one, "tick")
forward(datastream, many, "tock", batch=(3, 0.2))
forward(datastream, failing, "bad")
"""
IMMEDIATE = "django.tasks.backends.immediate.ImmediateBackend"
DATABASE = "django_tasks_db.DatabaseBackend"


class Shop:
    """A project whose streams go to tasks."""

    def __init__(self, folder: Path, url: str, backend: str) -> None:
        self.folder = folder
        apps = ["django_tasks_db"] if backend == DATABASE else []
        self.environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "settings",
            "URL": url,
            "BACKEND": backend,
            "APPS": json.dumps(apps),
        }
        (folder / "shop").mkdir()
        files = {"__init__": "", "tasks": TASKS, "datastreams": DATASTREAMS}
        for name, text in files.items():
            (folder / "shop" / f"{name}.py").write_text(text)
        (folder / "settings.py").write_text(SETTINGS)
        self.manage("migrate", "-v0")

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments),
            cwd=self.folder, env=self.environment, timeout=2 * PATIENCE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, name: str) -> Process:
        log = self.folder / f"{name}.log"
        return Process(self._command("run_datastream"), self.folder, self.environment, log)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "django", *arguments]

    @property
    def done(self) -> list[dict[str, Any]]:
        """What tasks have noted, in order."""
        path = self.folder / "done.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def enqueued(self) -> int:
        with closing(sqlite3.connect(self.folder / "db.sqlite3", timeout=10)) as database:
            [count] = database.execute(
                "SELECT count(*) FROM django_tasks_database_dbtaskresult"
            ).fetchone()
        return int(count)


@pytest.fixture
def shop(tmp_path: Path, stream_server: StreamServer) -> Callable[[str], Shop]:
    return lambda backend: Shop(tmp_path, stream_server.url, backend)


@needs_tasks
def test_the_immediate_backend_runs_the_task_here(
    shop: Callable[[str], Shop], stream_server: StreamServer
) -> None:
    project = shop(IMMEDIATE)
    with project.start("runner") as runner:
        stream_server.wait_connected(1, PATIENCE)
        for n in (1, 2):
            stream_server.send({"type": "tick", "n": n})
        stream_server.send({"type": "bad"})
        stream_server.send({"type": "tick", "n": 3})
        eventually(lambda: len(project.done) == 4, PATIENCE)
        runner.terminate()
        assert runner.wait() == 0, runner.output
    assert project.done == [
        {"one": 1, "seq": 1, "stream": "default"},
        {"one": 2, "seq": 2, "stream": "default"},
        {"failing": 1},
        {"one": 3, "seq": 4, "stream": "default"},
    ]


@needs_tasks
def test_the_database_backend_runs_each_task_in_its_worker(
    shop: Callable[[str], Shop], stream_server: StreamServer
) -> None:
    project = shop(DATABASE)
    with project.start("runner") as runner:
        stream_server.wait_connected(1, PATIENCE)
        for n in (1, 2, 3):
            stream_server.send({"type": "tock", "n": n})
        stream_server.send({"type": "tick", "n": 4})
        eventually(lambda: project.enqueued() == 2, PATIENCE)
        assert not project.done
        runner.terminate()
        assert runner.wait() == 0, runner.output
    project.manage("db_worker", "--batch", "--queue-name", "*")
    found = sorted(project.done, key=str)
    assert found == [{"many": [1, 2, 3]}, {"one": 4, "seq": 4, "stream": "default"}]


@needs_tasks
def test_nothing_is_lost_when_the_database_is_away_and_the_process_is_killed(
    shop: Callable[[str], Shop], stream_server: StreamServer
) -> None:
    """At least once: what was received is in the spool, and enqueued after the restart."""
    project = shop(DATABASE)
    with closing(sqlite3.connect(project.folder / "db.sqlite3", isolation_level=None)) as other:
        with project.start("first") as runner:
            stream_server.wait_connected(1, PATIENCE)
            stream_server.send({"type": "tick", "n": 1})
            eventually(lambda: project.enqueued() == 1, PATIENCE)
            other.execute("BEGIN EXCLUSIVE")
            for n in (2, 3, 4):
                stream_server.send({"type": "tick", "n": n})
            away = "stream default: tasks cannot be enqueued (OperationalError: database is locked)"
            runner.wait_output(away)
            eventually(lambda: kept(project) == 3, PATIENCE)
            runner.send_signal(signal.SIGKILL)
            runner.wait()
            assert runner.output.count("tasks cannot be enqueued") == 1
        other.execute("ROLLBACK")
    with project.start("second") as runner:
        eventually(lambda: project.enqueued() >= 4, PATIENCE)
        runner.terminate()
        assert runner.wait() == 0, runner.output
    project.manage("db_worker", "--batch", "--queue-name", "*")
    numbers = [each["one"] for each in project.done]
    assert set(numbers) == {1, 2, 3, 4}
    assert len(numbers) <= 5, "only what was in hand may come twice"


@needs_tasks
def test_the_page_holds(shop: Callable[[str], Shop], stream_server: StreamServer) -> None:
    project = shop(IMMEDIATE)
    for block in steps("docs/howto/django-tasks.md"):
        if isinstance(block, Block) and block.title:
            text = "" if block.title != "settings.py" else SETTINGS
            (project.folder / block.title).write_text(text + block.text)
    project.manage("migrate", "-v0")
    with project.start("runner") as runner:
        stream_server.wait_connected(1, PATIENCE)
        stream_server.send({"type": "flag_update", "key": "feature1"})
        eventually(lambda: project.enqueued() == 1, PATIENCE)
        runner.terminate()
        assert runner.wait() == 0, runner.output
    assert "default 1 feature1\n" in project.manage("db_worker", "--batch")


def kept(project: Shop) -> int:
    """Return how many messages the spool has that are not handled."""
    return len(rows_in(project.folder / "spool.sqlite3"))


REFUSED = """
import django
django.setup()
from datastream_ws_django import datastream
from datastream_ws_django.tasks import forward
import shop.tasks
from django.tasks import task
"""


@needs_tasks
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("forward(datastream, print)", "forward: print is not a task. Decorate it with @task"),
        (
            "forward(datastream, shop.tasks.wrong)",
            "forward(wrong): wrong(ws, message) is called with one argument, the message. "
            "Define wrong(message).",
        ),
        (
            "forward(datastream, shop.tasks.one, batch=3)",
            "forward: batch must be (most messages, longest wait in seconds), such as (100, 0.2)",
        ),
        ("forward(datastream, shop.tasks.one, 5)", "forward: the route must be a string"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    shop: Callable[[str], Shop], line: str, says: str
) -> None:
    project = shop(IMMEDIATE)
    with (project.folder / "shop" / "tasks.py").open("a") as file:
        file.write("\n@task\ndef wrong(ws, message): ...\n")
    done = subprocess.run(
        [sys.executable, "-c", REFUSED + line],
        cwd=project.folder, env=project.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert says in done.stderr


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="this Django has Tasks")
def test_an_older_django_is_told_what_it_lacks() -> None:
    """By forward() alone: Celery imports a module named tasks of every app."""
    from datastream_ws_django.tasks import forward

    with pytest.raises(ImportError) as refused:
        forward(None, None)  # type: ignore[arg-type,unused-ignore]
    assert str(refused.value).startswith(
        f"Django's Tasks come with Django 6.0, and this is Django {django.__version__}. "
        "Upgrade with pip install 'Django>=6.0'"
    )
