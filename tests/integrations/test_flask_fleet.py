"""``SOURCE`` in a Flask app's config: one stream for each row, run and judged as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app

from datastream_ws import ConfigurationError, Message
from datastream_ws.testing import StreamServer
from datastream_ws_flask import DataStream, signals
from datastream_ws_flask.health import blueprint
from kit.flaskproject import PATIENCE, FlaskProject
from kit.seen import eventually

FAST = {"MIN_RECONNECT_DELAY": 0.02, "MAX_RECONNECT_DELAY": 0.1, "PROXY": None}


@pytest.fixture
def rows(stream_server: StreamServer) -> dict[Any, Any]:
    return {key: {"url": f"{stream_server.url}/{key}"} for key in (1, 2)}


def app_of(stream: DataStream, source: Any, **config: Any) -> Flask:
    app = Flask("shop")
    app.config["DATASTREAMS"] = {"accounts": {"SOURCE": source, **FAST, **config}}
    stream.init_app(app)
    return app


@pytest.fixture
def stream() -> DataStream:
    return DataStream(name="accounts")


def test_rows_are_streams(
    stream: DataStream, rows: dict[Any, Any], stream_server: StreamServer
) -> None:
    asked_in: list[str] = []
    got: list[Any] = []

    def source() -> dict[Any, Any]:
        asked_in.append(current_app.name)
        return dict(rows)

    @stream.on_message
    def note(message: Message) -> None:
        got.append((current_app.name, message.key, stream.fleet.current.key))

    app = app_of(stream, source)
    stream.start(app)
    try:
        stream_server.wait_connected(2, PATIENCE)
        with app.app_context():
            fleet = stream.fleet
            eventually(lambda: sum(fleet.counts().values()) == 2, PATIENCE)
            eventually(lambda: all(fleet[key].is_ready for key in (1, 2)), PATIENCE)
            with pytest.raises(TypeError, match=r"Use datastream.fleet\[key\].send"):
                stream.send("x")
        stream_server.send({"n": 1})
        eventually(lambda: len(got) == 2, PATIENCE)
        assert sorted(got) == [("shop", 1, 1), ("shop", 2, 2)]
        rows[3] = {"url": f"{stream_server.url}/3"}
        fleet.refresh()
        stream_server.wait_connected(3, PATIENCE)
        assert len(asked_in) >= 2
        assert set(asked_in) == {"shop"}
    finally:
        stream.close(app)


def test_signals_say_which_stream(
    stream: DataStream, rows: dict[Any, Any], stream_server: StreamServer
) -> None:
    got: list[tuple[str, Any]] = []
    names = {
        "ready": signals.stream_ready,
        "disconnected": signals.stream_disconnected,
        "error": signals.stream_error,
        "failed": signals.stream_failed,
    }

    def note(name: str) -> Any:
        return lambda app, *, key, **extra: got.append((name, key))

    def old(app: Flask, *, stream: DataStream, event: Any) -> None:
        got.append(("old", event.code))

    for key in rows:
        rows[key] |= {"max_reconnect_attempts": 1, "stable_after": 60}
    app = app_of(stream, lambda: dict(rows), FATAL_DELAY=None)
    receivers = [note(name) for name in names]
    for signal, receiver in zip(names.values(), receivers, strict=True):
        signal.connect(receiver, app)
    signals.stream_disconnected.connect(old, app)
    stream.start(app)
    try:
        eventually(lambda: {("ready", 1), ("ready", 2)} <= set(got), PATIENCE)
        stream_server.close(1011)
        eventually(lambda: {("failed", 1), ("failed", 2)} <= set(got), PATIENCE)
    finally:
        stream.close(app)
    for name in names:
        assert {key for kind, key in got if kind == name} == {1, 2}
    assert got.count(("old", 1011)) == 2


def test_deliver_needs_the_key(stream: DataStream) -> None:
    got: list[Any] = []

    @stream.on_message
    async def note(message: Message) -> None:
        got.append((message.key, message.stream, current_app.name))

    app = app_of(stream, dict)
    stream.deliver(app, "x", key=("a", 1))
    assert got == [(("a", 1), "accounts/('a', 1)", "shop")]
    with pytest.raises(TypeError, match="Pass key="):
        stream.deliver(app, "x")
    single = DataStream()
    app.config["DATASTREAM_URL"] = "wss://x"
    single.init_app(app)
    with pytest.raises(TypeError, match="Leave out key"):
        single.deliver(app, "x", key=0)
    with app.app_context(), pytest.raises(TypeError, match="not a fleet"):
        _ = single.fleet


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"URL": "wss://x"}, "['URL']: must not be set"),
        ({"SOURCE": 5}, "['SOURCE']: must be a function"),
        ({"SOURCE": "no.such.module"}, "['SOURCE']: 'no.such.module' cannot be imported"),
        ({"HEALTHY_SHARE": 2}, "['HEALTHY_SHARE']: must be a number above 0, and at most 1"),
        ({"START_RATE": [1, 0]}, "['START_RATE']: "),
        ({"LIMIT": 0}, "['LIMIT']: "),
        ({"NOTHING": 0}, "['NOTHING']: is not an option"),
        (
            {"SOURCE": None, "URL": "wss://x", "LIMIT": 3},
            "['LIMIT']: is only for a stream with SOURCE",
        ),
        (
            {"SOURCE": None, "URL": "wss://x", "HEALTHY_SHARE": 0.5},
            "['HEALTHY_SHARE']: is only for a stream with SOURCE",
        ),
    ],
)
def test_wrong_config_is_named(stream: DataStream, config: dict[str, Any], text: str) -> None:
    app = app_of(stream, dict, **config)
    with app.app_context(), pytest.raises(ConfigurationError) as error:
        _ = stream.client
    assert str(error.value).startswith("app.config['DATASTREAMS']['accounts']['")
    assert text in str(error.value)


def test_the_config_arrives(stream: DataStream) -> None:
    app = app_of(stream, dict, REFRESH=3, START_RATE=[5, 2.0], LIMIT=7, MAX_SIZE=99)
    with app.app_context():
        fleet = stream.fleet
    assert (fleet._refresh, fleet._start_rate, fleet._limit) == (3, (5, 2.0), 7)
    assert (fleet.options.max_size, fleet.options.fatal_delay) == (99, 300)


def test_readiness_follows_the_share(
    stream: DataStream, rows: dict[Any, Any], stream_server: StreamServer
) -> None:
    rows[3] = {"url": "ws://127.0.0.1:1/"}  # nobody listens there
    app = app_of(stream, lambda: rows, AUTOSTART=True, HEALTHY_SHARE=0.6)
    app.register_blueprint(blueprint, url_prefix="/health")
    strict = DataStream(name="accounts")
    other = app_of(strict, lambda: rows, AUTOSTART=True)
    other.register_blueprint(blueprint, url_prefix="/health")
    for each, made in ((stream, app), (strict, other)):
        each.start(made)
    try:
        stream_server.wait_connected(4, PATIENCE)
        eventually(lambda: app.test_client().get("/health/ready/").status_code == 200, PATIENCE)
        assert other.test_client().get("/health/ready/").status_code == 503
        assert other.test_client().get("/health/live/").status_code == 200
    finally:
        for each, made in ((stream, app), (strict, other)):
            each.close(made)


APP = """
import os
from flask import Flask, current_app
from datastream_ws_flask import DataStream

