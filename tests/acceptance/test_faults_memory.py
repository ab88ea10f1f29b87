"""
What faults cost in memory: of a client that is a process of its own, at its highest.

The server is in the test's process, so that nothing of it is counted.
"""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from datastream_ws import Client
from datastream_ws.testing import StreamServer
from kit.memory import MEGABYTE, Memory
from kit.numbered import NumberedServer
from kit.rawserver import (
    BINARY,
    CLOSE,
    PING,
    ExpectFrame,
    Fin,
    Frame,
    RawConnection,
    RawServer,
    Respond,
    Rst,
    Script,
    Send,
    Stall,
    Upgrade,
    WaitFor,
)
from kit.seen import eventually
from kit.streams import StreamProcess

COMPRESSED = 4
FLOOD_SECONDS = 3.0
DEFLATE = Upgrade(["Sec-WebSocket-Extensions: permessage-deflate"])


def growth(
    folder: Path,
    *faults: Script,
    upgrade: Upgrade = DEFLATE,
    wait: float = 30,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> int:
    """
    Return by how much a client grew between READY and READY again, at its highest.

    The first of *faults* follows the first READY on the same connection; each other one is a
    connection of its own.
    """
    go = threading.Event()
    first, *others = faults
    scripts: list[Script] = [[upgrade, WaitFor(go), *first], *others, [upgrade, Stall()]]
    with RawServer(*scripts, ssl=tls) as server:
        with StreamProcess(server.url, folder / "log", proxy=None, **options) as client:
            client.wait_state("ready")
            memory = Memory(client.pid)
            go.set()
            eventually(lambda: states(client).count("ready") == 2, wait, lambda: str(client.errors))
            grown = memory.growth
        assert len(server.connections) == len(scripts)
    print(f"{grown / MEGABYTE:.2f} MiB")
    return grown


def states(client: StreamProcess) -> list[str]:
    return [each["state"] for each in client.said if "state" in each]


def deflated(size: int) -> bytes:
    """Return so many zeros, in megabytes, compressed."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = engine.compress(bytes(MEGABYTE)) + engine.flush(zlib.Z_FULL_FLUSH)
    return (one * size)[:-4]


@pytest.mark.fault("46")
@pytest.mark.parametrize("limit", [2**20, 2**41])
def test_announced_bytes_are_not_reserved(tmp_path: Path, limit: int) -> None:
    """The header of a frame of 2^40 bytes: below 1 MB, whatever max_size says."""
    fault: Script = [Frame(BINARY, b"x", size=2**40), Fin()]
    assert growth(tmp_path, fault, max_size=limit) < MEGABYTE


@pytest.mark.fault("49")
def test_a_compression_bomb(tmp_path: Path) -> None:
    """200 MB in 200 kB: below 5 MB."""
    bomb = Frame(BINARY, deflated(200), rsv=COMPRESSED)
    assert growth(tmp_path, [bomb, ExpectFrame(CLOSE), Fin()]) < 5 * MEGABYTE


@pytest.mark.fault("39")
def test_endless_headers(tmp_path: Path) -> None:
    """A header line of 20 kB, 500 headers, and lines without an end: below 2 MB."""
    answers: list[Script] = [
        [Send(b"HTTP/1.1 101 x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")],
        [Send(b"HTTP/1.1 101 x\r\n" + b"X: a\r\n" * 500 + b"\r\n")],
        [Send(b"HTTP/1.1 101 x\r\nX: " + b"a" * 20 * MEGABYTE)],
    ]
    assert growth(tmp_path, [Fin()], *answers) < 2 * MEGABYTE


@pytest.mark.fault("40")
def test_a_large_body(tmp_path: Path) -> None:
    """503 with 5 MB: below 3 MB."""
    answer = [Respond(503, body=bytes(5 * MEGABYTE))]
    assert growth(tmp_path, [Fin()], answer) < 3 * MEGABYTE


@dataclass(frozen=True)
class Flood:
    """As many of the longest pings as the client takes in *seconds*, and nothing read."""

    seconds: float

    def run(self, connection: RawConnection) -> None:
        pings = Frame(PING, bytes(125)).data * 500
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            connection.sock.sendall(pings)


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ssl.SSLContext:
    """A server's context; processes of the test trust its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


BEATS: list[dict[str, Any]] = [{}, {"heartbeat": {"beat": 1}, "heartbeat_interval": 0.01}]
SECURE = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


@SECURE
@pytest.mark.parametrize("options", BEATS, ids=["silent", "heartbeat"])
def test_a_flood_of_pings_that_nobody_reads_the_answers_of(
    tmp_path: Path, tls: ssl.SSLContext, options: dict[str, Any], secure: bool
) -> None:
    """At most one answer waits: below 8 MB, whatever else is sent meanwhile."""
    flood: Script = [Flood(FLOOD_SECONDS), Rst()]
    assert growth(tmp_path, flood, tls=tls if secure else None, **options) < 8 * MEGABYTE


@pytest.mark.soak
@pytest.mark.timeout(180)
@SECURE
@pytest.mark.parametrize("options", BEATS, ids=["silent", "heartbeat"])
def test_half_a_minute_of_pings(
    tmp_path: Path, tls: ssl.SSLContext, options: dict[str, Any], secure: bool
) -> None:
    """At most 32 MiB, however long it goes on: a sender that is stuck is noticed meanwhile."""
    flood: Script = [Flood(30), Rst()]
    found = growth(
        tmp_path, flood, wait=90, tls=tls if secure else None, write_timeout=60, **options
    )
    assert found < 32 * MEGABYTE


@SECURE
@pytest.mark.parametrize("options", BEATS, ids=["silent", "heartbeat"])
def test_a_flood_of_pings_is_noticed_and_fills_no_log(
    caplog: pytest.LogCaptureFixture, tls: ssl.SSLContext, options: dict[str, Any], secure: bool
) -> None:
    """
    Of any logger at most ten lines a second; what is stuck is replaced after ``write_timeout``.

    Whatever is queued meanwhile, a heartbeat for instance, is no progress. It takes as long as
    the kernel takes answers: about 4 MB.
    """
    caplog.set_level(logging.INFO)
    begun = time.monotonic()
    with (
        RawServer(
            [Upgrade(), Flood(100)], [Upgrade(), Stall()], ssl=tls if secure else None
        ) as server,
        Client(
            server.url,
            proxy=None,
            ssl=ssl.create_default_context() if secure else None,
            write_timeout=1.0,
            close_timeout=0.2,
            min_reconnect_delay=0.01,
            **options,
        ) as client,
    ):
        eventually(lambda: client.stats().connections == 2, 90, lambda: str(client.error))
    seconds = time.monotonic() - begun
    assert any("no data could be sent" in text for text in caplog.messages)
    assert len(caplog.records) <= 10 * max(2, seconds)


def test_a_flood_of_pings_before_a_reset_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio says of each byte that is written to a lost connection that it could not be."""
    caplog.set_level(logging.DEBUG, "asyncio")
    script: Script = [Upgrade(), Flood(0.5), Rst()]
    with (
        RawServer(script, [Upgrade(), Stall()]) as server,
        Client(server.url, proxy=None, min_reconnect_delay=0.01, close_timeout=0.2) as client,
    ):
        eventually(lambda: client.stats().connections == 2, 30, lambda: str(client.error))
    said = [record for record in caplog.records if record.name == "asyncio"]
    assert [record.getMessage() for record in said if "selector" not in record.getMessage()] == []


@pytest.mark.fault("64")
def test_handlers_slower_than_the_stream(tmp_path: Path) -> None:
    """Ten thousand a second against one in a millisecond: the inbox's limit, then a plateau."""
    options: dict[str, Any] = {"overflow": "drop_oldest", "inbox_size": 1000, "proxy": None}
    with (
        NumberedServer(10**9, resume=False, rate=10_000) as server,
        StreamProcess(server.url, tmp_path / "log", slow=0.001, **options) as client,
    ):
        client.wait_handled(200)  # by now the inbox is full
        memory = Memory(client.pid)
        client.wait_handled(800)
        assert memory.growth < 2 * MEGABYTE


PROGRAM = """
import re, sys
from pathlib import Path
from datastream_ws import Client

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

url, count = sys.argv[1], int(sys.argv[2])
client = Client(url, proxy=None, min_reconnect_delay=0.01)
for n in range(count):
    client.start()
    client.wait_ready(30)
    client.close()
    if n == count // 10:
        before = resident()
print(resident() - before)
"""


@pytest.mark.fault("74")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.soak)])
def test_connects_and_closes(count: int) -> None:
    """2,000 of them: below 5 MB."""
    with StreamServer() as server:
        command = [sys.executable, "-c", PROGRAM, server.url, str(count)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    print(f"{int(run.stdout) / MEGABYTE:.2f} MiB")
    assert int(run.stdout) < 5 * MEGABYTE
