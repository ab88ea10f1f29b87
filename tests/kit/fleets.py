"""
A fleet in several processes, and a server that records which process has which stream.

Each process sends its number in a header, so the log of the server shows when a stream was
connected, and by which process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from datastream_ws.testing.connection import StreamConnection
from datastream_ws.testing.server import StreamServer

from .children import Child
from .seen import eventually
from .streams import entries

__all__ = [
    "SIZES",
    "FleetFeed",
    "FleetProcess",
    "Fleets",
    "Span",
    "check_gaps",
    "cpu_seconds",
    "feed",
    "fleets_of",
    "memory",
    "share_by_the_second",
]

# Sizes of a fleet whose processes need seconds to open their connections at the default rate.
SIZES = [
    pytest.param(300, marks=pytest.mark.ci),
    pytest.param(3000, marks=pytest.mark.soak),
]
RATE = 50  # new connections per second

PROGRAM = """
import json, os, sys, threading, time
from datastream_ws import Fleet

url, log, keys, database, options = json.loads(sys.argv[1])
if database:
    from kit.djangobare import configure
    configure(database)
    from datastream_ws_django.lease import DatabaseLease
    options["lease"] = DatabaseLease("accounts")
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def say(**words):
    os.write(out, (json.dumps(words) + "\\n").encode())

def source():
    return {f"{n:04}": {"url": f"{url}/{n:04}", "headers": {"X-Process": str(os.getpid())}}
            for n in range(keys)}

fleet = Fleet(source, name="accounts", min_reconnect_delay=0.05, max_reconnect_delay=0.1, **options)

@fleet.on_message
def handle(message):
    at = time.monotonic()  # first: a process that is stopped after it was handling already
    say(key=message.key, n=message.json()["n"], epoch=message.epoch, at=at, pid=os.getpid())

