"""AUTOSTART under real servers: one connection per serving process, and none elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from datastream_ws.testing import StreamServer
from kit.djangoproject import Process, Project
from kit.http import free_port, get


def wait_answer(server: Process, port: int, path: str = "/state/") -> Any:
    """Return the first answer with status 200."""
    server.wait_for(lambda: get(port, path)[0] == 200, f"an answer of {path}")
    return get(port, path)[1]


@pytest.fixture
def project(tmp_path: Path, stream_server: StreamServer) -> Project:
    made = Project(tmp_path, stream_server.url, stream={"AUTOSTART": True})
    made.manage("migrate")
    return made


def pids(server: Process, port: int, number: int) -> set[int]:
    """Ask until *number* processes have answered; return theirs ids."""
    found: set[int] = set()

    def ask() -> bool:
        status, answer = get(port, "/state/")
        if status == 200:
            found.add(answer["pid"])
        return len(found) == number

    server.wait_for(ask, f"{number} processes")
    return found


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["plain", "preload"])
def test_gunicorn_each_worker_has_one(
    project: Project, stream_server: StreamServer, preload: list[str]
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "project.wsgi", "--workers", "2", *preload]
    with project.spawn([*command, "--bind", f"127.0.0.1:{port}"]) as server:
        server.wait_output("Booting worker", 2)
        assert stream_server.attempts == []  # nobody has asked yet
        pids(server, port, 2)
        connections = stream_server.wait_connected(2, 60)
        for _ in range(20):
            assert get(port, "/state/")[0] == 200
        assert len(stream_server.connections) == 2
        server.terminate()
        assert server.wait() == 0
        for connection in connections:
            assert connection.closed.wait(30)
            assert connection.close_code == 1000


def test_one_worker_has_the_lease_although_the_master_built_the_client(
    project: Project, stream_server: StreamServer
) -> None:
    """As a ``subscribe()`` in ``datastreams.py`` does, behind ``gunicorn --preload``."""
    project.stream(LEASE="database", LEASE_TTL=3.0)
    handlers = project.folder / "shop" / "datastreams.py"
    handlers.write_text(handlers.read_text() + "\ndatastream.subscribe('all')\n")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "project.wsgi", "--workers", "2", "--preload"]
    with project.spawn([*command, "--bind", f"127.0.0.1:{port}"]) as server:
        server.wait_output("Booting worker", 2)
        pids(server, port, 2)
        stream_server.wait_connected(1, 60)
        time.sleep(3.0)  # several renewals
        assert len(stream_server.connections) == 1
        assert "lease lost" not in server.output
        server.terminate()
        assert server.wait() == 0


def test_uvicorn_has_one(project: Project, stream_server: StreamServer) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--port", str(port)]
    with project.spawn([*command, "--lifespan", "off"]) as server:
        wait_answer(server, port)
        [connection] = stream_server.wait_connected(1, 60)
        for _ in range(20):
            assert get(port, "/state/")[0] == 200
        assert len(stream_server.connections) == 1
        server.terminate()
        server.wait()  # uvicorn ends by the signal itself: nothing of ours can run then
        assert connection.closed.wait(30)


def test_runserver_with_its_reloader_has_one_connection_not_two(
    project: Project, stream_server: StreamServer
) -> None:
    port = free_port()
    with project.start("runserver", f"127.0.0.1:{port}", DEBUG="1") as server:
        wait_answer(server, port)
        stream_server.wait_connected(1, 60)
        for _ in range(10):
            assert get(port, "/state/")[0] == 200
        assert len(stream_server.connections) == 1
        urls = project.folder / "project" / "urls.py"
        while len(stream_server.connections) < 2:
            urls.write_text(urls.read_text() + "\n# changed\n")
            try:
                server.wait_for(lambda: get(port, "/state/")[0] == 200)
                stream_server.wait_connected(2, 5)
            except TimeoutError:
                continue
        first = stream_server.connections[0]
        assert first.closed.wait(30)
        assert first.close_code == 1000
        assert sum(not each.closed.is_set() for each in stream_server.connections) == 1
        # The parent would kill the child without a word.
        answer = wait_answer(server, port)
        os.kill(answer["pid"], signal.SIGTERM)
        server.wait()


def test_health_of_a_stream_that_serving_processes_keep(
    project: Project, stream_server: StreamServer
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "project.wsgi", "--bind", f"127.0.0.1:{port}"]
    stream_server.refuse(503)
    with project.spawn(command) as server:
        server.wait_for(lambda: get(port, "/datastream/health/live/")[0] == 200)
        assert get(port, "/datastream/health/ready/") == (503, {"status": "unhealthy"})
        stream_server.accept()
        assert wait_answer(server, port, "/datastream/health/ready/") == {"status": "ok"}


def test_a_wrong_setting_fails_no_request(project: Project, stream_server: StreamServer) -> None:
    project.stream(URL="http://nowhere.example")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "project.wsgi", "--bind", f"127.0.0.1:{port}"]
    with project.spawn(command) as server:
        server.wait_for(lambda: get(port, "/datastream/health/live/")[0] == 503)
        server.wait_output("AUTOSTART: DATASTREAMS['default']: URL")
