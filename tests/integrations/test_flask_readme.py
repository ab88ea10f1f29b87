"""The README's Flask section, followed to the letter in an empty folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.flaskproject import PATIENCE, ROOT, FlaskProject, get

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Flask\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^    ((?:flask|gunicorn) .*?)(?:  +#.*)?$", SECTION, re.MULTILINE)


@pytest.fixture
def feed() -> StreamServer:
    """A server that answers a subscription, as the example expects it."""

    def answer(connection: StreamConnection, data: str | bytes) -> None:
        connection.send({"type": "flag_update", "key": "feature1", "value": True})

    return StreamServer(on_message=answer)


@pytest.fixture
def project(tmp_path: Path, feed: StreamServer) -> Iterator[FlaskProject]:
    [example] = re.findall(r'^```python title="app\.py"\n(.*?)^```', SECTION, re.S | re.M)
    with feed:
        project = FlaskProject(tmp_path, example.replace("wss://api.example.com/stream", feed.url))
        yield project


def test_commands_are_those_shown_here() -> None:
    assert COMMANDS == [
        "flask --app app run --debug",
        "gunicorn -w 3 'app:create_app()'",
        "flask --app app datastream run",
        "flask --app app datastream status",
    ]


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
