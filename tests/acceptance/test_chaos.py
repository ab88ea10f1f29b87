"""
Random faults at 500 messages a second: nothing lost, nothing doubled, no gap that was not told.

The client is a process of its own, so that its memory is not the server's. The faults come from a
seed that is printed; ``CHAOS_SEED=…`` in the environment runs it again, ``CHAOS_SECONDS=…`` for
longer.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from kit.faultproxy import (
    Bandwidth,
    Blackhole,
    Cut,
    FaultProxy,
    Latency,
    Mode,
    Pass,
    Slices,
    Swallow,
)
from kit.numbered import NumberedServer, check_ledger, check_numbers
from kit.seen import eventually
from kit.streams import StreamProcess

RATE = 500
SECONDS = float(os.environ.get("CHAOS_SECONDS", "12"))
SLACK = 4 * 2**20  # bytes
STEP = 0.25  # seconds between two looks at memory and descriptors
PATIENCE = 0.5  # pong_timeout; a fault that lasts longer costs the connection
MODES: list[Mode] = [
    Latency(0.1, jitter=0.05),
    Bandwidth(30_000),
    Slices(7, 0.001),
    Swallow(),
    Blackhole(),
    Cut(20_000),
    Cut(300, "rst"),
]


class Chaos:
    """Faults in a random order, each for a moment, until :meth:`stop`."""

    def __init__(self, server: NumberedServer, proxy: FaultProxy, luck: random.Random) -> None:
        self._server = server
        self._proxy = proxy
        self._luck = luck
        self.faults = 0
        self._ways: list[Callable[[], object]] = [
            self._spoil,
            self._spoil,
            lambda: proxy.sever("rst"),
            lambda: proxy.sever("fin"),
            self._refuse,
            server.abort,
            server.drop,
            lambda: server.close(luck.choice([1000, 1001, 1011, 4000])),
        ]

    def run(self, seconds: float) -> None:
        """Spoil the connection again and again for so long, and leave it in peace then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._luck.choice(self._ways)()
            self.faults += 1
            time.sleep(self._luck.uniform(0.05, 0.6))
        self._proxy.both(Pass())
        self._proxy.accept()

    def _spoil(self) -> None:
        mode = self._luck.choice(MODES)
        sides = self._luck.choice(["up", "down", "both"])
        if sides in ("up", "both"):
            self._proxy.up = mode
        if sides in ("down", "both"):
            self._proxy.down = mode
        time.sleep(self._luck.uniform(0.05, 2 * PATIENCE))
        if isinstance(mode, Swallow):  # no TCP connection goes on after it lost bytes
            self._proxy.refuse()  # one that begins between the next two would lose some, too
            self._proxy.sever("rst")
        self._proxy.both(Pass())
        self._proxy.accept()

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._proxy.sever("rst")
        time.sleep(self._luck.uniform(0.05, 0.5))
        self._proxy.accept()


