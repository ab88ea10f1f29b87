"""The app of Flask's tutorial in real servers: how many connections, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.flaskproject import PATIENCE, FlaskProject, get
from kit.pages import Block, steps

TUTORIAL = "docs/tutorials/flask.md"
URL = "ws://127.0.0.1:8765"


@pytest.fixture
def feed() -> StreamServer:
    """A server that answers a subscription, as the example expects it."""

    def answer(connection: StreamConnection, data: str | bytes) -> None:
        connection.send({"type": "flag_update", "key": "feature1", "value": True})

    return StreamServer(on_message=answer)


@pytest.fixture
def project(tmp_path: Path, feed: StreamServer) -> Iterator[FlaskProject]:
    blocks = [each for each in steps(TUTORIAL) if isinstance(each, Block)]
    [app] = [each.text for each in blocks if each.title == "app.py"]
    with feed:
        yield FlaskProject(tmp_path, app.replace(URL, feed.url))


def test_process_of_its_own(project: FlaskProject, feed: StreamServer) -> None:
    with project.datastream("run") as running:
        running.wait_for("feature1 is True")
        running.terminate()
        assert running.exit_code() == 0, running.output
    assert close_codes(feed) == [1000]


def test_debug_server_has_one_connection(project: FlaskProject, feed: StreamServer) -> None:
    with project.debug_server() as url:
        assert feed.connections == []
        get(f"{url}/flags")
        feed.wait_received(1, PATIENCE)
        for _ in range(20):
            get(f"{url}/flags")
        assert len(feed.attempts) == 1


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["no preload", "preload"])
def test_gunicorn_has_one_connection_per_worker(
    project: FlaskProject, feed: StreamServer, preload: list[str]
) -> None:
    with project.gunicorn("-w", "3", *preload) as url, ThreadPoolExecutor(6) as visitors:
        while len(feed.connections) < 3:  # until each worker has had a visitor
            list(visitors.map(get, [f"{url}/flags"] * 12))
        feed.wait_received(3, PATIENCE)
        list(visitors.map(get, [f"{url}/flags"] * 60))
        assert len(feed.attempts) == 3
    assert close_codes(feed) == [1000] * 3


def close_codes(feed: StreamServer) -> list[int | None]:
    for connection in feed.connections:
        assert connection.closed.wait(PATIENCE)
    return [connection.close_code for connection in feed.connections]
