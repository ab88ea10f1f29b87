"""``flask datastream run | status`` as real processes: signals, exit codes, health file."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from datastream_ws.testing import StreamServer
from datastream_ws_flask.cli import group
from kit.flaskproject import PATIENCE, FlaskProject

APP = """
import os
import threading
from flask import Flask, current_app

from datastream_ws import State
from datastream_ws_flask import DataStream

datastream = DataStream()
closing = threading.Event()

def say(*words):  # in one piece, whichever thread it is
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@datastream.on_message("number")
def number(message):
    say("handled", message.json()["n"], "in", current_app.name)

@datastream.on_message("stuck")
def stuck(message):
    say("stuck")
    threading.Event().wait()

@datastream.on_message("thread")
def thread(message):
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    stuck(message)

@datastream.on_message("gate")
def gate(message):
    while datastream.client.stats().messages_received < 501:
        closing.wait(0.01)
    say("all here")
    closing.wait()

@datastream.on_state
def state(event):
    say("state", event.state.value)
    if event.state is State.CLOSING:
        closing.set()

app = Flask(__name__)
app.config.from_prefixed_env()
datastream.init_app(app)
"""


@pytest.fixture
def project(tmp_path: Path, stream_server: StreamServer) -> FlaskProject:
    return FlaskProject(
        tmp_path,
        APP,
        FLASK_DATASTREAM_URL=stream_server.url,
        FLASK_DATASTREAM_HEALTH_FILE=str(tmp_path / "health.json"),
    )


def health(project: FlaskProject) -> dict[str, object]:
    text = (project.folder / "health.json").read_text()
    [stream] = json.loads(text)["streams"]
    return dict(stream)


def closed_with(server: StreamServer) -> int | None:
    [connection] = server.connections
    assert connection.closed.wait(PATIENCE)
    return connection.close_code


def test_sigterm_with_messages_waiting_handles_them_all(
    project: FlaskProject, stream_server: StreamServer
) -> None:
    with project.datastream("run") as running:
        stream_server.wait_connected(1, PATIENCE)
        stream_server.send({"type": "gate"})
        for n in range(500):
            stream_server.send({"type": "number", "n": n})
        running.wait_for("all here")
        running.terminate()
        assert running.exit_code() == 0, running.output
    handled = [line for line in running.output.splitlines() if line.startswith("handled")]
    counted = health(project)
    assert handled == [f"handled {n} in app" for n in range(500)]
    assert counted["messages_received"] == counted["messages_handled"] == 501
    assert closed_with(stream_server) == 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(
    project: FlaskProject, stream_server: StreamServer, number: int
) -> None:
    with project.datastream("run") as running:
        running.wait_for("state ready")
        running.process.send_signal(number)
        assert running.exit_code() == 0, running.output
    assert closed_with(stream_server) == 1000


def test_a_stuck_handler_costs_the_shutdown_timeout_and_exit_code_4(
    project: FlaskProject, stream_server: StreamServer
) -> None:
    with project.datastream("run", "--shutdown-timeout", "0.5") as running:
        stream_server.wait_connected(1, PATIENCE)
        stream_server.send({"type": "stuck"})
        running.wait_for("stuck")
        running.terminate()
        assert running.exit_code() == 4, running.output


@pytest.mark.parametrize("kind", ["stuck", "thread"])  # with a thread that Python would wait for
def test_a_second_signal_ends_it_at_once_with_4(
    project: FlaskProject, stream_server: StreamServer, kind: str
) -> None:
    with project.datastream("run", "--shutdown-timeout", "3600") as running:
        stream_server.wait_connected(1, PATIENCE)
        stream_server.send({"type": kind})
        running.wait_for("stuck")
        running.terminate()
        running.wait_for("state closing")
        running.terminate()
        assert running.exit_code() == 4, running.output


def test_a_wrong_key_exits_with_3_and_says_why(
    project: FlaskProject, stream_server: StreamServer
) -> None:
    stream_server.refuse(401)
    with project.datastream("run") as running:
        assert running.exit_code() == 3
    assert "default" in running.output
    assert "401" in running.output
    assert health(project)["state"] == "failed"


def test_fatal_delay_from_the_config_keeps_it_trying(
    project: FlaskProject, stream_server: StreamServer
) -> None:
    stream_server.refuse(401)
    project.config["FLASK_DATASTREAM_FATAL_DELAY"] = "0.05"
    with project.datastream("run") as running:
        stream_server.wait_attempts(3, PATIENCE)
        running.terminate()
        assert running.exit_code() == 0, running.output


def test_a_missing_url_exits_with_1_and_the_cure(project: FlaskProject) -> None:
    del project.config["FLASK_DATASTREAM_URL"]
    with project.datastream("run") as running:
        assert running.exit_code() == 1
    assert "Set app.config['DATASTREAM_URL'] = 'wss://…'" in running.output
    assert "Traceback" not in running.output


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["run", "--no-such-option"], 2, "No such option"),
        (["run", "--max-messages", "0"], 2, "max-messages"),
        (["run", "prices"], 1, r"has no stream 'prices', only default"),
        (["status", "prices"], 1, r"has no stream 'prices', only default"),
    ],
)
def test_wrong_words(project: FlaskProject, words: list[str], code: int, text: str) -> None:
    with project.datastream(*words) as running:
        assert running.exit_code() == code
    assert text in running.output


def test_nothing_enabled_exits_with_1(project: FlaskProject) -> None:
    project.config["FLASK_DATASTREAM_ENABLED"] = "false"
    with project.datastream("run") as running:
        assert running.exit_code() == 1
    assert "ENABLED" in running.output


def test_max_messages_handles_exactly_so_many(
    project: FlaskProject, stream_server: StreamServer
) -> None:
    with project.datastream("run", "--max-messages", "3") as running:
        stream_server.wait_connected(1, PATIENCE)
        for n in range(10):
            stream_server.send({"type": "number", "n": n})
        assert running.exit_code() == 0, running.output
    assert [line for line in running.output.splitlines() if line.startswith("handled")] == [
        f"handled {n} in app" for n in range(3)
    ]


def test_reload_restarts_with_a_clean_close(
    project: FlaskProject, stream_server: StreamServer
) -> None:
    with project.datastream("run", "--reload") as running:
        running.wait_for("state ready")
        [first] = stream_server.connections
        # Of another size: within a second Python takes the old .pyc for one of the same size.
        project.file.write_text(APP.replace("handled", "now handled"))
        running.wait_for("state ready", times=2)
        assert first.closed.wait(PATIENCE)
        assert first.close_code == 1000
        stream_server.send({"type": "number", "n": 1})
        running.wait_for("now handled 1 in app")
        assert len(stream_server.attempts) == 2  # none by the reloader's parent


TWO_STREAMS = """
import os
from flask import Flask
from datastream_ws_flask import DataStream

