"""Handlers and their databases: no message lost to a dropped connection, none handled twice."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from kit.djangoproject import Process, Project, postgresql_database
from kit.djangoproject import database as database
from kit.numbered import NumberedServer, check_numbers

DROPS = 5
FOR_EVER = 10**9  # messages


@pytest.fixture
def postgresql() -> Iterator[str]:
    with postgresql_database() as url:
        yield url


def test_deliver_stays_inside_the_test_s_transaction(tmp_path: Path, database: str) -> None:
    project = Project(tmp_path, database=database, DATASTREAMS="{}")
    assert "Ran 8 tests" in project.manage("test", "shop")


def drop_database_connection(url: str) -> int:
    """End the connection that a handler works on, if there is one just now; return how many."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND query LIKE '%INTO \"shop_tick\"%'"
        )
        return len(ended.fetchall())


def drop_along(project: Project, runner: Process, count: int) -> None:
    """Drop the handlers' connection DROPS times while they work."""
    goal = 0
    for _ in range(DROPS):
        # Rows in between: a message whose second try is hit as well has used up its tries.
        goal += count // (DROPS + 2)
        runner.wait_for(lambda goal=goal: rows_of(project) >= goal, f"{goal} rows")
        runner.wait_for(lambda: drop_database_connection(project.database), "a connection")
        goal = max(goal, rows_of(project) + 10 - count // (DROPS + 2))


def rows_of(project: Project) -> int:
    [number] = project.query("SELECT count(*) FROM shop_tick")
    return int(number)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("handler", "settings", "count"),
    [
        pytest.param("plain", {}, 10_000, id="10,000 rows", marks=pytest.mark.ci),
        pytest.param("plain", {}, 1_200, id="plain"),
        pytest.param("receiver", {"CONN_MAX_AGE": 600}, 1_200, id="kept-connections"),
        pytest.param("async", {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}, 1_200, id="async"),
        pytest.param(
            "plain", {"OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}, 1_200, id="pool"
        ),
    ],
)
def test_dropped_databases_and_dropped_streams_lose_and_double_nothing(
    tmp_path: Path, postgresql: str, handler: str, settings: dict[str, object], count: int
) -> None:
    every = count // (DROPS + 1)
    # Until five connections of either kind were dropped, however long that takes.
    feed = NumberedServer(FOR_EVER, rate=count / 4, drop_every=every, ways=["abort", "drop", 1011])
    with feed as server:
        project = Project(
            tmp_path,
            server.url,
            database=postgresql,
            HANDLER=handler,
            DATABASE_SETTINGS=json.dumps(settings),
        )
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            drop_along(project, runner, count)
            runner.wait_for(lambda: server.drops >= DROPS, "dropped streams")
            server.count = max(count, server.highest + count // 10)
            runner.wait_for(lambda: rows_of(project) >= server.count, "all rows", 300)
            runner.terminate()
            assert runner.wait() == 0
    check_numbers(project.numbers(), server.count)
    assert project.query("SELECT count(*) FROM datastream_failedmessage") == [0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1_500, pytest.param(10_000, marks=pytest.mark.ci)])
def test_on_sqlite_with_dropped_streams(tmp_path: Path, count: int) -> None:
    every = count // (DROPS + 1)
    with NumberedServer(count, drop_every=every, ways=["abort", "drop", 1011]) as server:
        project = Project(tmp_path, server.url, HANDLER="receiver", stream={"ATOMIC": "default"})
        project.manage("migrate")
        with project.start("run_datastream", "--max-messages", str(count)) as runner:
            assert runner.wait(250) == 0
        assert server.drops >= DROPS
    check_numbers(project.numbers(), count)


@contextmanager
def another_writer(project: Project) -> Iterator[None]:
    """Write to the project's SQLite file nearly all the time."""
    ended = threading.Event()

    def write() -> None:
        database = sqlite3.connect(project.folder / "db.sqlite3", timeout=60)
        database.execute("CREATE TABLE another (number)")
        while not ended.wait(0.005):
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO another VALUES (1)")
                time.sleep(0.02)
        database.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("handler", ["update", "aupdate"])
def test_a_locked_sqlite_file_costs_no_message(tmp_path: Path, handler: str) -> None:
    """Read-then-write transactions, as update_or_create() is, beside another process's writes."""
    count = 50
    with NumberedServer(count, rate=30) as server:
        # As Django has it, without what the tests' project adds to its settings.
        settings = json.dumps({"OPTIONS": {}})
        project = Project(tmp_path, server.url, HANDLER=handler, DATABASE_SETTINGS=settings)
        project.manage("migrate")
        with another_writer(project):
            printed = project.manage("run_datastream", "--max-messages", str(count))
    check_numbers(project.numbers(), count)
    assert "failed" not in printed


def test_a_hung_database_delays_neither_signals_nor_the_exit(
    tmp_path: Path, postgresql: str
) -> None:
    with NumberedServer(5) as server:
        project = Project(tmp_path, server.url, database=postgresql)
        project.manage("migrate")
        with project.start("run_datastream", "--shutdown-timeout", "2") as runner:
            runner.wait_for(lambda: len(project.numbers()) == 5)
            with psycopg.connect(postgresql) as connection:
                connection.execute("LOCK TABLE datastream_streamstatus IN ACCESS EXCLUSIVE MODE")
                runner.terminate()
                assert runner.wait(20) == 0


def test_a_database_that_is_busy_for_a_while_has_the_last_rows(
    tmp_path: Path, postgresql: str
) -> None:
    """A machine with much to do is as slow; without them a stream looks ready for half a minute."""
    with NumberedServer(5) as server:
        project = Project(tmp_path, server.url, database=postgresql)
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            runner.wait_for(lambda: len(project.numbers()) == 5)
            with psycopg.connect(postgresql) as connection:
                connection.execute("LOCK TABLE datastream_streamstatus IN ACCESS EXCLUSIVE MODE")
                runner.terminate()
                runner.wait_output("stream default: closed")
                time.sleep(3.0)
                assert runner.is_running
            assert runner.wait() == 0
    assert project.query("SELECT state FROM datastream_streamstatus") == ["closed"]
    assert project.query("SELECT sum(handled) FROM datastream_streamminute") == [5]


def test_dead_letters_are_kept_and_handled_again(tmp_path: Path, database: str) -> None:
    with NumberedServer(20) as server:
        project = Project(tmp_path, server.url, database=database, HANDLER="failing")
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            letters = "SELECT seq FROM datastream_failedmessage ORDER BY id"
            runner.wait_for(lambda: len(project.query(letters)) == 10)
            runner.wait_for(lambda: len(project.numbers()) == 10)
            runner.terminate()
            assert runner.wait() == 0
    assert project.query(letters) == list(range(2, 21, 2))
    [error] = set(project.query("SELECT error FROM datastream_failedmessage"))
    assert error == "RuntimeError: an even number"
    assert "10 failed again" in project.manage("datastream_retry_failed", code=1)
    assert project.query("SELECT DISTINCT attempts FROM datastream_failedmessage") == [2]
    later = project.manage("datastream_retry_failed", "--since", "2199-01-01", MENDED="1")
    assert "0 handled" in later
    printed = project.manage("datastream_retry_failed", "default", MENDED="1")
    assert "10 handled, 0 failed again" in printed
    assert project.query(letters) == []
    assert sorted(project.numbers()) == list(range(1, 21))


def test_a_lease_in_the_database_needs_its_table(tmp_path: Path) -> None:
    project = Project(tmp_path, "ws://127.0.0.1:1/", stream={"LEASE": "database"})
    assert "Run `manage.py migrate`" in project.manage("run_datastream", code=1)
