"""A client with a spool: handlers that block, disks that are full, files that cannot be used."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import Client, Message, State
from datastream_ws.exceptions import SpoolError
from datastream_ws.spool import thread
from datastream_ws.spool.file import SpoolFile
from datastream_ws.testing.server import StreamServer
from kit.numbered import NumberedServer, check_ledger, check_numbers
from kit.seen import eventually
from kit.streams import StreamProcess

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


class Blocked:
    """A client whose handler waits until it is let go."""

    def __init__(self, url: str, **options: Any) -> None:
        self.go = threading.Event()
        self.numbers: list[int] = []
        self.client = Client(url, **options)
        self.client.on_message(self._handle)
        self.client.on_ready(lambda: self.client.send({"resume": 0}))

    def _handle(self, message: Message) -> None:
        self.go.wait()
        self.numbers.append(message.json()["n"])

    def eventually(self, fact: Callable[[], bool], timeout: float = 30.0) -> None:
        def look() -> bool:
            check_ledger(self.client.stats())
            return fact()

        eventually(look, timeout, lambda: f"{self.client.stats()} {list(self.client.errors(0))}")


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("count", [30_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_blocked_handler_costs_neither_the_connection_nor_memory(
    spool: str, journal: bool, count: int
) -> None:
    limit = count * 100
    with NumberedServer(count, ping_interval=0.2, ping_timeout=2.0) as server:
        blocked = Blocked(
            server.url, spool=spool, spool_bytes=limit, journal=journal, ping_interval=0.2
        )
        with blocked.client as client:
            blocked.eventually(lambda: client.stats().messages_received > 5000)
            before = resident()
            blocked.eventually(lambda: client.stats().messages_received == count, 120)
            assert resident() - before < 40 * 2**20, "what is in the file is not in memory, too"
            assert os.path.getsize(spool) < limit
            trips = client.stats().round_trip_time
            assert client.state is State.READY
            assert trips is not None, "pings were answered meanwhile"
            assert client.stats().connections == 1
            blocked.go.set()
            blocked.eventually(lambda: len(blocked.numbers) == count, 120)
        check_numbers(blocked.numbers, count)
        assert list(client.errors(0)) == []


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_full_spool_stops_reading_and_goes_on(spool: str) -> None:
    with NumberedServer(20_000) as server:
        blocked = Blocked(server.url, spool=spool, spool_bytes=200_000)
        with blocked.client as client:
            blocked.eventually(lambda: client.stats().blocked_seconds > 0)
            assert client.stats().messages_received < 20_000
            blocked.go.set()
            blocked.eventually(lambda: len(blocked.numbers) == 20_000)
        check_numbers(blocked.numbers, 20_000)


@pytest.mark.parametrize("journal", [False, True])
def test_what_is_unhandled_at_the_deadline_is_handled_by_the_next_start(
    spool: str, journal: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also the message whose handler is still running, which may thus be handled twice."""
    with NumberedServer(3000) as server:
        first = Blocked(server.url, spool=spool, journal=journal)
        with first.client as client:
            first.eventually(lambda: client.stats().messages_received == 3000)
            client.close(0.5)
        stats = client.stats()
        check_ledger(stats)
        assert (stats.messages_waiting, stats.messages_spooled) == (1, 2999)
        assert stats.messages_dropped == {}
        assert "messages still in handlers: 1; the next start handles them again" in caplog.text
        second = Blocked(server.url, spool=spool, journal=journal)
        second.client.handlers.hooks["on_ready"] = ()
        second.go.set()
        with second.client as client:
            second.eventually(lambda: len(second.numbers) >= 3000)
            check_ledger(client.stats())
        first.go.set()
        check_numbers(second.numbers, 3000)


