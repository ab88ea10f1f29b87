"""``manage.py run_datastream`` as a real process: rows, signals, exit codes, reload."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import io
import logging
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws_django.management.commands.run_datastream import show_log
from kit.djangoproject import PATIENCE, Project
from kit.djangoproject import database as database
from kit.numbered import NumberedServer, check_numbers


def test_rows_appear(tmp_path: Path, database: str) -> None:
    with NumberedServer(100) as server:
        project = Project(tmp_path, server.url, database=database)
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            runner.wait_for(lambda: len(project.numbers()) == 100)
            runner.terminate()
            assert runner.wait() == 0
    check_numbers(project.numbers(), 100)


@pytest.mark.parametrize("handler", ["receiver", "async"])
def test_receivers_and_coroutine_handlers_write_too(tmp_path: Path, handler: str) -> None:
    with NumberedServer(100) as server:
        project = Project(tmp_path, server.url, HANDLER=handler)
        project.manage("migrate")
        project.manage("run_datastream", "--max-messages", "100")
    check_numbers(project.numbers(), 100)


def test_sigterm_lets_handlers_finish_what_was_received(tmp_path: Path) -> None:
    with NumberedServer(200) as server:
        project = Project(tmp_path, server.url, HANDLER="slow", stream={"CLOSE_TIMEOUT": 60})
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            # What is still on its way to the process is not received.
            received = "SELECT messages_received FROM datastream_streamstatus"
            runner.wait_for(lambda: project.query(received) == [200], "all messages")
            waiting = 200 - len(project.numbers())
            runner.terminate()
            assert runner.wait() == 0
    assert waiting > 50
    check_numbers(project.numbers(), 200)


def test_a_stuck_handler_ends_with_4_after_the_shutdown_timeout(tmp_path: Path) -> None:
    with NumberedServer(10) as server:
        project = Project(tmp_path, server.url, HANDLER="stuck")
        project.manage("migrate")
        with project.start("run_datastream", "--shutdown-timeout", "2") as runner:
            runner.wait_for(project.numbers)
            begun = time.monotonic()
            runner.terminate()
            assert runner.wait() == 4
    assert 1.5 < time.monotonic() - begun < 10


def test_a_second_signal_ends_with_4_at_once(tmp_path: Path) -> None:
    with NumberedServer(10) as server:
        project = Project(tmp_path, server.url, HANDLER="stuck")
        project.manage("migrate")
        with project.start("run_datastream", "--shutdown-timeout", "100") as runner:
            runner.wait_for(project.numbers)
            runner.terminate()
            runner.wait_output("closing")
            begun = time.monotonic()
            runner.send_signal(signal.SIGINT)
            assert runner.wait() == 4
    assert time.monotonic() - begun < 10


FLASK = """
import django
from flask import Flask
from datastream_ws_flask import DataStream
django.setup()
datastream = DataStream()
datastream.on_message(lambda message: None)
app = Flask(__name__)
app.config.from_prefixed_env()
datastream.init_app(app)
"""
COMMANDS = {
    "django": ("manage.py", "run_datastream"),
    "flask": ("-m", "flask", "--app", "flaskapp", "datastream", "run"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_second_signal_while_the_last_rows_wait_for_the_database(
    tmp_path: Path, stream_server: StreamServer, command: tuple[str, ...], number: signal.Signals
) -> None:
    project = Project(tmp_path, stream_server.url, FLASK_DATASTREAM_URL=stream_server.url)
    (project.folder / "flaskapp.py").write_text(FLASK)
    project.manage("migrate")
    with project.spawn([sys.executable, *command]) as runner:
        rows = "SELECT state FROM datastream_streamstatus"
        runner.wait_for(lambda: project.query(rows) == ["ready"], "the row")
        [connection] = stream_server.connections
        with closing(sqlite3.connect(project.folder / "db.sqlite3", timeout=60)) as database:
            database.execute("BEGIN EXCLUSIVE")
            runner.terminate()
            assert connection.closed.wait(PATIENCE)
            time.sleep(0.5)
            runner.send_signal(number)
            assert runner.wait() == 4
    assert "Traceback" not in runner.output
    assert "Aborted" not in runner.output


def test_a_wrong_key_ends_with_3(tmp_path: Path, stream_server: StreamServer) -> None:
    stream_server.refuse(401)
    project = Project(tmp_path, stream_server.url)
    project.manage("migrate")
    assert "401" in project.manage("run_datastream", code=3)
    assert project.query("SELECT state FROM datastream_streamstatus") == ["failed"]


def test_a_missing_url_ends_with_1_and_the_cure(tmp_path: Path) -> None:
    project = Project(tmp_path, "")
    printed = project.manage("run_datastream", code=1)
    assert "DATASTREAMS['default']: URL: is missing" in printed
    assert 'Add "URL": "wss://…", or' in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["nowhere"],
            1,
            "DATASTREAMS has no stream 'nowhere'. Add it, or use one of these: 'default'",
        ),
        (["--max-messages", "0"], 2, "must be a whole number of at least 1"),
        (["--shutdown-timeout", "x"], 2, "must be a number of seconds above 0"),
        (["--shutdown-timeout", "0"], 2, "must be a number of seconds above 0"),
        (["--shutdown-timeout", "nan"], 2, "must be a number of seconds above 0"),
        (["--shutdown-timeout", "inf"], 2, "must be a number of seconds above 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    project = Project(tmp_path, "ws://127.0.0.1:1/")
    assert said in project.manage("run_datastream", *arguments, code=code)


def test_a_disabled_stream_is_not_run(tmp_path: Path) -> None:
    project = Project(tmp_path, "ws://127.0.0.1:1/", stream={"ENABLED": False})
    assert "No stream is enabled" in project.manage("run_datastream", code=1)
    assert '"ENABLED": False' in project.manage("run_datastream", "default", code=1)


def output_of_a_run(project: Project, server: StreamServer, text: str) -> str:
    """Run the stream until it has printed *text* and has ended."""
    with project.start("run_datastream") as runner:
        server.wait_received(1, 60)
        runner.wait_output(text)
        server.send({"type": "sleep"})
        runner.terminate()
        assert runner.wait() == 0
        return runner.output


def test_without_migrate_the_stream_runs_and_one_line_says_so(
    tmp_path: Path, stream_server: StreamServer
) -> None:
    project = Project(tmp_path, stream_server.url, HANDLER="none")
    project.manage("migrate", "shop")
    printed = output_of_a_run(project, stream_server, "manage.py migrate")
    assert "the database 'default' lacks migrations of datastream_ws_django (0001_init" in printed
    assert "; run `manage.py migrate`\n" in printed
    assert printed.count("WARNING") == 1, "the rows that fail for it are not another one"


def test_the_missing_migrations_are_those_of_the_database_with_the_tables(
    tmp_path: Path, stream_server: StreamServer
) -> None:
    project = Project(tmp_path, stream_server.url, HANDLER="none", ROUTED="1")
    project.manage("migrate")
    printed = output_of_a_run(project, stream_server, "manage.py migrate")
    assert "the database 'rows' lacks migrations" in printed
    assert "run `manage.py migrate --database=rows`" in printed
    project.manage("migrate", "--database=rows")
    assert "migrat" not in output_of_a_run(project, stream_server, "ready")


@pytest.mark.parametrize("lease", [None, "database"])
def test_an_unavailable_database_is_not_one_without_migrations(
    tmp_path: Path, stream_server: StreamServer, lease: str | None
) -> None:
    project = Project(
        tmp_path,
        stream_server.url,
        HANDLER="none",
        database="postgresql://nobody@127.0.0.1:1/none",
        stream={"LEASE": lease},
    )
    if lease:
        printed = project.manage("run_datastream", code=1)
        assert "its table cannot be read (OperationalError). Check the database" in printed
    else:
        with project.start("run_datastream") as runner:
            runner.wait_output("status rows cannot be written (OperationalError: ")
            runner.terminate()
            assert runner.wait() == 0
            printed = runner.output
    assert "migrat" not in printed


def test_max_messages_handles_exactly_so_many(tmp_path: Path) -> None:
    with NumberedServer(1000) as server:
        project = Project(tmp_path, server.url)
        project.manage("migrate")
        project.manage("run_datastream", "--max-messages", "37")
        check_numbers(project.numbers(), 37)
        project.manage("run_datastream", "--max-messages", "3")
    check_numbers(project.numbers(), 40)


def test_reload_restarts_on_a_file_change_with_a_clean_close(
    tmp_path: Path, stream_server: StreamServer
) -> None:
    project = Project(tmp_path, stream_server.url)
    project.manage("migrate")
    with project.start("run_datastream", "--reload") as runner:
        stream_server.wait_connected(1, 60)
        stream_server.wait_received(1, 60)
        module = project.folder / "shop" / "datastreams.py"
        # The reloader's first look at the files may be yet to come; only a newer time is a change.
        while len(stream_server.connections) < 2:
            module.write_text(module.read_text() + "\n# changed\n")
            try:
                stream_server.wait_connected(2, 5)
            except TimeoutError:
                continue
        first, second = stream_server.connections[:2]
        assert first.close_code == 1000
        runner.send_signal(signal.SIGINT)
        assert runner.wait() == 0
    assert second.closed.wait(30)


def test_no_text_of_a_server_forges_a_line_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler's exception that quotes a message, with a line break and ESC."""
    logger = logging.getLogger("datastream_ws")
    for name, value in (("handlers", []), ("propagate", False)):
        monkeypatch.setattr(logger, name, value)
    monkeypatch.setattr(logger, "level", logger.level)
    written = io.StringIO()
    show_log(written, 1)
    logger.error("no", exc_info=ValueError("x\n2026-01-01 INFO forged\x1b[2J"))
    first, *others = written.getvalue().rstrip("\n").split("\n")
    assert first.endswith("ERROR no")
    assert others == ["| ValueError: x", r"| 2026-01-01 INFO forged\x1b[2J"]
