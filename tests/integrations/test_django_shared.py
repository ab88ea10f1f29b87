"""A fleet whose processes meet in the database: PostgreSQL, three of them; SQLite, two."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kit.children import ROOT
from kit.djangoproject import database as database
from kit.fleets import SIZES, FleetFeed, Fleets, check_gaps, fleets_of, share_by_the_second
from kit.fleets import feed as feed
from kit.postgresserver import PrivatePostgres
from kit.seen import eventually
from kit.services import url_of

pytestmark = pytest.mark.timeout(600)

STREAMS = 90
TTL = 4.0
MANY = [pytest.param(1), pytest.param(20, marks=pytest.mark.soak)]


@pytest.fixture
def fleets(feed: FleetFeed, database: str, tmp_path: Path) -> Iterator[Fleets]:
    where = database or str(tmp_path / "db.sqlite3")
    with shared(feed, where, tmp_path, processes=3 if database else 2) as fleets:
        yield fleets


@contextmanager
def shared(feed: FleetFeed, database: str, folder: Path, *, processes: int) -> Iterator[Fleets]:
    """Run processes that meet in a database, which has no tables yet."""
    migrate(database)
    with fleets_of(
        feed, folder, streams=STREAMS, ttl=TTL, processes=processes, database=database
    ) as fleets:
        yield fleets


def migrate(database: str) -> None:
    code = f"from kit.djangobare import migrate; migrate({database!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "tests", timeout=60)


@pytest.mark.parametrize("times", MANY)
def test_ends_of_all_kinds_and_one_that_joins(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        fleets.any().kill()
        seconds = fleets.wait_connected(30)
        print(f"killed: all connected again after {seconds:.2f} s of {TTL} s + 1 s")
        assert seconds <= TTL + 1

        fleets.wait_shared(10)
        before, began = len(feed_spans(fleets)), time.monotonic()
        process = fleets.add()
        eventually(lambda process=process: fleets.feed.loads[process.pid] > 0, 30)  # type: ignore[misc]
        first = time.monotonic()
        fleets.wait_shared(30)
        assert time.monotonic() - first <= TTL
        assert len(feed_spans(fleets)) - before <= STREAMS // len(fleets.processes) + 1
        check_gaps(fleets.feed.gaps(began), times, TTL)

        began = time.monotonic()
        assert fleets.any().terminate() == 0
        fleets.wait_connected(10)
        print(f"ended and joined: gaps ≤ {max(fleets.feed.gaps(began)):.2f} s")
        check_gaps(fleets.feed.gaps(began), times, TTL)
        fleets.add()
        fleets.wait_shared(30)


def feed_spans(fleets: Fleets) -> list[object]:
    return list(fleets.feed.spans)


@pytest.mark.parametrize("times", MANY)
def test_a_stopped_process_hands_nothing_on_when_it_wakes(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        fleets.outlive_a_stop()


@contextmanager
def outage(database: str) -> Iterator[None]:
    """Have PostgreSQL end all connections to a database, and refuse others."""
    import psycopg

    name = urlsplit(database).path.strip("/")
    with psycopg.connect(url_of("postgresql"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(end, [name])
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("times", MANY)
def test_without_the_database_all_stand_by_and_all_come_back(
    fleets: Fleets, database: str, times: int
) -> None:
    for _ in range(times):
        with outage(database):
            eventually(lambda: fleets.feed.connected == 0, TTL + 5, fleets.report)
        print(f"all came back after {fleets.wait_shared(30):.2f} s")
        before = len(feed_spans(fleets))
        with outage(database):
            pass  # a restart
        time.sleep(TTL)
        fleets.wait_shared(10)
        assert len(feed_spans(fleets)) == before, "a short one is not noticed"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    with PrivatePostgres() as server:
        yield server


OUTAGES = [
    pytest.param(PrivatePostgres.stop, PrivatePostgres.start, id="stopped"),
    pytest.param(PrivatePostgres.crash, PrivatePostgres.start, id="crashed"),
    pytest.param(PrivatePostgres.hang, PrivatePostgres.wake, id="hung"),
]


@pytest.mark.parametrize(("begin", "end"), OUTAGES)
@pytest.mark.parametrize(
    "times", [pytest.param(1, marks=pytest.mark.ci), pytest.param(20, marks=pytest.mark.soak)]
)
def test_a_server_that_is_away_for_longer_than_the_ttl(
    feed: FleetFeed,
    postgres: PrivatePostgres,
    tmp_path: Path,
    begin: Callable[[PrivatePostgres], None],
    end: Callable[[PrivatePostgres], None],
    times: int,
) -> None:
    """All stand by before others could take over, and stay so; then all come back."""
    with shared(feed, postgres.url, tmp_path, processes=3) as fleets:
        for _ in range(times):
            began = time.monotonic()
            begin(postgres)
            try:
                eventually(lambda: feed.connected == 0, TTL + 5, fleets.report)
                assert time.monotonic() - began <= TTL
                while time.monotonic() < began + 2 * TTL:
                    assert feed.connected == 0
                    time.sleep(0.02)
                told = [each for each in fleets.errors() if "the store " in each]
            finally:
                end(postgres)
            print(f"all came back after {fleets.wait_shared(30):.2f} s")
            assert told, "what the streams wait for is said while they do"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("streams", SIZES)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_many_streams(database: str, tmp_path: Path, streams: int) -> None:
    migrate(database)
    share_by_the_second(tmp_path, streams, database=database)
