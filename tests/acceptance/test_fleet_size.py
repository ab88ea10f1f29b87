"""What thousands of idle streams cost the one process that runs them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kit.fleets import FleetFeed, FleetProcess, cpu_seconds, memory
from kit.seen import eventually

SECONDS = 60.0  # more than a keepalive interval, in which each stream pings once


def cost(folder: Path, streams: int) -> tuple[float, float]:
    """Return the MiB of a process with so many idle streams, and its share of a core."""
    with FleetFeed(period=600.0, timeout=200.0) as feed:
        log = folder / f"log{streams}"
        with FleetProcess(feed.url, log, streams, start_rate=(1000, 1.0)) as process:
            eventually(lambda: feed.connected == streams, 120)
            time.sleep(5.0)
            before = cpu_seconds(process.pid)
            time.sleep(SECONDS)
            return memory(process.pid), (cpu_seconds(process.pid) - before) / SECONDS


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_three_thousand_cost_three_times_what_a_thousand_do(tmp_path: Path) -> None:
    empty, _ = cost(tmp_path, 1)
    found = {}
    for streams in (1000, 3000):
        mib, share = cost(tmp_path, streams)
        found[streams] = (mib - empty) * 1024 / streams
        print(f"{streams} idle streams: {found[streams]:.1f} KiB each, {share:.2%} of a core")
        assert share <= 0.01 * streams / 1000
    assert found[3000] <= 1.15 * found[1000]
