"""The demo, as ``make demo`` runs it: in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUMMARY = re.compile(r"(\d+) messages, (\d+) reconnects, (\d+) gaps( \(\d+\.\d s without .*\))?")


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo in a process group of its own, its output in a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "example_project.demo", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Wait for the end; check that it left nothing behind, and return what it printed."""
    out, err = process.communicate(timeout=60)  # out: None once it was closed
    assert err == ""
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return (out or "").splitlines()


def counts(line: str) -> tuple[int, ...]:
    found = SUMMARY.fullmatch(line)
    assert found, line
    return tuple(map(int, found.groups()[:3]))


def test_demo_ends_by_itself_with_a_summary() -> None:
    with demo("--messages", "30", "--interval", "0.01", "--seed", "1") as process:
        *lines, summary = ended(process)
    messages, reconnects, gaps = counts(summary)
    assert (messages, gaps) == (30, reconnects)
    assert reconnects >= 1
    shown = [line for line in lines if re.search(r"  (flags|flag|company|heartbeat)\b", line)]
    assert len(shown) == 30
    assert sum("flags" in line for line in shown) == reconnects + 1  # asked for again
    assert "closing → closed" in lines[-1]
    assert not any("\x1b" in line for line in lines)


def test_one_message_is_enough() -> None:
    with demo("--messages", "1") as process:
        assert counts(ended(process)[-1]) == (1, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_ends_cleanly_when_told(number: signal.Signals) -> None:
    with demo("--interval", "0.01") as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(5)]
        assert "idle → connecting" in first[0]
        process.send_signal(number)
        lines = ended(process)
    assert counts(lines[-1])[0] >= 1


def test_demo_ends_when_nobody_reads_it_any_more() -> None:
    with demo("--interval", "0.01") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        assert ended(process) == []
