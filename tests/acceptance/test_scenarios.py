"""The table of scenarios over the core, in this process."""

from __future__ import annotations

import pytest

from datastream_ws import Client
from kit.lag import Lag
from kit.scenarios import SCENARIOS
from kit.stage import Stage
from kit.witness import attend

# Silence is noticed within half a second of its limit, what open_timeout bounds within a fifth.
SILENT = {"half-open", "part-then-silence"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_over_the_core(name: str) -> None:
    """As the row says, and no delay outside its envelope, no message unaccounted for."""
    scenario = SCENARIOS[name]
    with Lag() as lag, Stage(scenario) as stage:
        client = Client(stage.url, name=name, **scenario.client_options)
        attend(client, scenario, stage.say)
        with client:
            stage.wait()
    # What the machine was late by comes on top of it: it is measured, not guessed.
    stage.judge(late=(0.5 if name in SILENT else 0.2) + lag.seconds)
