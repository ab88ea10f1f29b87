"""Whatever stands in a file that is read, a health file, a recording or a spool: no accident."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datastream_ws import ConfigurationError, SpoolError
from datastream_ws.cli.recording import Moment, moments
from datastream_ws.health import StreamHealth, is_healthy, read_health_file
from datastream_ws.spool.file import SpoolFile
from datastream_ws.spool.run import Row, run_of, runs_of

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=10)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# --- health files -----------------------------------------------------------------------------

names = [field.name for field in fields(StreamHealth)]
GOOD = asdict(
    StreamHealth(
        "feed", "ready", 0.0, 1, 0, 0, 0, 0, 0, 0, 0, None, None, None
    )  # as a runner writes it
)
streams = st.builds(
    lambda values: GOOD | values, st.dictionaries(st.sampled_from([*names, "more"]), anything)
)
health_files = (
    st.binary(max_size=200)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.lists(streams, max_size=3).map(lambda found: json.dumps({"streams": found}).encode())
)


@given(content=health_files)
@example(content=json.dumps({"streams": [GOOD | {"at": 10**400}]}).encode())
@example(content=json.dumps({"streams": [GOOD | {"at": float("nan")}]}).encode())
def test_a_health_file_is_read_and_judged_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "health"
    path.write_bytes(content)
    try:
        found = read_health_file(str(path))
    except ValueError:
        return
    for stream in found:
        assert is_healthy(stream, time.time()) in (True, False)
        json.dumps(asdict(stream), allow_nan=False)


# --- recordings -------------------------------------------------------------------------------

HEAD = b'{"recording":"datastream-ws","version":1}\n'
lines = st.one_of(
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")),
    anything.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda kind, at, value: json.dumps({"at": at, kind: value}).encode(),
        st.sampled_from(["text", "binary", "event"]),
        scalars,
        anything | st.sampled_from(["connected", "disconnected", "AAEC"]),
    ),
    st.builds(
        lambda code, reason: json.dumps(
            {"at": 1, "event": "disconnected", "code": code, "reason": reason}
        ).encode(),
        anything,
        anything,
    ),
)


@given(
    head=st.just(HEAD) | lines, found=st.lists(lines, max_size=4), end=st.sampled_from([b"", b"\n"])
)
@example(head=HEAD, found=[b'{"at":1,"event":"disconnected","code":1e999}'], end=b"\n")
@example(head=b'{"recording":"datastream-ws","version":1e999}', found=[], end=b"\n")
@example(head=HEAD, found=[b'{"at":' + b"9" * 400 + b',"text":"x"}'], end=b"\n")
def test_a_recording_is_read_or_refused(
    folder: Path, head: bytes, found: list[bytes], end: bytes
) -> None:
    path = folder / "recording"
    path.write_bytes(head.removesuffix(b"\n") + b"\n" + b"\n".join(found) + end)
    try:
        read = list(moments(str(path)))
    except ConfigurationError:
        return
    for moment in read:
        assert isinstance(moment, Moment)
        assert 0 <= moment.at < 1e9
        assert isinstance(moment.data, str | bytes | None)


# --- spool files ------------------------------------------------------------------------------

ROWS = [Row(n, 1, 1, n, 1.7e9, f"payload {n}") for n in range(1, 40)]


class Shown(bytes):
    """Bytes that hypothesis names without all of them."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def good(folder: Path) -> bytes:
    """A spool of ours, all of it in the file."""
    path = folder / "good"
    file = SpoolFile(str(path))
    file.write(runs_of(map(run_of, ROWS)), [])
    file.close()
    return Shown(path.read_bytes())


def read_spool(folder: Path, content: bytes, **companions: bytes) -> list[Any] | None:
    """Return the rows of a file of these bytes; ``None``: it is refused, or set aside."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "spool"
        path.write_bytes(content)
        for end, companion in companions.items():
            path.with_name(f"spool-{end}").write_bytes(companion)
        try:
            file = SpoolFile(str(path))
        except SpoolError:
            return None
        try:
            runs = file.read(0, None, 1000, 2**20)
            return None if file.set_aside else [row for run in runs for row in run.rows()]
        except SpoolError:
            return None
        finally:
            file.close()


@given(content=st.binary(min_size=1, max_size=300))
@settings(max_examples=25, deadline=None)
def test_noise_is_no_spool(folder: Path, content: bytes) -> None:
    assert not read_spool(folder, content)


@given(where=st.integers(0, 10**6), noise=st.binary(min_size=1, max_size=64))
@example(where=89904, noise=b"\x80")  # SQLite quotes the schema in a message that is not UTF-8
@settings(max_examples=40, deadline=None)
def test_a_damaged_spool_ends_in_no_accident(
    folder: Path, good: bytes, where: int, noise: bytes
) -> None:
    """Rows that were damaged in themselves are what they are: no sum guards each."""
    at = where % len(good)
    read_spool(folder, good[:at] + noise + good[at + len(noise) :])


@given(wal=st.binary(max_size=400), shm=st.binary(max_size=400))
@settings(max_examples=25, deadline=None)
def test_noise_in_companions_adds_no_row(folder: Path, good: bytes, wal: bytes, shm: bytes) -> None:
    found = read_spool(folder, good, wal=wal, shm=shm)
    assert found is None or set(found) <= set(ROWS)


FOREIGN = [
    "CREATE TABLE messages (data)",
    "CREATE VIEW messages AS SELECT 1 AS position, 1 AS epoch, 1 AS c, 1 AS s, 1.0 AS r, 1",
    "CREATE TABLE messages (position INTEGER PRIMARY KEY, epoch, connection, seq, at, data)",
    "CREATE TABLE other (x)",
]


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("schema", FOREIGN)
def test_a_database_of_another_shape_ends_in_no_accident(
    folder: Path, schema: str, version: int
) -> None:
    """It says that it is a spool, and what is in it is not."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "made"
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(schema)
            if "seq," in schema:
                database.execute("INSERT INTO messages VALUES (1, 'x', x'00', NULL, 'y', NULL)")
            database.execute(f"PRAGMA user_version = {version}")
        content = path.read_bytes()
    found = read_spool(folder, content)
    assert not found or "seq," in schema
