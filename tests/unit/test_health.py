"""The health of streams as one process says it and another judges it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import Client, State
from datastream_ws.health import (
    DEAD,
    HEALTHY,
    MAX_AGE,
    StreamHealth,
    describe,
    is_healthy,
    read_health_file,
    write_health_file,
)

NOW = 1_790_000_000.0


def health(**changes: Any) -> StreamHealth:
    described = describe(Client("ws://localhost", name="prices"), NOW)
    return replace(described, state="READY", **changes)


def test_every_state_is_judged() -> None:
    assert sorted(HEALTHY) == ["paused", "ready", "standby"]
    assert sorted(DEAD) == ["closed", "failed", "idle"]
    assert {state.value for state in State} > HEALTHY | DEAD


@pytest.mark.parametrize("state", State)
def test_health_by_state(state: State) -> None:
    assert is_healthy(replace(health(), state=state.value), NOW) is (state.value in HEALTHY)


@pytest.mark.parametrize(
    ("age", "healthy"),
    [(0.0, True), (MAX_AGE, True), (MAX_AGE + 1, False), (-1.0, True), (-3600.0, False)],
)
def test_health_by_age(age: float, healthy: bool) -> None:
    """A time that is yet to come is a clock that was put back, or a file that somebody wrote."""
    assert is_healthy(replace(health(), state="ready", at=NOW - age), NOW) is healthy


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "health")
    streams = [health(last_error="boom", connected_since=NOW), health()]
    write_health_file(path, streams)
    assert read_health_file(path) == streams
    assert os.listdir(tmp_path) == ["health"]


GOOD = asdict(health())

ODD: dict[str, Any] = {
    "nothing": b"",
    "not_utf_8": b"\xff\xfe",
    "nul": b"\0" * 10,
    "deep": b"[" * 200_000,
    "a_list": [],
    "no_streams": {},
    "null": {"streams": None},
    "a_text": {"streams": "READY"},
    "a_number": {"streams": 7},
    "missing_fields": {"streams": [{}]},
    "unknown_field": {"streams": [GOOD | {"more": 1}]},
    "name_is_a_list": {"streams": [GOOD | {"name": []}]},
    "state_is_a_dict": {"streams": [GOOD | {"state": {}}]},
    "time_is_a_text": {"streams": [GOOD | {"at": "now"}]},
    "counter_is_null": {"streams": [GOOD | {"messages_handled": None}]},
    "error_is_a_number": {"streams": [GOOD | {"last_error": 5}]},
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_odd_files_are_no_health_files(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "health"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match="not a health file"):
        read_health_file(str(path))


def test_a_fifo_does_not_hold_up_the_reader(tmp_path: Path) -> None:
    path = str(tmp_path / "health")
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a health file"):
        read_health_file(path)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError, match=r"directory"):
            read_health_file(str(path))