datastream = DataStream(name="accounts")
URL = os.environ["FEED"]

def rows():
    with open("keys.txt") as file:
        return {int(key): {"url": f"{URL}/{key}"} for key in file.read().split()}

@datastream.on_message
def handle(message):
    os.write(1, f"handled {message.key} {message.data} in {current_app.name}\\n".encode())

app = Flask(__name__)
app.config.update(
    DATASTREAM_HEALTH_FILE="health.json",
    DATASTREAMS={"accounts": {
        "SOURCE": "app.rows", "REFRESH": 0.2, "PROXY": None, "MIN_RECONNECT_DELAY": 0.05,
        "MAX_RECONNECT_DELAY": 0.1,
    }},
)
datastream.init_app(app)
"""


@pytest.fixture
def project(tmp_path: Path, stream_server: StreamServer) -> FlaskProject:
    (tmp_path / "keys.txt").write_text("1 2")
    return FlaskProject(tmp_path, APP, FEED=stream_server.url)


def test_run_and_status(project: FlaskProject, stream_server: StreamServer) -> None:
    with project.datastream("run", "accounts") as running:
        stream_server.wait_connected(2, PATIENCE)
        (project.folder / "keys.txt").write_text("1 2 3")
        stream_server.wait_connected(3, PATIENCE)
        path = project.folder / "health.json"

        def written() -> dict[str, int] | None:
            streams = json.loads(path.read_text())["streams"]
            return streams[0]["streams"] if streams else None

        eventually(lambda: written() == {"ready": 3}, PATIENCE)
        with project.datastream("status") as status:
            assert status.exit_code() == 0
            assert "\naccounts  ready " in status.output
            assert "streams: 3 ready; rows in the source: 3" in status.output
        stream_server.send("x")
        running.wait_for(r"handled \d x in app", 3)
        running.terminate()
        assert running.exit_code() == 0, running.output
    with project.datastream("status") as status:
        assert status.exit_code() == 1
        assert "\naccounts  closed " in status.output
