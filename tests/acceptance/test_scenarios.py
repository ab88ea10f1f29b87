"""The table of scenarios over the core, in this process."""

from __future__ import annotations

import pytest

from datastream_ws import Client
from kit.scenarios import SCENARIOS
from kit.stage import Stage
from kit.witness import attend

# Silence is noticed within half a second of its limit, what open_timeout bounds within a fifth.
SILENT = {"half-open", "part-then-silence"}

# Seconds over a time limit that a busy machine may take.
LATE = 2.0


@pytest.mark.parametrize("name", SCENARIOS)
def test_over_the_core(name: str) -> None:
    """As the row says, and no delay outside its envelope, no message unaccounted for."""
    scenario = SCENARIOS[name]
    with Stage(scenario) as stage:
        client = Client(stage.url, name=name, **scenario.client_options)
        attend(client, scenario, stage.say)
        with client:
            stage.wait()
    stage.judge(late=LATE)