@fleet.on_error
def error(error):
    say(error=f"{type(error).__name__}: {error}", at=time.monotonic(), pid=os.getpid())

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(9)), daemon=True).start()
fleet.run()
say(cpu=time.process_time(), at=time.monotonic(), pid=os.getpid())
"""


@dataclass
class Span:
    """A connection as the server saw it, with monotonic times."""

    key: str
    pid: int
    opened: float
    closed: float = float("inf")


class FleetFeed(StreamServer):
    """
    A server that numbers the messages of all streams and records their connections.

    Args:
        period: Seconds between two messages of a stream.
        timeout: Seconds without a pong after which a connection is closed.

    Attributes:
        spans: All connections.
        twice: Pairs of connections that a stream had at the same time.

    """

    def __init__(self, period: float = 0.2, timeout: float = 0.5) -> None:
        super().__init__(
            on_connect=self._feed, ping_interval=timeout / 2, ping_timeout=timeout,
            close_timeout=timeout / 2, compression=None,
        )  # fmt: skip
        self._period = period
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        self._open: dict[str, Span] = {}
        self.spans: list[Span] = []
        self.twice: list[tuple[Span, Span]] = []

    async def _feed(self, connection: StreamConnection) -> None:
        key = connection.path.strip("/")
        span = Span(key, int(connection.headers["X-Process"]), time.monotonic())
        with self._guard:
            if (other := self._open.get(key)) is not None:
                self.twice.append((other, span))
            self._open[key] = span
            self.spans.append(span)
        try:
            while True:
                await connection.websocket.send(json.dumps({"n": next(self._numbers)}))
                await asyncio.sleep(self._period)
        finally:
            with self._guard:
                span.closed = time.monotonic()
                if self._open.get(key) is span:
                    del self._open[key]

    def ends(self, pid: int, since: float) -> list[float]:
        """Return the times at which connections of a process ended, if that was after *since*."""
        return sorted(span.closed for span in self.spans if span.pid == pid and span.closed > since)

    @property
    def connected(self) -> int:
        """The number of streams that are connected."""
        return len(self._open)

    @property
    def loads(self) -> Counter[int]:
        """The number of connected streams of each process."""
        with self._guard:
            return Counter(span.pid for span in self._open.values())

    def gaps(self, since: float) -> list[float]:
        """Return the seconds that streams were disconnected, if that began after *since*."""
        found = []
        by_key: dict[str, list[Span]] = {}
        for span in self.spans:
            by_key.setdefault(span.key, []).append(span)
        for spans in by_key.values():
            pairs = itertools.pairwise(sorted(spans, key=lambda span: span.opened))
            found += [b.opened - a.closed for a, b in pairs if a.closed >= since]
        return found


class FleetProcess(Child):
    """
    A process with a fleet.

    Args:
        url: The URL of the server.
        log: The file that the process writes.
        keys: The number of streams.
        database: The database of Django's lease, see :func:`kit.djangobare.configure`. If it's
            empty, *options* contain another lease.
        options: The options of the fleet.

    """

    def __init__(
        self, url: str, log: Path, keys: int, *, database: str = "", **options: Any
    ) -> None:
        super().__init__(PROGRAM, [url, str(log), keys, database, options])
        self.log = log


class Fleets:
    """
    Processes that share a fleet.

    Args:
        feed: The server.
        start: A function that returns a new process, given the path of its log.
        folder: The folder for the logs.
        streams: The number of streams.
        ttl: The option ``lease_ttl``, in seconds.

    """

    def __init__(
        self,
        feed: FleetFeed,
        start: Callable[[Path], FleetProcess],
        folder: Path,
        streams: int,
        ttl: float,
    ) -> None:
        self.feed = feed
        self.streams = streams
        self.ttl = ttl
        self._start = start
        self._folder = folder
        self._stack = ExitStack()
        self.processes: list[FleetProcess] = []
        self._made = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def add(self) -> FleetProcess:
        process = self._start(self._folder / f"log{next(self._made)}")
        self.processes.append(self._stack.enter_context(process))
        return process

    def any(self) -> FleetProcess:
        """Remove the oldest process from the list, and return it."""
        return self.processes.pop(0)

    def outlive_a_stop(self, timeout: float = 30) -> None:
        """Stop a process until the others have its streams, and continue it."""
        process = self.any()
        process.stop()
        self.wait_connected(timeout)
        self.processes.append(process)
        process.go_on()
        self.wait_shared(timeout)

    def wait_shared(self, timeout: float) -> float:
        """Wait until all streams are connected and shared, and return the seconds."""
        began = time.monotonic()
        eventually(self._is_shared, timeout, self.report)
        return time.monotonic() - began

    def wait_connected(self, timeout: float) -> float:
        """Wait until the listed processes have connected all streams, and return the seconds."""
        began, here = time.monotonic(), {process.pid for process in self.processes}
        eventually(
            lambda: self.feed.connected == self.streams and set(self.feed.loads) <= here,
            timeout,
            self.report,
        )
        return time.monotonic() - began

    def _is_shared(self) -> bool:
        loads = self.feed.loads
        shares = [loads[process.pid] for process in self.processes]
        most = max(1.0, 0.1 * self.streams / len(shares))
        return sum(shares) == self.streams == sum(loads.values()) and (
            max(shares) - min(shares) <= most
        )

    def report(self) -> str:
        return f"{self.feed.connected} connected: {dict(self.feed.loads)}; {self.errors()}"

    def errors(self) -> list[str]:
        return [each["error"] for each in self._entries() if "error" in each]

    def _entries(self) -> list[dict[str, Any]]:
        logs = sorted(self._folder.glob("log*"))
        return sorted((each for log in logs for each in entries(log)), key=lambda each: each["at"])

    def check_promise(self) -> int:
        """Assert that epochs never decrease, and return the number of handled messages."""
        latest: dict[str, int] = {}
        seen: set[int] = set()
        owners: dict[tuple[str, int], int] = {}
        for each in self._entries():
            if "key" not in each:
                continue
            key, epoch = each["key"], each["epoch"]
            assert epoch >= latest.get(key, 0), f"stream {key}: an older epoch after a newer one"
            latest[key] = epoch
            assert owners.setdefault((key, epoch), each["pid"]) == each["pid"]
            assert each["n"] not in seen, "one message handled twice"
            seen.add(each["n"])
        assert len(latest) == self.streams, "streams of which nothing was handled"
        return len(seen)


@pytest.fixture
def feed() -> Iterator[FleetFeed]:
    """Yield a server that records connections."""
    with FleetFeed() as feed:
        yield feed


@contextmanager
def fleets_of(
    feed: FleetFeed,
    folder: Path,
    *,
    streams: int,
    ttl: float,
    processes: int,
    **options: Any,
) -> Iterator[Fleets]:
    """
    Run processes that share a fleet, and verify the guarantees at the end.

    Args:
        feed: The server.
        folder: The folder for the logs.
        streams: The number of streams.
        ttl: The option ``lease_ttl``, in seconds.
        processes: The number of processes at the beginning.
        options: More options of :class:`FleetProcess`.

    """

    def start(log: Path) -> FleetProcess:
        return FleetProcess(feed.url, log, streams, lease_ttl=ttl, **options)

    with Fleets(feed, start, folder, streams, ttl) as made:
        for _ in range(processes):
            made.add()
        made.wait_shared(30)
        yield made
    assert feed.twice == [], "a stream had two connections at a time"
    made.check_promise()


def check_gaps(gaps: list[float], times: int, ttl: float) -> None:
    """Assert gaps of at most 1 second, for half of the streams unless there were 20 rounds."""
    assert sorted(gaps)[len(gaps) // 2] <= 1.0
    assert max(gaps) <= (1.0 if times == 20 else ttl)


def share_by_the_second(folder: Path, streams: int, **options: Any) -> None:
    """
    Start, kill, terminate and stop processes of a large fleet with the default settings.

    Args:
        folder: The folder for the logs.
        streams: The number of streams.
        options: The lease, as options of :class:`FleetProcess`.

    """
    ttl, share = 15.0, streams // 3
    # The feed drops a stopped process after 8 s, before its lease can expire, after 10 s at least.
    with FleetFeed(period=3.0, timeout=5.0) as feed:

        def start(log: Path) -> FleetProcess:
            return FleetProcess(feed.url, log, streams, lease_ttl=ttl, close_timeout=90, **options)

        with Fleets(feed, start, folder, streams, ttl) as fleets:
            for _ in range(3):
                fleets.add()
            print(f"{streams} streams shared after {fleets.wait_shared(180):.1f} s")
            used = {process.pid: cpu_seconds(process.pid) for process in fleets.processes}
            time.sleep(20)
            for pid, before in used.items():
                part = (cpu_seconds(pid) - before) / 20
                print(f"process {pid}: {part:.1%} of a core, {memory(pid):.0f} MiB")

            fleets.any().kill()
            seconds = fleets.wait_connected(180)
            print(f"killed: all connected again after {seconds:.1f} s")
            assert seconds <= ttl + 1 + share / 2 / RATE + 5

            made, began = len(feed.spans), time.monotonic()
            fleets.add()
            seconds = fleets.wait_shared(180)
            moved = len(feed.spans) - made
            print(f"joined: share after {seconds:.1f} s, {moved} moves")
            assert seconds <= ttl + share / RATE
            assert moved <= share * 1.05
            check_most_gaps(feed.gaps(began))

            began = time.monotonic()
            assert fleets.any().terminate(120) == 0
            print(f"SIGTERM: ended after {time.monotonic() - began:.1f} s")
            fleets.wait_connected(60)
            check_most_gaps(feed.gaps(began))

            fleets.add()
            fleets.wait_shared(180)
            fleets.outlive_a_stop(180)
            assert feed.twice == []
            print(f"{fleets.check_promise()} messages handled")


def check_most_gaps(gaps: list[float]) -> None:
    """Assert gaps of at most 1 second for nine in ten streams, because one server has them all."""
    gaps = sorted(gaps)
    print(f"gaps: half ≤ {gaps[len(gaps) // 2]:.2f} s, all ≤ {gaps[-1]:.2f} s")
    assert gaps[len(gaps) * 9 // 10] <= 1.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
