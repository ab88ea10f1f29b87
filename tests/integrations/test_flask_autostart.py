"""AUTOSTART by the first request of a serving process; the health views beside it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from flask.cli import FlaskGroup
from werkzeug.serving import make_server

from datastream_ws import State
from datastream_ws.health import describe, write_health_file
from datastream_ws.testing import StreamServer
from datastream_ws_flask import DataStream
from datastream_ws_flask.health import blueprint
from kit.flaskproject import PATIENCE, get

# What a server says of itself in each request, and a test client does not.
SERVED = {"SERVER_SOFTWARE": "test"}


@pytest.fixture
def stream() -> DataStream:
    return DataStream()


@pytest.fixture
def app(stream: DataStream, stream_server: StreamServer) -> Iterator[Flask]:
    app = Flask("shop")
    app.config.update(DATASTREAM_URL=stream_server.url, DATASTREAM_AUTOSTART=True)
    stream.init_app(app)
    app.register_blueprint(blueprint, url_prefix="/health")
    app.add_url_rule("/", view_func=lambda: "hello")
    yield app
    stream.close(app)


def state_of(app: Flask, stream: DataStream) -> State:
    with app.app_context():
        return stream.client.state


@contextmanager
def served(app: Flask) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, threaded=True) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.port}"
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def test_first_request_starts_and_no_later_one(
    app: Flask, stream: DataStream, stream_server: StreamServer
) -> None:
    with served(app) as url:
        assert state_of(app, stream) is State.IDLE
        assert get(f"{url}/") == "hello"
        stream_server.wait_connected(1, PATIENCE)
        stream.close(app)
        get(f"{url}/")
    assert state_of(app, stream) is State.CLOSED
    assert len(stream_server.attempts) == 1


@pytest.mark.parametrize("testing", [True, False])
def test_the_test_client_starts_nothing_unless_asked(
    app: Flask, stream: DataStream, testing: bool
) -> None:
    app.testing = testing
    assert app.test_client().get("/").text == "hello"
    assert state_of(app, stream) is State.IDLE
    stream.start(app)
    assert state_of(app, stream) is not State.IDLE


def test_a_test_does_not_spend_the_first_request(app: Flask, stream: DataStream) -> None:
    app.test_client().get("/")
    app.test_client().get("/", environ_base=SERVED)
    assert state_of(app, stream) is not State.IDLE


def test_without_autostart_nothing_starts(app: Flask, stream: DataStream) -> None:
    app.config["DATASTREAM_AUTOSTART"] = False
    app.test_client().get("/", environ_base=SERVED)
    assert state_of(app, stream) is State.IDLE


def test_a_disabled_stream_is_not_autostarted(app: Flask, stream: DataStream) -> None:
    app.config["DATASTREAM_ENABLED"] = False
    app.test_client().get("/", environ_base=SERVED)
    assert state_of(app, stream) is State.IDLE


def test_commands_start_nothing(app: Flask, stream: DataStream) -> None:
    flask = FlaskGroup(create_app=lambda: app)
    result = app.test_cli_runner().invoke(flask, ["routes"])
    assert result.exit_code == 0, result.output
    assert "datastream_health.live" in result.output
    assert state_of(app, stream) is State.IDLE


@pytest.mark.parametrize(
    ("config", "told"),
    [
        pytest.param({"DATASTREAM_URL": ""}, "DATASTREAM_URL", id="url"),
        pytest.param({"DATASTREAM_CODEC": "badmodule.Codec"}, "DATASTREAM_CODEC", id="import"),
        pytest.param({"DATASTREAMS": 7}, "DATASTREAMS", id="not-a-dict"),
    ],
)
def test_a_wrong_config_leaves_the_app_serving(
    app: Flask,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    config: dict[str, object],
    told: str,
) -> None:
    """Whatever is wrong, an import that fails for reasons of its own too: one line in the log."""
    (tmp_path / "badmodule.py").write_text("1 / 0")
    # Not syspath_prepend(): the Autobahn cases leave a pkg_resources behind that it cannot use.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    app.config.update(config)
    for _ in range(2):
        assert app.test_client().get("/", environ_base=SERVED).text == "hello"
    assert statuses(app) == (503, 503)
    assert caplog.text.count("stream default: not started: ") == 1
    assert told in caplog.text


# --- health views ---------------------------------------------------------------------------------


def statuses(app: Flask) -> tuple[int, int]:
    client = app.test_client()
    answers = [client.get(f"/health/{view}/") for view in ("live", "ready")]
    assert {answer.text for answer in answers} <= {"ok\n", "unavailable\n"}
    return answers[0].status_code, answers[1].status_code


def test_health_of_an_autostarted_stream(
    app: Flask, stream: DataStream, stream_server: StreamServer
) -> None:
    app.config.update(DATASTREAM_MIN_RECONNECT_DELAY=0.01, DATASTREAM_FATAL_DELAY=None)
    away = threading.Event()
    stream.on_state(lambda event: away.set() if event.state is State.WAITING else None)
    assert statuses(app) == (503, 503)
    stream.start(app)
    with app.app_context():
        stream.client.wait_ready(PATIENCE)
        assert statuses(app) == (200, 200)
        stream_server.stop()  # an outage
        assert away.wait(PATIENCE)
        assert statuses(app) == (200, 503)
        stream_server.start()
        stream.client.wait_ready(PATIENCE)
        assert statuses(app) == (200, 200)
        stream_server.refuse(401)
        stream_server.abort()
        with pytest.raises(Exception, match="401"):
            stream.client.wait_closed(PATIENCE)
    assert statuses(app) == (503, 503)


def test_health_of_a_stream_in_another_process(
    app: Flask, stream: DataStream, stream_server: StreamServer, tmp_path: Path
) -> None:
    file = str(tmp_path / "health.json")
    app.config.update(DATASTREAM_AUTOSTART=False, DATASTREAM_HEALTH_FILE=file)
    assert statuses(app) == (503, 503)
    stream.start(app)
    with app.app_context():
        stream.client.wait_ready(PATIENCE)
        ready = describe(stream.client, at=0.0)
        write_health_file(file, [ready])
        assert statuses(app) == (503, 503)  # long ago
        write_health_file(file, [describe(stream.client, at=time.time())])
    assert statuses(app) == (200, 200)


@pytest.mark.parametrize("value", [7, True, "\0", ["health"], "/proc/self/mem"])
def test_health_of_an_odd_file_setting(app: Flask, value: object) -> None:
    app.config.update(DATASTREAM_AUTOSTART=False, DATASTREAM_HEALTH_FILE=value)
    assert statuses(app) == (503, 503)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b'{"streams": 7}',
        b'{"streams": [{"name": "default", "at": "now"}]}',
        None,
    ],
    ids=["bytes", "deep", "number", "text", "fifo"],
)
def test_health_of_an_odd_file(app: Flask, tmp_path: Path, content: bytes | None) -> None:
    """503: what nobody can read says nothing of the stream."""
    path = tmp_path / "health"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    app.config.update(DATASTREAM_AUTOSTART=False, DATASTREAM_HEALTH_FILE=str(path))
    assert statuses(app) == (503, 503)


def test_a_disabled_stream_is_nobody_s_worry(app: Flask) -> None:
    app.config["DATASTREAM_ENABLED"] = False
    assert statuses(app) == (200, 200)


def test_health_of_a_wrong_config(app: Flask) -> None:
    app.config["DATASTREAM_URL"] = ""
    assert statuses(app) == (503, 503)


def test_health_is_off_unless_registered(stream_server: StreamServer) -> None:
    app = Flask("bare")
    app.config["DATASTREAM_URL"] = stream_server.url
    DataStream(app)
    assert "health" not in str(app.url_map)
