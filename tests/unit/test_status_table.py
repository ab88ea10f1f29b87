"""How streams are, as a table: as wide as the terminal, in ages, safe, redrawn."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from typing import Any

import pytest

from datastream_ws import status_table
from datastream_ws.health import StreamHealth
from datastream_ws.status_table import StatusRow, fleet_note, row_of, show, shown_age, table, watch

NOW = 1_800_000_000.0
HEALTH = StreamHealth(
    name="prices", state="ready", at=NOW - 3, pid=4711,
    messages_received=1_234_567, messages_handled=1_234_000, messages_failed=7,
    messages_dropped=0, messages_waiting=560, messages_spooled=0, reconnects=12,
    connected_since=NOW - 7_300, last_message_at=NOW - 61, last_error="connection refused by h:1",
    state_since=NOW - 7_300,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def row(**changes: object) -> StatusRow:
    facts = {name: getattr(HEALTH, name) for name in HEALTH.__slots__} | changes
    return row_of(StreamHealth(**facts), NOW, 30.0, "web-1/4711")


def test_a_row_is_in_ages_and_counts() -> None:
    titles, cells, error = table([row()]).splitlines()
    assert titles.split() == list(status_table.TITLES)
    assert re.split(r"  +", cells) == [
        *("prices", "ready", "2 h", "web-1/4711", "3 s", "1 min"),
        *("1234567", "1234000", "7", "560", "12"),
    ]
    assert error == "  last error: connection refused by h:1"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (-5.0, "0 s"), (59.4, "59 s"), (60.0, "1 min"), (7_200.0, "2 h"), (9e5, "10 d")],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert shown_age(seconds) == shown


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_row_fits_the_terminal(width: int) -> None:
    error = "x" * 200
    lines = table([row(last_error=error), row(state="waiting", reconnects=10**15)], width=width)
    assert max(map(len, lines.splitlines())) <= width
    for title in ("STREAM", "STATE", "RUNNER", "MESSAGE", "FAILED"):
        assert title in lines or width < 60


def test_at_80_columns_there_is_what_matters() -> None:
    assert table([row()], width=80).splitlines()[0].split() == [
        *("STREAM", "STATE", "FOR", "RUNNER", "SEEN", "MESSAGE", "RECEIVED", "FAILED", "WAITING")
    ]


@pytest.mark.parametrize(
    ("changes", "state", "is_healthy"),
    [
        ({}, "ready", True),
        ({"state": "waiting"}, "waiting", False),
        ({"at": NOW - 31}, "stale (ready)", False),
        ({"at": NOW - 31, "state": "closed"}, "closed", False),
    ],
)
def test_what_is_stale_says_so(changes: dict[str, object], state: str, is_healthy: bool) -> None:
    found = row(**changes)
    assert (found.state, found.is_healthy) == (state, is_healthy)


def test_messages_without_a_handler_and_fleets_are_told_beneath() -> None:
    lines = table([row(messages_unrouted=1_200, streams={"ready": 3}, source_size=4)]).splitlines()
    assert lines[2:4] == [
        "  messages without a handler: 1,200",
        "  streams: 3 ready; rows in the source: 4",
    ]


@pytest.mark.parametrize(("size", "shown"), [(None, "unknown"), (0, "0"), (4_000, "4,000")])
def test_a_fleet_that_no_process_has_reported_has_no_number_of_rows(
    size: int | None, shown: str
) -> None:
    assert fleet_note({}, size) == f"streams: none; rows in the source: {shown}"


EVIL = "a\x1b[2Jb\x1b]0;d\x07\n\r\x9b1m"


@pytest.mark.parametrize("field", ["name", "state", "last_error", "streams"])
def test_nothing_drives_the_terminal(field: str) -> None:
    """Whatever a server said, or a health file that another user may have written."""
    given: dict[str, Any] = {field: {EVIL: 1} if field == "streams" else EVIL}
    for each in (row(**given), replace(row(**given), runner=EVIL)):
        lines = table([each]).split("\n")
        assert all(line.isprintable() for line in lines)
        assert len(lines) <= 4
    assert "[2J" in table([row(**given)])


def test_colors_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(), row(state="waiting")]
    colored = show(rows, Terminal())
    assert "\x1b[32mready" in colored
    assert "\x1b[1;31mwaiting" in colored
    plain = re.sub(r"\x1b\[[\d;]*m", "", colored)
    assert plain == table(rows, width=80)
    assert show(rows, io.StringIO()) == table(rows)
    assert "\x1b" not in show(rows, Terminal(), colored=False)
    for name, value in (("TERM", "dumb"), ("NO_COLOR", "1")):
        with monkeypatch.context() as patch:
            patch.setitem(os.environ, name, value)
            assert "\x1b" not in show(rows, Terminal())


@pytest.mark.parametrize("is_well", [True, False])
def test_watching_goes_on_until_ctrl_c(is_well: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def sleep(seconds: float) -> None:
        if looks == 3:
            raise KeyboardInterrupt

    def look() -> tuple[str, bool]:
        nonlocal looks
        looks += 1
        return f"look {looks}", is_well

    monkeypatch.setattr("time.sleep", sleep)
    terminal = Terminal()
    assert watch(look, terminal) is is_well
    assert terminal.getvalue().count("\x1b[H") == 3
    assert "look 3" in terminal.getvalue()
    looks, pipe = 0, io.StringIO()
    assert watch(look, pipe) is is_well
    assert pipe.getvalue() == "look 1\nlook 2\nlook 3\n"
