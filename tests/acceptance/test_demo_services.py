"""The demo's programs: given time to finish, and surely gone afterwards, with all they started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from example_project.demo.services import Service, end
from kit.seen import eventually

# Neither it nor its child heeds SIGTERM. Each writes its line at once, because print() may be
# unbuffered, and would mix the two lines.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
os.write(1, f"{os.getpid()}\\n".encode())
time.sleep(600)
"""
CAREFUL = """
import signal, sys, time
def finish(*_):
    time.sleep(0.3)
    sys.exit("finished")
signal.signal(signal.SIGTERM, finish)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Callable[[str, str], Service]]:
    """Start a program and wait for the first *lines* it prints."""
    started: list[Service] = []

    def start(name: str, program: str, lines: int = 1) -> Service:
        service = Service(name, [sys.executable, "-c", program], tmp_path)
        service.start()
        started.append(service)
        eventually(lambda: len(service.last_lines(lines)) == lines)
        return service

    yield start
    for service in started:
        service.kill()


def is_gone(pid: int) -> bool:
    """A zombie that nobody has waited for is gone, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_who_does_not_finish_is_killed_with_its_children(
    services: Callable[..., Service],
) -> None:
    stubborn = services("stubborn", STUBBORN, 2)
    pids = [int(line) for line in stubborn.last_lines(2)]
    assert not any(map(is_gone, pids))
    end([stubborn], is_urgent=lambda: True)
    assert not stubborn.is_running
    eventually(lambda: all(map(is_gone, pids)))


def test_who_finishes_is_given_the_time(services: Callable[..., Service]) -> None:
    careful = services("careful", CAREFUL)
    end([careful], is_urgent=lambda: False)
    assert careful.last_lines(1) == ["finished"]


def test_what_died_is_started_again_without_its_old_children(
    services: Callable[..., Service],
) -> None:
    stubborn = services("stubborn", STUBBORN, 2)
    old = [int(line) for line in stubborn.last_lines(2)]
    os.kill(os.getsid(old[0]), signal.SIGKILL)
    eventually(lambda: not stubborn.is_running)
    assert stubborn.revive() == "killed by SIGKILL"
    assert stubborn.restarts == 1
    eventually(lambda: all(map(is_gone, old)))
    assert stubborn.is_running
