"""Streams that no process has room for: said once for each stretch; time is the test's."""

from __future__ import annotations

import pytest

from datastream_ws.fleet.limit_monitor import LimitMonitor
from kit.memorystore import Clock

DELAY = 15.0


class Told:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.lines: list[tuple[str, str]] = []
        monkeypatch.setattr("time.monotonic", self.clock)

    def monitor(self, delay: float = DELAY, *, is_shared: bool = True) -> LimitMonitor:
        def say(level: str, text: str) -> None:
            self.lines.append((level, text))

        return LimitMonitor(delay, say, is_shared=is_shared)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_one_warning_for_a_stretch_and_one_line_when_it_is_over(told: Told) -> None:
    monitor = told.monitor()
    monitor.update(5, [10, 10, 10])
    told.clock.now += DELAY - 0.1
    monitor.update(5, [10, 10, 10])
    assert (told.lines, monitor.streams) == ([], 5)
    told.clock.now += 0.2
    for streams in (5, 6, 7):
        monitor.update(streams, [10, 10, 10])
        told.clock.now += 60
    warning = (
        "5 streams run in no process, because 3 processes have reached their limits (limit=10, "
        "30 in all); start another process, or raise limit"
    )
    assert told.lines == [("warning", warning)]
    monitor.update(0, [10, 10, 10, 10])
    monitor.update(0, [10, 10, 10, 10])
    over = "every stream has room in a process again"
    assert told.lines[1:] == [("info", over)]
    assert [(event.kind, event.text) for event in monitor.events] == [
        ("limit", warning),
        ("limit", over),
    ]
    monitor.update(1, [10])
    told.clock.now += DELAY
    monitor.update(1, [10])
    assert len(told.lines) == 3, "another stretch"


def test_what_does_not_last_is_no_news(told: Told) -> None:
    monitor = told.monitor()
    for _ in range(5):
        monitor.update(3, [1])
        told.clock.now += DELAY - 1
        monitor.update(0, [1, 1])
    assert (told.lines, monitor.events) == ([], ())


@pytest.mark.parametrize(
    ("streams", "limits", "is_shared", "text"),
    [
        (1, [4], True, "1 stream runs in no process, because the limit of this process is reached "
            "(limit=4); start another process, or raise limit"),
        (2000, [4], False, "2,000 streams run in no process, because the limit of this process is "
            "reached (limit=4); raise limit, or set lease"),
        (2, [9, 4], True, "2 streams run in no process, because 2 processes have reached their "
            "limits (limit=4 to 9, 13 in all); start another process, or raise limit"),
    ],
)  # fmt: skip
def test_the_text(told: Told, streams: int, limits: list[int], is_shared: bool, text: str) -> None:
    told.monitor(0.0, is_shared=is_shared).update(streams, limits)
    assert told.lines == [("warning", text)]
