"""
A Django project in its own folder, and its commands as processes.

::

    project = Project(folder, stream_url, HANDLER="slow")
    project.manage("migrate")
    with project.start("run_datastream") as runner:
        ...
        runner.terminate()
        assert runner.wait() == 0
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from kit.services import url_of

__all__ = ["PATIENCE", "Process", "Project", "database", "postgresql_database"]

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "djangosite"
PATIENCE = 60.0  # seconds, because the machine may be busy

# Settings of a stream in tests, for fast reconnects without a proxy.
FAST = {"MIN_RECONNECT_DELAY": 0.02, "MAX_RECONNECT_DELAY": 0.1, "PROXY": None}


class Process:
    """A running command whose output is in a file. With *stdin*, its stdin is a pipe."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        env: dict[str, str],
        log: Path,
        *,
        stdin: bool = False,
    ) -> None:
        self.log = log
        with log.open("wb") as file:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE if stdin else None,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_output(self, text: str, times: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until *text* was printed this number of times."""
        self.wait_for(lambda: self.output.count(text) >= times, f"{text!r}", timeout)

    def wait_for(self, fact: Any, what: str = "it", timeout: float = PATIENCE) -> Any:
        """Return the result of *fact* once it is true. Fails if the process ends first."""
        deadline = time.monotonic() + timeout
        while not (found := fact()):
            if self._popen.poll() is not None and not fact():
                pytest.fail(f"ended with {self._popen.returncode} before {what}:\n{self.output}")
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come in {timeout} s:\n{self.output}")
            time.sleep(0.02)
        return found

    def send_signal(self, number: int) -> None:
        """Send a signal. After SIGSTOP, wait until the process has stopped."""
        self._popen.send_signal(number)
        if number == signal.SIGSTOP:
            self.wait_for(self._is_stopped, "its stop")

    def _is_stopped(self) -> bool:
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(") ")[2].startswith("T")

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the process, and return the exit code."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout} s:\n{self.output}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.terminate()
            try:
                self._popen.wait(10)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        if error is not None:
            print(f"--- output of process {self.pid} ---\n{self.output}")


class Project:
    """
    A copy of ``kit/djangosite``.

    Args:
        folder: An empty folder.
        url: The URL of the stream. ``None`` leaves DATASTREAMS empty.
        database: The URL of a PostgreSQL database. An empty string means a SQLite file.
        stream: More settings of the default stream.
        environment: More variables, which the project's settings and handlers read.

    """

    def __init__(
        self,
        folder: Path,
        url: str | None = None,
        *,
        database: str = "",
        stream: dict[str, Any] | None = None,
        **environment: str,
    ) -> None:
        self.folder = folder / "project"
        shutil.copytree(SOURCE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.database = database
        streams = {} if url is None else {"default": {"URL": url, **FAST, **(stream or {})}}
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error::ResourceWarning",
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE": database,
            "DATASTREAMS": json.dumps(streams),
            **environment,
        }
        self._count = 0

    def stream(self, **settings: Any) -> None:
        """Change settings of the default stream for processes that start later."""
        streams = json.loads(self.env["DATASTREAMS"])
        streams["default"].update(settings)
        self.env["DATASTREAMS"] = json.dumps(streams)

    def manage(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command until it exits, assert its exit code, and return its output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.env | environment,
            timeout=2 * PATIENCE,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == code, f"exit code {done.returncode}:\n{printed}"
        return printed

    def start(self, *arguments: str, **environment: str) -> Process:
        """Start a command of manage.py."""
        return self.spawn([sys.executable, "manage.py", *arguments], **environment)

    def spawn(self, command: list[str], **environment: str) -> Process:
        """Start any command in the project's folder."""
        self._count += 1
        log = self.folder.parent / f"output-{self._count}.txt"
        return Process(command, self.folder, self.env | environment, log)

    def query(self, sql: str) -> list[Any]:
        """Run a query without Django. Return the rows, or the values of a single column."""
        if self.database:
            import psycopg

            with psycopg.connect(self.database) as connection:
                rows: list[Any] = connection.execute(sql).fetchall()
        else:
            database = sqlite3.connect(self.folder / "db.sqlite3", timeout=60)
            try:
                rows = database.execute(sql).fetchall()
            finally:
                database.close()
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    def is_locked(self) -> bool:
        """Return whether another connection has an open transaction."""
        if self.database:
            sql = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
            )
            return bool(self.query(sql)[0])
        database = sqlite3.connect(self.folder / "db.sqlite3", timeout=1)
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        finally:
            database.close()
        return False

    def numbers(self) -> list[int]:
        """Return the numbers in the table, in the order in which they were handled."""
        return self.query("SELECT number FROM shop_tick ORDER BY id")


@contextmanager
def postgresql_database() -> Iterator[str]:
    """Create a PostgreSQL database for one test, and yield its URL."""
    import psycopg

    server = url_of("postgresql")
    name = f"datastream_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield an empty string for a SQLite file, and the URL of a PostgreSQL database."""
    if request.param == "sqlite":
        yield ""
        return
    with postgresql_database() as url:
        yield url
