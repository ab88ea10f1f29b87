"""
Random faults at 500 messages a second: nothing lost, nothing doubled, no gap that was not told.

The faults come from a seed that is printed; ``CHAOS_SEED=…`` in the environment runs it again.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import threading
import time
from array import array
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from datastream_ws import Client, GapEvent, Message
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
from kit.seen import FAST, Seen, eventually

RATE = 500
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
            self._proxy.sever("rst")
        self._proxy.both(Pass())

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._proxy.sever("rst")
        time.sleep(self._luck.uniform(0.05, 0.5))
        self._proxy.accept()


class Figures:
    """Memory, descriptors and threads of this process, looked at now and then."""

    def __init__(self) -> None:
        self._process = psutil.Process()
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
            facts = self._process.memory_info().rss, self._process.num_fds()
            self.seen.append((*facts, threading.active_count()))

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
        for what, slack, n in (("bytes", 30 * 2**20, 0), ("descriptors", 12, 1), ("threads", 6, 2)):
            most, before = max(each[n] for each in later), max(each[n] for each in earlier)
            assert most <= before + slack, f"{what} grew from {before} to {most}"


def chaos(seconds: float, *, resume: bool) -> tuple[array[int], list[int], NumberedServer]:
    """Return the numbers handled, the last numbers before each reported gap, and the server."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    print(f"CHAOS_SEED={seed}")
    numbers = array("Q")  # a list would need six times the memory that is looked at here
    gaps = Seen[GapEvent]()
    complete = threading.Event()
    with (
        NumberedServer(int(seconds * RATE * 0.8), rate=RATE, resume=resume) as server,
        FaultProxy(server.url) as proxy,
    ):

        def handle(message: Message) -> None:
            numbers.append(message.json()["n"])
            if numbers[-1] == server.count:
                complete.set()

        def ask() -> None:
            last = client.last_message
            client.send({"resume": last.json()["n"] if last else 0})

        client = Client(
            proxy.url, pong_timeout=PATIENCE, open_timeout=1.0, close_timeout=0.5, **FAST
        )
        client.on_message(handle)
        client.on_gap(gaps)
        if resume:
            client.on_ready(ask)
        with Figures() as figures, client:
            spoiler = Chaos(server, proxy, random.Random(seed))
            spoiler.run(seconds)
            if resume:
                assert complete.wait(60 + 2 * seconds)
            else:
                eventually(lambda: client.is_ready)
                with suppress(TimeoutError):  # the last one may have been lost
                    server.wait_finished(60 + 2 * seconds)
        assert spoiler.faults >= seconds / 2
        assert client.stats().reconnects >= 1
    stats = client.stats()
    print(
        f"{len(numbers)} of {server.count} messages over {stats.connections} connections, "
        f"{spoiler.faults} faults, {len(gaps)} gaps; {figures}"
    )
    figures.check_flat()
    check_ledger(stats)
    before = [event.last_message.json()["n"] for event in gaps.all if event.last_message]
    return numbers, before, server


def check_resumed(seconds: float) -> None:
    numbers, _, server = chaos(seconds, resume=True)
    check_numbers(numbers, server.count)


def check_live(seconds: float) -> None:
    numbers, before_gaps, _ = chaos(seconds, resume=False)
    jumps = [(a, b) for a, b in itertools.pairwise(numbers) if b != a + 1]
    assert all(b > a for a, b in jumps), "doubled, or out of order"
    assert jumps, "no fault cost a message: this shows nothing"
    assert [jump for jump in jumps if jump[0] not in before_gaps] == []


@pytest.mark.fault("75")
@pytest.mark.timeout(120)
def test_nothing_is_lost_or_doubled_when_resumed() -> None:
    """With a server that resumes: each number once, in order, whatever happened in between."""
    check_resumed(12)


@pytest.mark.fault("75")
@pytest.mark.timeout(120)
def test_every_jump_is_explained_by_a_gap() -> None:
    """With a live feed messages are lost while away, and on_gap told of it each time."""
    check_live(8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("check", [check_resumed, check_live])
def test_20_minutes_of_chaos(check: Callable[[float], None]) -> None:
    """The same for long: memory, descriptors and threads stay flat."""
    check(1200)
