"""How a fleet comes back after an outage: the figures of our back-off, beside those of others."""

from __future__ import annotations

import random

import pytest

from benchmarks.storm import CURVES, main, storm

SEEDS = range(1, 6)


@pytest.mark.parametrize("seed", SEEDS)
def test_1000_clients_after_30_seconds(seed: int) -> None:
    """At 100 accepted a second: at most 80 attempts in 100 ms, 99 % back within 30 s."""
    found = storm("ours", 1000, outage=30, rate=100, luck=random.Random(seed))
    assert found.peak <= 80
    assert found.most <= 30


def test_others_do_worse() -> None:
    """The Go client's curve comes as one and is back late; full jitter's peak is higher."""
    results = {curve: storm(curve, 1000, 30, 100, random.Random(1)) for curve in CURVES}
    assert results["seed"].peak > 5 * results["ours"].peak
    assert results["seed"].most > 2 * results["ours"].most
    assert results["full-jitter"].peak > results["ours"].peak


def test_everybody_comes_back_at_the_rate_of_the_server() -> None:
    """No more than it accepts, and nobody is left behind."""
    found = storm("ours", 500, outage=0, rate=10, luck=random.Random(1))
    assert found.most >= 0.99 * 500 / 10 - 5
    assert found.attempts >= 1


def test_the_same_seed_gives_the_same_storm() -> None:
    """A figure that is quoted can be had again."""
    once, again = (storm("ours", 300, 10, 50, random.Random(9)) for _ in range(2))
    assert once == again


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each curve."""
    main(["--clients", "50", "--outage", "5"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[3:]] == list(CURVES)
