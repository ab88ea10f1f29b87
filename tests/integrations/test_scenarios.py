"""The table of scenarios over the runners: all streams in one process, then what ends a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.runners import RUNNERS, run
from kit.scenarios import SCENARIOS
from kit.stage import Stage

pytestmark = pytest.mark.timeout(300)

SLOW = 300.0  # seconds of fatal_delay: FATAL_DELAY where a command would end, Celery's own default
GRACE = 1.0  # second over the longest close_timeout in which a process has ended


@pytest.mark.parametrize("runner", RUNNERS)
def test_over_a_runner(runner: str, tmp_path: Path) -> None:
    """
    Every row, as over the core; what is fatal there is tried again after minutes here.

    At last SIGTERM: ready, waiting, in the middle of a message, all streams end in time, with 0.
    """
    stages = {name: Stage(scenario) for name, scenario in SCENARIOS.items()}
    more: dict[str, Any] = {}
    if RUNNERS[runner].fatal_delay is None:
        more["FATAL_DELAY"] = SLOW
    ended = run(RUNNERS[runner], tmp_path, stages, **more)
    assert {name: wrong for name, stage in stages.items() if (wrong := fault_of(stage))} == {}
    assert ended.code == 0, ended.output
    longest = max(scenario.client_options["close_timeout"] for scenario in SCENARIOS.values())
    assert ended.seconds <= longest + GRACE


def fault_of(stage: Stage) -> str:
    """Return what the judge says; empty: nothing is wrong."""
    try:
        stage.judge(SLOW)
    except AssertionError as error:
        return str(error)
    return ""


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


@pytest.mark.parametrize("runner", ["django", "flask", "celery"])
def test_a_wrong_option_ends_the_process_at_once(runner: str, tmp_path: Path) -> None:
    """The option's name and what was wrong with it, exit code 1; nobody is connected to."""
    stage = Stage(SCENARIOS["fin"])
    with stage:
        settings = {"fin": {"URL": stage.url, "PONG_TIMEOUT": -5}}
        with RUNNERS[runner](tmp_path, settings, tmp_path / "facts") as process:
            assert process.wait() == 1, process.output
        assert stage.server.connections == []
    assert "PONG_TIMEOUT" in process.output.upper()
    assert "must be a number of seconds above 0" in process.output
