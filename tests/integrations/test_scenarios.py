"""The table of scenarios over the runners: all streams in one process, then what ends a process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from kit.runners import RUNNERS, Ended, run
from kit.scenarios import SCENARIOS
from kit.stage import Stage

pytestmark = pytest.mark.timeout(300)

SLOW = 300.0  # seconds of fatal_delay: FATAL_DELAY where a command would end, Celery's own default
GRACE = 1.0  # second over the longest close_timeout in which a process has ended


@cache
def performance(runner: str) -> tuple[dict[str, Stage], Ended]:
    """Have one process run every scenario, and stop it when all are over."""
    stages = {name: Stage(scenario) for name, scenario in SCENARIOS.items()}
    more: dict[str, Any] = {}
    if RUNNERS[runner].fatal_delay is None:
        more["FATAL_DELAY"] = SLOW
    with TemporaryDirectory() as folder:
        return stages, run(RUNNERS[runner], Path(folder), stages, **more)


def grouped(runner: str, *values: str) -> Any:
    """One test that shares the process with others, and therefore theirs."""
    return pytest.param(runner, *values, marks=pytest.mark.xdist_group(f"scenarios, {runner}"))


@pytest.mark.parametrize(
    ("runner", "name"), [grouped(runner, name) for runner in RUNNERS for name in SCENARIOS]
)
def test_over_a_runner(runner: str, name: str) -> None:
    """As over the core; what is fatal there is tried again after minutes here."""
    stages, _ = performance(runner)
    stages[name].judge(SLOW)


@pytest.mark.parametrize("runner", [grouped(runner) for runner in RUNNERS])
def test_sigterm_in_the_middle(runner: str) -> None:
    """Ready, waiting, in the middle of a message: all streams end in time, with exit code 0."""
    _, ended = performance(runner)
    longest = max(scenario.client_options["close_timeout"] for scenario in SCENARIOS.values())
    assert ended.code == 0, ended.output
    assert ended.seconds <= longest + GRACE


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_stream_that_gives_up_ends_the_process_with_3(runner: str, tmp_path: Path) -> None:
    """Without a fatal_delay a wrong key ends it, and it says why."""
    stages = {"unauthorized": Stage(SCENARIOS["unauthorized"])}
    config = {"datastream": {"on_fatal": "shutdown"}} if runner == "celery" else {}
    ended = run(RUNNERS[runner], tmp_path, stages, terminate=False, config=config)
    stages["unauthorized"].judge()
    assert ended.code == 3, ended.output
    assert "unauthorized" in ended.output
    assert "401" in ended.output


@pytest.mark.parametrize(("runner", "code"), [("django", 1), ("flask", 1), ("celery", 2)])
def test_a_wrong_option_ends_the_process_at_once(runner: str, code: int, tmp_path: Path) -> None:
    """
    The option's name and what was wrong with it, exit code 1; nobody is connected to.

    A module that makes a wrong client cannot be imported: Celery itself says so, with 2.
    """
    stage = Stage(SCENARIOS["fin"])
    with stage:
        settings = {"fin": {"URL": stage.url, "PONG_TIMEOUT": -5}}
        with RUNNERS[runner](tmp_path, settings, tmp_path / "facts") as process:
            assert process.wait() == code, process.output
        assert stage.server.connections == []
    assert "PONG_TIMEOUT" in process.output.upper()
    assert "must be a number of seconds above 0" in process.output
