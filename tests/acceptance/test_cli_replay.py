"""``datastream-ws replay``: a recording, served with its timing and its drops."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import AsyncClient, StreamClosedError
from kit.cli import run, running
from kit.seen import FAST

HEAD = '{"recording":"datastream-ws","version":1}'
DROPS = [
    '{"at":0.0,"event":"connected"}',
    '{"at":0.1,"text":"one"}',
    '{"at":0.3,"binary":"AgM="}',
    '{"at":0.3,"event":"disconnected","code":1006}',
    '{"at":5.0,"event":"connected"}',
    '{"at":5.1,"text":"three"}',
    '{"at":5.1,"event":"disconnected","code":1001,"reason":"bye"}',
    '{"at":9.0,"event":"connected"}',
    '{"at":9.2,"text":"four"}',
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.jsonl"
    path.write_text("\n".join([HEAD, *DROPS]) + "\n")
    return path


@contextmanager
def replaying(path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve a recording; yield the process and the URL."""
    with running("replay", str(path), "--port", "0", *arguments) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


async def messages(url: str, count: int) -> tuple[list[Any], AsyncClient]:
    """Receive *count* messages, over as many connections as it takes."""
    client = AsyncClient(url, **FAST)
    found: list[Any] = []
    async with client:
        async for message in client:
            found.append(message)
            if len(found) == count:
                break
    return found, client


async def test_plays_messages_with_their_timing_and_drops_to_every_client(recording: Path) -> None:
    with replaying(recording) as (process, url):
        first, second = await asyncio.gather(messages(url, 4), messages(url, 4))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    for found, client in (first, second):
        assert [m.data for m in found] == ["one", b"\x02\x03", "three", "four"]
        assert [m.connection for m in found] == [1, 1, 2, 3]
        assert found[1].received_at - found[0].received_at == pytest.approx(0.2, abs=0.15)
        assert client.stats().reconnects == 2
        errors = [error async for error in client.errors()]
        codes = [error.code for error in errors if isinstance(error, StreamClosedError)]
        assert codes == [1006, 1001]
    assert err.count("from the beginning") == 2
    assert err.count("continues after the drop") == 4


async def test_a_later_client_begins_at_the_beginning(recording: Path) -> None:
    with replaying(recording, "--speed", "inf") as (_, url):
        for _ in range(2):
            found, _ = await messages(url, 4)
            assert [m.data for m in found] == ["one", b"\x02\x03", "three", "four"]


async def test_once_it_ends_when_a_client_has_had_it_all(recording: Path) -> None:
    with replaying(recording, "--once", "--speed", "20") as (process, url):
        found, _ = await messages(url, 4)
        assert process.wait(20) == 0
    assert len(found) == 4


async def test_loop_begins_again(recording: Path) -> None:
    with replaying(recording, "--loop", "--speed", "20") as (_, url):
        found, client = await messages(url, 8)
    assert [m.data for m in found][4:] == ["one", b"\x02\x03", "three", "four"]
    assert client.stats().connections == 5


async def test_a_broken_line_ends_it_with_its_number(recording: Path) -> None:
    with recording.open("a") as file:
        file.write("nonsense\n{}\n")
    with replaying(recording, "--speed", "inf") as (process, url):
        found, _ = await messages(url, 4)
        _, err = process.communicate(timeout=20)
    assert len(found) == 4
    assert process.returncode == 1
    assert err.splitlines()[-1].endswith("line 11 is not a valid line of a recording")
    assert "Traceback" not in err


def test_what_a_client_sends_is_shown_and_escaped(recording: Path) -> None:
    with replaying(recording) as (process, url):
        run("listen", url, "--send-text", "hi \x1b[2J", "--max-messages", "1")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert r"connection 1 sent: hi \x1b[2J" in err
    assert "\x1b" not in err


def test_a_port_that_is_taken(recording: Path) -> None:
    with replaying(recording) as (_, url):
        done = run("replay", str(recording), "--port", url.rpartition(":")[2])
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Address already in use. Use --port 0 for any free port" in done.stderr


def test_what_is_no_recording_is_said_at_once(tmp_path: Path) -> None:
    done = run("replay", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No such file or directory" in done.stderr
    assert "Traceback" in run("replay", str(tmp_path / "nowhere"), "-v").stderr
