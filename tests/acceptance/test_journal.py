"""A process that is killed: with a journal nothing it had received is lost."""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from kit.numbered import NumberedServer
from kit.streams import StreamProcess, entries

pytestmark = pytest.mark.timeout(300)


def handled_numbers(log: Path) -> list[int]:
    return [each["n"] for each in entries(log) if "n" in each]


def firsts(numbers: list[int]) -> list[int]:
    """Return the numbers without those that came a second time."""
    return list(dict.fromkeys(numbers))


def kill_at_random_moments(server: NumberedServer, log: Path, kills: int, **options: Any) -> int:
    """Run a client to the end of the numbers, killing it now and then; return the kills made."""
    made, chance = 0, random.Random()
    for _ in range(kills):
        before = len(handled_numbers(log))
        with StreamProcess(server.url, log, slow=0.0002, **options) as process:
            process.wait_handled(1)
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
        made += len(handled_numbers(log)) > before
    return made


def check_all_in_order(log: Path, count: int) -> None:
    """Assert that everything was handled, doubled only where a process was killed."""
    numbers = handled_numbers(log)
    assert firsts(numbers) == list(range(1, count + 1))
    by_process: dict[int, list[int]] = {}
    for each in entries(log):
        if "n" in each:
            by_process.setdefault(each["pid"], []).append(each["n"])
    for own in by_process.values():
        assert own == sorted(set(own)), "in order within each process"


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_sigkill_under_load_loses_nothing(tmp_path: Path, kills: int) -> None:
    """The server resumes after the last message that was received, as ``last_message`` says."""
    log, count = tmp_path / "log", 3000 * kills
    options: dict[str, Any] = {"spool": str(tmp_path / "spool.db"), "journal": True}
    with NumberedServer(count, rate=8000) as server:
        assert kill_at_random_moments(server, log, kills, **options) >= kills - 1
        with StreamProcess(server.url, log, **options) as last:
            missing = count - len(firsts(handled_numbers(log)))
            last.wait_handled(missing, timeout=120)
            assert last.terminate() == 0
    check_all_in_order(log, count)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_without_a_journal_at_most_the_memory_is_lost(tmp_path: Path, kills: int) -> None:
    """Each kill costs at most ``inbox_size`` messages, and nothing that was in the file."""
    log, size = tmp_path / "log", 50
    options: dict[str, Any] = {"spool": str(tmp_path / "spool.db"), "inbox_size": size}
    numbers: list[int] = []
    with NumberedServer(1_000_000, resume=False, rate=4000) as server:
        for _ in range(kills):
            with StreamProcess(server.url, log, slow=0.002, **options) as process:
                process.wait_handled(100)
                process.kill()
    seqs: dict[int, list[int]] = {}
    for each in entries(log):
        if "n" in each:
            numbers.append(each["n"])
            seqs.setdefault(each["epoch"], []).append(each["seq"])
    assert numbers == sorted(set(numbers)), "in order, and none twice"
    # What one process has received, over all that handled it: the gaps are what kills have cost.
    gaps = [
        after - before - 1
        for received in seqs.values()
        for before, after in itertools.pairwise(received)
        if after != before + 1
    ]
    assert len(gaps) <= kills
    assert all(gap <= size + 1 for gap in gaps), gaps


def test_last_message_survives_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options: dict[str, Any] = {"spool": str(tmp_path / "spool.db"), "journal": True}
    with NumberedServer(20) as server:
        with StreamProcess(server.url, log, **options) as first:
            first.wait_handled(20)
            assert first.terminate() == 0
        with StreamProcess(server.url, log, **options) as second:
            second.wait_state("ready")
            server.wait_received(2)
            assert second.terminate() == 0
        assert [json.loads(each) for each in server.received] == [{"resume": 0}, {"resume": 20}]
    assert handled_numbers(log) == list(range(1, 21))
