"""The database's part of the Django package on MariaDB, with Django's own driver, mysqlclient."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.children import ROOT
from kit.djangohere import DATABASE
from kit.fleets import FleetFeed, fleets_of
from kit.fleets import feed as feed
from kit.mariadbserver import PrivateMariaDB

ERRORS = """
import sys, MySQLdb
from kit.djangobare import configure
configure(sys.argv[1])
from django.db import DatabaseError, connection, transaction
from datastream_ws_django.db import is_passing
from datastream_ws_django.models import StreamLease

def error_of(work):
    try:
        work()
    except DatabaseError as error:
        return error.args[0], is_passing(error)

def query(sql="SELECT 1"):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()

def update():
    with transaction.atomic():
        StreamLease.objects.update(epoch=2)

[number] = query("SELECT CONNECTION_ID()")
port = connection.settings_dict["PORT"]
other = MySQLdb.connect(host="127.0.0.1", port=port, user="root", database="datastream")
other.cursor().execute(f"KILL {number}")
print("killed", error_of(query))
connection.close()
StreamLease.objects.get_or_create(stream="locked")
other.begin()
other.cursor().execute("UPDATE datastream_streamlease SET epoch = 1")
with connection.cursor() as cursor:
    cursor.execute("SET innodb_lock_wait_timeout = 1")
print("locked", error_of(update))
print("syntax", error_of(lambda: query("SELECT FROM")))
"""

pytestmark = pytest.mark.timeout(300)

FILES = ("lease", "control", "deadletters", "admin", "health", "fleet")
# They need another database, or look at statements as SQLite writes them.
LEFT_OUT = (
    *("redis", "sqlite", "postgresql", "test_pages_need_few_queries", "test_the_list_reads"),
    "test_a_heartbeat_is_one_statement",
)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[PrivateMariaDB]:
    with PrivateMariaDB() as server:
        yield server


def test_rows_are_as_in_other_databases(mariadb: PrivateMariaDB) -> None:
    """The tests of rows that run with SQLite in memory otherwise."""
    files = [f"tests/integrations/test_django_{name}.py" for name in FILES]
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "--create-db", "--tb=short"),
        *("-k", " and ".join(f"not {name}" for name in LEFT_OUT)),
        *(*files, "tests/integrations/test_shared_stores.py"),
    ]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {DATABASE: mariadb.url},
        capture_output=True,
        text=True,
        timeout=240,
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout
    assert int(re.findall(r"(\d+) passed", ended.stdout)[0]) > 100


@pytest.fixture(scope="module")
def tables(mariadb: PrivateMariaDB) -> str:
    """The URL of a database with the package's tables."""
    run(f"from kit.djangobare import migrate; migrate({mariadb.url!r})")
    return mariadb.url


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_lost_connection_and_a_lock_are_retried(tables: str) -> None:
    printed = run(ERRORS, tables).splitlines()
    lost, locked, syntax = printed
    assert re.fullmatch(r"killed \((1927|2006|2013), True\)", lost)
    assert locked == "locked (1205, True)"
    assert syntax == "syntax (1064, False)"


def test_three_processes_share_a_fleet(tables: str, feed: FleetFeed, tmp_path: Path) -> None:
    """A process is killed, another one ends; each stream has one connection all the while."""
    with fleets_of(feed, tmp_path, streams=30, ttl=4.0, processes=3, database=tables) as fleets:
        fleets.any().kill()
        assert fleets.wait_connected(30) <= 5.0
        fleets.wait_shared(10)
        assert fleets.any().terminate() == 0
        fleets.wait_connected(10)
