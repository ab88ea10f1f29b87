"""``make demo``: the shop as newcomers start it, in processes of its own."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from kombu import Connection
from redis import Redis

from kit.demo import ROOT, Demo

pytestmark = pytest.mark.timeout(180)


def check_summary(demo: Demo, prices: int) -> None:
    """The clients' numbers and the tasks' are about the same prices, and none is missing."""
    counted = demo.counted()
    received, handled, *_ = counted["prices"]
    assert received == handled >= prices, demo.output
    tasks, stored, candles = counted["tasks"]
    assert stored == prices
    assert " none missing" in demo.output
    assert 0 < tasks <= prices
    assert 0 < candles <= prices
    assert counted["suppliers"][0] == counted["suppliers"][1] > 0
    received, handled, failed, *_ = counted["flags"]
    assert received == handled + failed > 0
    assert counted["kiosk"][0] == counted["kiosk"][1] > 0


def test_demo_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    with Demo(tmp_path, "--messages", "100", "--rate", "50") as demo:
        assert demo.exit_code() == 0, demo.output
        assert demo.left() == []
    check_summary(demo, 100)
    lines = demo.output.replace(str(tmp_path), "/tmp").splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert "\x1b" not in demo.output


@pytest.mark.parametrize("variable", ["REDIS_URL", "AMQP_URL"])
def test_demo_on_a_broker(variable: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Three workers, one of which holds the stream."""
    url = request.getfixturevalue({"REDIS_URL": "redis_url", "AMQP_URL": "amqp_url"}[variable])
    with Demo(tmp_path, "--messages", "40", **{variable: url}) as demo:
        demo.wait_for("ready")
        queue = demo.queue()
        assert demo.exit_code() == 0, demo.output
        assert demo.left() == []
    assert "3 workers" in demo.output
    check_summary(demo, 40)
    assert left_in_broker(url, queue) == []


def test_suppliers_move_when_a_process_is_killed(tmp_path: Path) -> None:
    """Two processes share their streams; the one that is started again is given its share, too."""
    shared = r"suppliers streams +6 in process (\d+), 6 in process (\d+)"
    with Demo(tmp_path) as demo:
        before = demo.wait_for(shared).groups()
        demo.kill("run_datastream suppliers")
        after = demo.wait_for(shared, 2).groups()
        assert len(set(before) & set(after)) == 1
        assert demo.end() == 0
        assert demo.left() == []


def left_in_broker(url: str, queue: str) -> list[object]:
    if url.startswith("redis"):
        with Redis.from_url(url, decode_responses=True) as redis:
            return list(redis.scan_iter(f"*{queue}*"))
    left: list[object] = []
    with Connection(url) as connection:
        channels: Any = [connection.channel(), connection.channel()]  # not found: it is closed
        with suppress(*connection.channel_errors):
            left.append(channels[0].queue_declare(queue, passive=True))
        with suppress(*connection.channel_errors):
            left.append(channels[1].exchange_declare(queue, "direct", passive=True))
    return left


# When Ctrl-C is pressed: what was printed by then, seconds later, and how often.
MOMENTS = [("", 0.1, 1), ("logs", 0.0, 1), ("logs", 0.5, 2), ("ready", 0.0, 2)]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_what_it_started_ends_when_it_is_killed_outright(tmp_path: Path) -> None:
    with Demo(tmp_path) as demo:
        demo.wait_for("ready")
        assert demo.processes() != []
        demo.process.kill()
        demo.exit_code()
        psutil.wait_procs(demo.processes(), timeout=60)
        assert demo.processes() == []


@pytest.mark.parametrize(("printed", "delay", "times"), MOMENTS)
def test_ctrl_c_leaves_nothing(tmp_path: Path, printed: str, delay: float, times: int) -> None:
    with Demo(tmp_path) as demo:
        demo.wait_for(printed)
        time.sleep(delay)
        code = demo.end(times=times)
        assert demo.left() == []
    if code != 0:  # Python itself was still starting, and says so in its way
        assert code == -signal.SIGINT
        assert "demo/run.py" not in demo.output
    else:
        assert "Traceback" not in demo.output


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    for _ in range(30):
        test_ctrl_c_leaves_nothing(tmp_path, "", random.uniform(0.1, 8.0), random.choice([1, 2]))


def test_a_reader_that_leaves_ends_it(tmp_path: Path) -> None:
    """As ``make demo | head -2`` does."""
    command = f"{sys.executable} -m example_project.demo --port 0 | head -2"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env={"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.count("\n"), done.stderr) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = {
            f"port {port} is not available": ["--port", str(port)],
            "is not empty. Pass a new folder": ["--state", str(tmp_path / "full")],
            "--messages: must be above 0": ["--messages", "0"],
            "--port: must be 0 to 65534": ["--port", "99999"],
        }
        for text, arguments in wrong.items():
            with Demo(tmp_path, *arguments) as demo:
                assert demo.exit_code() in (1, 2)
            assert text in demo.output
            assert "Traceback" not in demo.output


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    with Demo(tmp_path, REDIS_URL="redis://:secret@127.0.0.1:1/0") as demo:
        assert demo.exit_code() == 1
    assert demo.output.startswith("REDIS_URL: no broker responds")
    assert demo.output.count("\n") == 1
    assert "secret" not in demo.output
