"""A fleet's log: what is shown while many streams write to it, and what the sum says."""

from __future__ import annotations

import pytest

from datastream_ws.fleet.summary import LINES, Summary


class Log:
    """Keeps the lines, each with its level."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def debug(self, msg: str, *args: object, **_: object) -> None:
        self.lines.append(("debug", msg % args))

    def info(self, msg: str, *args: object, **_: object) -> None:
        self.lines.append(("info", msg % args))

    def warning(self, msg: str, *args: object, **_: object) -> None:
        self.lines.append(("warning", msg % args))

    def error(self, msg: str, *args: object, **_: object) -> None:
        self.lines.append(("error", msg % args))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def summary(log: Log) -> Summary:
    return Summary(log, "accounts", lambda: "50 streams here (50 ready)")


def many(summary: Summary, count: int = LINES) -> None:
    for number in range(count):
        summary.info("stream accounts/%d: connecting", number, extra={"state": "connecting"})


@pytest.mark.parametrize(("more", "counted"), [(1, "1 more line"), (2000, "2,000 more lines")])
def test_lines_beyond_the_limit_are_summed_up(
    more: int, counted: str, log: Log, summary: Summary
) -> None:
    many(summary, LINES + more)
    summary.flush(now=True)
    assert len(log.lines) == LINES + 1
    expected = f"fleet accounts: 50 streams here (50 ready); {counted} of its streams"
    assert log.lines[-1] == ("info", f"{expected} (connecting: {more:,})")


def test_the_first_trouble_of_a_kind_is_shown_among_many_lines(log: Log, summary: Summary) -> None:
    """A sum of "AttributeError: 67" alone explains nothing."""
    many(summary)
    for number in range(20):
        summary.error("hook failed with %d", number, extra={"error": "AttributeError"})
        summary.warning("stream %d: lost", number, extra={"error": "AttributeError"})
    assert log.lines[LINES:] == [("error", "hook failed with 0"), ("warning", "stream 0: lost")]
    summary.flush(now=True)
    level, text = log.lines[-1]
    assert level == "error"
    assert text.endswith("38 more lines of its streams (AttributeError: 38)")


def test_it_is_shown_again_in_the_next_window(log: Log, summary: Summary) -> None:
    for _ in range(2):
        many(summary, LINES + 1)
        summary.error("hook failed", extra={"error": "ValueError"})
        summary.flush(now=True)
    assert log.lines.count(("error", "hook failed")) == 2