class Figures:
    """Memory, descriptors and threads of a process, looked at now and then."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.seen: list[tuple[int, int, int]] = []

    def __enter__(self) -> Figures:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(STEP):
            size, descriptors = self._process.memory_info().rss, self._process.num_fds()
            self.seen.append((size, descriptors, self._process.num_threads()))

    def __str__(self) -> str:
        """What the later half needed: the most, and bytes an hour by the line through them."""
        later = self.seen[len(self.seen) // 2 :]
        size, descriptors, threads = (max(each[n] for each in later) for n in range(3))
        slope = statistics.linear_regression(range(len(later)), [each[0] for each in later]).slope
        growth = slope * 3600 / STEP / 2**20
        return (
            f"{size / 2**20:.1f} MiB ({growth:+.1f} MiB an hour), {descriptors} descriptors, "
            f"{threads} threads"
        )

    def check_flat(self) -> None:
        """The later half needs no more than the earlier one, but for what is in the air."""
        half = len(self.seen) // 2
        earlier, later = self.seen[half // 4 : half], self.seen[half:]
        for what, slack, n in (("bytes", SLACK, 0), ("descriptors", 2, 1), ("threads", 2, 2)):
            most, before = max(each[n] for each in later), max(each[n] for each in earlier)
            assert most <= before + slack, f"{what} grew from {before} to {most}"


def chaos(
    folder: Path, seconds: float, *, resume: bool
) -> tuple[list[int], list[int], NumberedServer]:
    """Return the numbers handled, the last numbers before each reported gap, and the server."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    print(f"CHAOS_SEED={seed}")
    log = folder / "log"
    quick: dict[str, Any] = {"pong_timeout": PATIENCE, "open_timeout": 1.0, "close_timeout": 0.5}
    with (
        NumberedServer(int(seconds * RATE * 0.8), rate=RATE, resume=resume) as server,
        FaultProxy(server.url) as proxy,
        StreamProcess(proxy.url, log, proxy=None, **quick) as client,
    ):
        client.wait_state("ready")
        with Figures(client.pid) as figures:
            spoiler = Chaos(server, proxy, random.Random(seed))
            spoiler.run(seconds)
            with suppress(TimeoutError):  # of a live feed the last one may have been lost
                server.wait_finished(60 + 2 * seconds)
            if resume:
                eventually(lambda: f'{{"n": {server.count},' in end_of(log), 60)
        assert client.terminate() == 0
        said = client.said
    numbers = [each["n"] for each in said if "n" in each]
    gaps = [each["gap"] for each in said if "gap" in each]
    stats: Any = SimpleNamespace(**said[-1]["stats"])
    print(
        f"{len(numbers)} of {server.count} messages over {stats.connections} connections, "
        f"{spoiler.faults} faults, {len(gaps)} gaps; {figures}"
    )
    assert spoiler.faults >= seconds / 2
    assert stats.reconnects >= 1
    figures.check_flat()
    check_ledger(stats)
    return numbers, gaps, server


def end_of(log: Path) -> str:
    """Return the last lines; many attempts may have failed after the last message."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 100_000))
        return file.read().decode(errors="replace")


def check_resumed(folder: Path, seconds: float) -> None:
    numbers, _, server = chaos(folder, seconds, resume=True)
    check_numbers(numbers, server.count)


def check_live(folder: Path, seconds: float) -> None:
    numbers, before_gaps, _ = chaos(folder, seconds, resume=False)
    jumps = [(a, b) for a, b in itertools.pairwise(numbers) if b != a + 1]
    assert all(b > a for a, b in jumps), "doubled, or out of order"
    assert jumps, "no fault cost a message: this shows nothing"
    known = set(before_gaps)
    assert [jump for jump in jumps if jump[0] not in known] == []


@pytest.mark.fault("75")
@pytest.mark.timeout(120 + 4 * SECONDS)
def test_nothing_is_lost_or_doubled_when_resumed(tmp_path: Path) -> None:
    """With a server that resumes: each number once, in order, whatever happened in between."""
    check_resumed(tmp_path, SECONDS)


@pytest.mark.fault("75")
@pytest.mark.timeout(120 + 4 * SECONDS)
def test_every_jump_is_explained_by_a_gap(tmp_path: Path) -> None:
    """With a live feed messages are lost while away, and on_gap told of it each time."""
    check_live(tmp_path, SECONDS * 2 / 3)


@pytest.mark.ci
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("check", "seconds"), [(check_resumed, 36), (check_live, 24)])
def test_a_minute_of_chaos(
    tmp_path: Path, check: Callable[[Path, float], None], seconds: float
) -> None:
    """The same for a minute in sum."""
    check(tmp_path, seconds)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("check", [check_resumed, check_live])
def test_20_minutes_of_chaos(tmp_path: Path, check: Callable[[Path, float], None]) -> None:
    """The same for long: memory, descriptors and threads stay flat."""
    check(tmp_path, 1200)
