"""A fleet whose processes meet in the database: PostgreSQL, three of them; SQLite, two."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kit.djangoproject import database as database
from kit.fleets import FleetFeed, FleetProcess, Fleets
from kit.services import url_of
from kit.streams import ROOT, until

pytestmark = pytest.mark.timeout(600)

STREAMS = 90
TTL = 4.0
MANY = [pytest.param(1), pytest.param(20, marks=pytest.mark.soak)]


@pytest.fixture
def feed() -> Iterator[FleetFeed]:
    with FleetFeed() as feed:
        yield feed


@pytest.fixture
def fleets(feed: FleetFeed, database: str, tmp_path: Path) -> Iterator[Fleets]:
    where = database or str(tmp_path / "db.sqlite3")
    code = f"from kit.djangobare import migrate; migrate({where!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "tests", timeout=60)

    def start(log: Path) -> FleetProcess:
        return FleetProcess(feed.url, log, STREAMS, database=where, lease_ttl=TTL)

    with Fleets(feed, start, tmp_path, STREAMS, TTL) as made:
        for _ in range(3 if database else 2):
            made.add()
        made.wait_shared(30)
        yield made
    assert feed.twice == [], "a stream had two connections at a time"
    made.check_promise()


def check_gaps(gaps: list[float], times: int) -> None:
    """A second for each stream; where others use the machine, for most of them."""
    assert sorted(gaps)[len(gaps) // 2] <= 1.0
    assert max(gaps) <= (1.0 if times == 20 else TTL)


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
        until(lambda process=process: fleets.feed.loads[process.pid] > 0, 30)  # type: ignore[misc]
        first = time.monotonic()
        fleets.wait_shared(30)
        assert time.monotonic() - first <= TTL
        assert len(feed_spans(fleets)) - before <= STREAMS // len(fleets.processes) + 1
        check_gaps(fleets.feed.gaps(began), times)

        began = time.monotonic()
        assert fleets.any().terminate() == 0
        fleets.wait_connected(10)
        print(f"ended and joined: gaps ≤ {max(fleets.feed.gaps(began)):.2f} s")
        check_gaps(fleets.feed.gaps(began), times)
        fleets.add()
        fleets.wait_shared(30)


def feed_spans(fleets: Fleets) -> list[object]:
    return list(fleets.feed.spans)


@pytest.mark.parametrize("times", MANY)
def test_a_stopped_process_hands_nothing_on_when_it_wakes(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        process = fleets.any()
        process.stop()
        fleets.wait_connected(30)
        fleets.processes.append(process)
        process.go_on()
        fleets.wait_shared(30)


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
            until(lambda: fleets.feed.connected == 0, TTL + 5, fleets.report)
        print(f"all came back after {fleets.wait_shared(30):.2f} s")
        before = len(feed_spans(fleets))
        with outage(database):
            pass  # a restart
        time.sleep(TTL)
        fleets.wait_shared(10)
        assert len(feed_spans(fleets)) == before, "a short one is not noticed"
