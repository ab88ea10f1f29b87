"""The health of streams as one process says it and another judges it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import Client, State, Stats
from datastream_ws.health import (
    DEAD,
    HEALTHY,
    MAX_AGE,
    StreamHealth,
    describe,
    health_from,
    is_healthy,
    read_health_file,
    state_of_many,
    write_health_file,
)
from kit.offline import Story

NOW = 1_790_000_000.0


def health(**changes: Any) -> StreamHealth:
    described = describe(Client("ws://localhost", name="prices"), NOW)
    return replace(described, state="READY", **changes)


def test_every_state_is_judged() -> None:
    assert sorted(HEALTHY) == ["paused", "ready", "standby"]
    assert sorted(DEAD) == ["closed", "failed", "idle"]
    assert {state.value for state in State} > HEALTHY | DEAD


def test_how_long_a_client_has_been_in_its_state() -> None:
    """Since the connection opened, and without one since the event that ended the state before."""
    with Story(min_reconnect_delay=20.0) as story:

        def since() -> float | None:
            return describe(story.client, NOW).state_since

        def event(kind: str) -> float:
            return [each.at for each in story.client.stats().recent_events if each.kind == kind][-1]

        assert since() is None
        story.start()
        assert since() == story.client.stats().connected_since
        story.happens(story.engine.drop)
        story.passes(5.0)
        assert (describe(story.client, NOW).state, since()) == ("waiting", event("lost"))
        story.world.is_hanging = True
        story.call(story.client.reconnect())  # another step of reconnecting
        story.passes(5.0)
        assert (describe(story.client, NOW).state, since()) == ("connecting", event("lost"))
        story.call(story.client.pause())
        story.passes(1.0)
        assert since() == event("paused")


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


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    """A runner may be upgraded before the command that reads its file."""
    path = tmp_path / "health"
    path.write_text(json.dumps({"streams": [GOOD | {"more": 1, "other": None}]}))
    assert read_health_file(str(path)) == [health_from(GOOD)]


def test_a_fifo_does_not_hold_up_the_reader(tmp_path: Path) -> None:
    path = str(tmp_path / "health")
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a health file"):
        read_health_file(path)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError, match=r"directory"):
            read_health_file(str(path))


# --- fleets ----------------------------------------------------------------------------------


class Many:
    """A fleet, as far as its health is concerned."""

    name = "accounts"
    is_running = True

    def __init__(self, source_size: int | None, **counts: int) -> None:
        self.source_size = source_size
        self._counts = {State[state]: number for state, number in counts.items()}

    def counts(self) -> dict[State, int]:
        return self._counts

    def stats(self) -> Stats:
        return Stats(messages_received=7)


@pytest.mark.parametrize(
    ("fleet", "state"),
    [
        (Many(None), "connecting"),
        (Many(0), "standby"),
        (Many(20, READY=19, WAITING=1), "ready"),
        (Many(20, READY=18, WAITING=2), "waiting"),
        (Many(3, PAUSED=3), "paused"),
        (Many(20, READY=10, FAILED=10), "waiting"),
    ],
)
def test_a_fleet_is_summed_up(fleet: Many, state: str) -> None:
    described = describe(fleet, NOW)
    assert (described.state, described.source_size) == (state, fleet.source_size)
    assert described.messages_received == 7
    assert is_healthy(described, NOW) is (state in HEALTHY)


def test_a_fleet_that_has_ended_is_closed() -> None:
    fleet = Many(3)
    fleet.is_running = False
    assert describe(fleet, NOW).state == "closed"
    assert not is_healthy(describe(fleet, NOW), NOW)


def test_how_many_must_be_well_may_be_chosen() -> None:
    described = describe(Many(10, READY=6, WAITING=4), NOW)
    assert not is_healthy(described, NOW)
    assert is_healthy(described, NOW, share=0.6)
    assert not is_healthy(described, NOW, share=0.7)


def test_those_expected_elsewhere_count() -> None:
    assert state_of_many({"ready": 45}) == "ready"
    assert state_of_many({"ready": 45}, expected=90) == "waiting"


def test_a_fleet_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "health")
    streams = [describe(Many(20, READY=19, WAITING=1), NOW)]
    write_health_file(path, streams)
    assert read_health_file(path) == streams


@pytest.mark.parametrize("streams", [{"ready": -1}, {"ready": True}, {"ready": 1e9}, [], "ready"])
def test_a_fleets_counts_are_numbers(tmp_path: Path, streams: Any) -> None:
    path = tmp_path / "health"
    path.write_text(json.dumps({"streams": [asdict(health()) | {"streams": streams}]}))
    with pytest.raises(ValueError, match="not a health file"):
        read_health_file(str(path))