def test_a_second_process_is_refused(spool: str, tmp_path: Path) -> None:
    with (
        NumberedServer(10) as server,
        StreamProcess(server.url, tmp_path / "one", spool=spool) as first,
    ):
        first.wait_state("ready")
        client = Client(server.url, spool=spool)
        client.start()
        with pytest.raises(SpoolError, match=f"in use by process {first.pid}"):
            client.wait_closed(10)
        assert client.state is State.FAILED
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.parent.rmdir(), "does not exist. Create it"),
        (lambda path: path.symlink_to("/dev/null"), "is a symbolic link"),
        (lambda path: path.mkdir(), "cannot be opened"),
    ],
    ids=["missing directory", "symbolic link", "directory"],
)
def test_a_file_that_cannot_be_used_refuses_to_start(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "folder" / "spool.db"
    path.parent.mkdir()
    spoil(path)
    with StreamServer() as server:
        client = Client(server.url, spool=str(path))
        client.start()
        with pytest.raises(SpoolError, match=said):
            client.wait_closed(10)
        assert len([each for each in client.errors(0) if isinstance(each, SpoolError)]) == 1
        assert server.connections == []


def test_with_fatal_delay_the_file_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "spool.db"
    with StreamServer() as server:
        client = Client(server.url, spool=str(path), fatal_delay=0.1)
        with client:
            eventually(lambda: client.state is State.WAITING, 10)
            assert isinstance(client.error, SpoolError)
            path.parent.mkdir()
            client.wait_ready(10)


def test_a_file_that_opens_after_the_close_is_let_go_of(
    spool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of a large file may take longer than close() waits; the next start needs the file."""
    opens = threading.Event()

    def slowly(path: str) -> SpoolFile:
        opens.wait(20)
        return SpoolFile(path)

    with StreamServer() as server:
        client = Client(server.url, spool=spool)
        with monkeypatch.context() as patch:
            patch.setattr(thread, "SpoolFile", slowly)
            client.start()
            eventually(lambda: any("spool" in each.name for each in threading.enumerate()), 20)
            client.close(0.1)
            client.wait_closed(20)
            opens.set()
        eventually(lambda: not any("spool" in each.name for each in threading.enumerate()), 20)
        with client:
            client.wait_ready(20)


def test_a_corrupt_file_is_set_aside_and_the_stream_goes_on(spool: str) -> None:
    Path(spool).write_bytes(b"not a database" * 1000)
    with NumberedServer(100) as server:
        blocked = Blocked(server.url, spool=spool, journal=True)
        blocked.go.set()
        with blocked.client as client:
            blocked.eventually(lambda: len(blocked.numbers) == 100)
        errors = [str(each) for each in client.errors(0)]
        assert len(errors) == 1
        assert "was corrupt and is renamed to" in errors[0]
    aside = [each for each in os.listdir(Path(spool).parent) if "corrupt" in each]
    assert len(aside) == 1


@contextmanager
def disk_of(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of its own."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path, *, but: int) -> Path:
    """Somebody else takes what there is, but for some bytes."""
    path = disk / f"other-{len(os.listdir(disk))}"
    with path.open("wb") as file:
        for _ in range(100):
            with suppress(OSError):  # the spool has taken some of it meanwhile
                os.posix_fallocate(file.fileno(), 0, max(1, free_bytes(disk) - but))
                return path
    raise OSError("others take what is free as fast as it is counted")


def spool_error(client: Client) -> str:
    [error] = [each for each in client.errors(0.1) if isinstance(each, SpoolError)]
    return str(error)


@pytest.mark.parametrize(
    ("journal", "greedy"),
    [(False, False), (True, False), (True, True)],
    ids=["spool", "journal", "journal, full for good"],
)
def test_a_full_disk_costs_nothing(tmp_path: Path, journal: bool, greedy: bool) -> None:
    """Reading stops until the handler goes on: rows come and go in the space the file has."""
    count = 150_000  # more than the file (2 MiB) and the queue for it have room for
    with disk_of(tmp_path, "32m") as disk, NumberedServer(count) as server:
        blocked = Blocked(server.url, spool=str(disk / "spool.db"), journal=journal)
        blocked.client.on_connect(lambda: fill(disk, but=2**20))
        with blocked.client as client:
            blocked.eventually(lambda: client.stats().blocked_seconds > 0)
            assert client.stats().messages_received < count
            assert "cannot be written" in spool_error(client)
            if greedy:  # what the spool's reserve has given up, too
                fill(disk, but=0)
            blocked.go.set()
            blocked.eventually(lambda: len(blocked.numbers) == count, 60)
            assert free_bytes(disk) < 8 * 2**20
        check_numbers(blocked.numbers, count)
        assert client.stats().messages_dropped == {}


def test_a_small_full_disk_blocks_until_there_is_room(tmp_path: Path) -> None:
    """Too small for a reserve: with a journal nothing moves; then everything follows, in order."""
    count = 30_000
    with disk_of(tmp_path, "400k") as disk, NumberedServer(count) as server:
        blocked = Blocked(server.url, spool=str(disk / "spool.db"), journal=True)
        with blocked.client as client:
            blocked.eventually(lambda: client.stats().blocked_seconds > 0)
            assert client.stats().messages_received < count
            assert "cannot be written" in spool_error(client)
            more = ["mount", "-o", "remount,size=64m", str(disk)]
            subprocess.run(more, check=True)
            blocked.go.set()
            blocked.eventually(lambda: len(blocked.numbers) == count, 60)
        check_numbers(blocked.numbers, count)
        assert client.stats().messages_dropped == {}


QUOTA = """
import resource, signal, sys, threading
from datastream_ws import Client
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
client = Client(sys.argv[1], spool=sys.argv[2], overflow="drop_newest")
go, numbers = threading.Event(), []
@client.on_ready
def ready(): client.send({"resume": 0})
@client.on_message
def handle(message):
    go.wait()
    numbers.append(message.json()["n"])
with client:
    while not client.stats().messages_dropped.get("overflow"):
        client.wait_ready(1)
        threading.Event().wait(0.01)
    go.set()
    while client.stats().messages_waiting or client.stats().messages_spooled:
        threading.Event().wait(0.01)
    s = client.stats()
    assert s.messages_received == s.messages_handled + sum(s.messages_dropped.values()), s
    assert numbers == sorted(set(numbers))
    assert any("cannot be written" in str(e) for e in client.errors(0.1))
print("counted")
"""


def test_a_quota_drops_as_overflow_says_and_counts(spool: str) -> None:
    with NumberedServer(60_000) as server:
        command = [sys.executable, "-c", QUOTA, server.url, spool]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "counted\n", done.stderr