flags, prices = DataStream(), DataStream(name="prices")

@flags.on_message
def flag(message):
    os.write(1, f"flag from {message.stream}: {message.data}\\n".encode())

@prices.on_message
async def price(message):
    os.write(1, f"price from {message.stream}: {message.data}\\n".encode())

app = Flask(__name__)
app.config["DATASTREAM_URL"] = os.environ["FLAGS"]
app.config["DATASTREAMS"] = {"prices": {"URL": os.environ["PRICES"]}}
flags.init_app(app)
prices.init_app(app)
"""


def test_all_streams_or_those_named(tmp_path: Path, stream_server: StreamServer) -> None:
    with StreamServer() as other:
        file = str(tmp_path / "health.json")
        project = FlaskProject(tmp_path, TWO_STREAMS, FLAGS=stream_server.url, PRICES=other.url)
        with project.datastream("run", "--max-messages", "2", "--health-file", file) as running:
            stream_server.wait_connected(1, PATIENCE)
            other.wait_connected(1, PATIENCE)
            stream_server.send("f")
            other.send("p")
            assert running.exit_code() == 0, running.output
        assert sorted(running.output.splitlines()) == [
            "flag from default: f",
            "price from prices: p",
        ]
        assert [stream["name"] for stream in json.loads(Path(file).read_text())["streams"]] == [
            "default",
            "prices",
        ]
        with project.datastream("run", "prices", "--max-messages", "1") as running:
            other.wait_connected(2, PATIENCE)
            other.send("p")
            assert running.exit_code() == 0, running.output
        assert running.output == "price from prices: p\n"
        assert len(stream_server.attempts) == 1


def test_no_lease_connects_without_one(project: FlaskProject, stream_server: StreamServer) -> None:
    project.config["FLASK_DATASTREAM_LEASE"] = "redis://127.0.0.1:1/0"  # nobody there
    with project.datastream("run", "--no-lease") as running:
        running.wait_for("state ready")
        running.terminate()
        assert running.exit_code() == 0, running.output


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e300", "x"])
@pytest.mark.parametrize(
    ("command", "option"), [("run", "--shutdown-timeout"), ("status", "--max-age")]
)
def test_a_duration_that_cannot_be_is_wrong_usage(command: str, option: str, seconds: str) -> None:
    done = CliRunner().invoke(group, [command, option, seconds])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


# --- status ---------------------------------------------------------------------------------------


def test_status_of_a_running_stream(project: FlaskProject, stream_server: StreamServer) -> None:
    code, text = status(project)
    assert code == 1
    assert re.search(r"(?m)^default  never started ", text)
    with project.datastream("run") as running:
        running.wait_for("state ready")
        while health(project)["state"] != "ready":  # the next beat is on its way
            pass
        code, text = status(project)
        assert code == 0, text
        assert re.search(r"(?m)^default  ready +\d+ s  process \d+ +\d+ s ", text), text
        with project.datastream("status", "--watch") as watching:
            watching.wait_for(r"default  ready", times=2)
            watching.process.send_signal(signal.SIGINT)
            assert watching.exit_code() == 0, watching.output
        code, text = status(project, "default", "--json")
        [stream] = json.loads(text)
        assert (code, stream["name"], stream["healthy"], stream["state"]) == (
            0,
            "default",
            True,
            "ready",
        )
        assert status(project, "--max-age", "0")[0] == 1
        running.terminate()
        assert running.exit_code() == 0
    code, text = status(project)
    assert code == 1
    assert re.search(r"(?m)^default  closed ", text)
    assert stream_server.url not in text


def test_status_without_a_health_file_says_what_to_set(project: FlaskProject) -> None:
    del project.config["FLASK_DATASTREAM_HEALTH_FILE"]
    code, text = status(project)
    assert code == 1
    assert "DATASTREAM_HEALTH_FILE" in text
    assert "--health-file" in text


def test_status_of_a_broken_health_file(project: FlaskProject) -> None:
    (project.folder / "health.json").write_text("[]")
    code, text = status(project)
    assert code == 1
    assert "is not a health file" in text
    assert "Traceback" not in text


def status(project: FlaskProject, *words: str) -> tuple[int, str]:
    with project.datastream("status", *words) as running:
        return running.exit_code(), running.output
