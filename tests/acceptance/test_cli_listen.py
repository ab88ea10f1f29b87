"""``datastream-ws listen``, in a process of its own: in pipes, and on a terminal."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from datastream_ws.cli.recording import moments
from datastream_ws.testing import StreamServer
from kit.cli import COMMAND, Terminal, environment, run, running, terminal

SECRET = "hunter2"
PATIENCE = 20.0
HURRY = ["--min-reconnect-delay", "0.3", "--max-reconnect-delay", "0.5"]


def sending(*messages: Any) -> StreamServer:
    """A server that sends *messages* to whoever connects."""

    def greet(connection: Any) -> None:
        for message in messages:
            connection.write(message if isinstance(message, str | bytes) else json.dumps(message))

    return StreamServer(on_connect=greet)


def test_prints_json_lines_and_ends_after_so_many() -> None:
    with sending({"price": 1.5}, b"\x00", "hello", "more", "still more") as server:
        done = run("listen", server.url, "--max-messages", "3")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["data"] for line in lines] == [{"price": 1.5}, "AA==", "hello"]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    assert "connected" in done.stderr


def test_sends_again_on_each_connection_and_goes_on_after_a_drop() -> None:
    with StreamServer(on_message=lambda c, data: c.write(json.dumps({"got": data}))) as server:
        url = f"{server.url}/feed?token={SECRET}"
        header = ["-H", f"Authorization: Bearer {SECRET}"]
        texts = ["--send", '{"a": 1}', "--send-text", "b", "--max-messages", "4", *HURRY]
        with running("listen", url, *header, *texts, "-v") as process:
            server.wait_received(2, PATIENCE)
            assert process.stdout is not None
            first = [process.stdout.readline() for _ in range(2)]
            server.close(1001, "back\x1b[2J soon")
            out, err = process.communicate(timeout=PATIENCE)
        connections = server.wait_connected(2)
    assert process.returncode == 0
    data = [json.loads(line) for line in [*first, *out.splitlines()]]
    assert [(line["connection"], line["data"]["got"]) for line in data] == [
        (1, '{"a": 1}'),
        (1, "b"),
        (2, '{"a": 1}'),
        (2, "b"),
    ]
    assert "code 1001: back\\x1b[2J soon; next attempt in" in err
    assert "without a connection; messages sent meanwhile are lost" in err
    assert SECRET not in err + out
    assert "\x1b" not in err + out
    assert [c.headers["Authorization"] for c in connections] == [f"Bearer {SECRET}"] * 2


@pytest.mark.parametrize("count", [5, 100])
def test_ends_clean_when_nobody_reads_any_more(count: int) -> None:
    """Also on a stream that is silent from then on."""
    with sending(*range(count)) as server:
        command = [*COMMAND, "listen", server.url]
        listen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        head = subprocess.run(
            ["head", "-5"], stdin=listen.stdout, capture_output=True, text=True, check=True
        )
        assert listen.stdout is not None
        listen.stdout.close()
        listen.stdout = None
        _, err = listen.communicate(timeout=PATIENCE)
    assert listen.returncode == 0
    assert len(head.stdout.splitlines()) == 5
    assert b"Traceback" not in err
    assert b"Broken" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_clean(number: signal.Signals) -> None:
    with sending("hello") as server, running("listen", server.url) as process:
        assert process.stdout is not None
        assert "hello" in process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "datastream-ws listen: 1 message"
    assert "Traceback" not in err
    assert server.connections[0].close_code == 1000


def test_a_signal_while_it_waits_for_a_server_ends_it() -> None:
    with StreamServer() as server:
        url = server.url
    with running("listen", url) as process:
        assert process.stderr is not None
        while "next attempt" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_a_second_signal_ends_it_though_the_reader_is_stuck() -> None:
    big = "x" * 2**19
    with sending(*[big] * 4) as server, running("listen", server.url) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it writes, and waits for somebody to read the rest
        process.send_signal(signal.SIGINT)
        server.connections[0].closed.wait(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 4


def test_gives_up_with_3_and_says_why() -> None:
    with StreamServer() as server:
        server.refuse(401)
        done = run("listen", server.url)
    assert done.returncode == 3
    assert "gave up: the server responded to the handshake with HTTP 401" in done.stderr
    assert "datastream-ws check" in done.stderr
    assert "Traceback" not in done.stderr


def test_verbose_adds_log_and_traceback() -> None:
    with StreamServer() as server:
        server.refuse(401)
        done = run("listen", server.url, "-v")
    assert "Traceback" in done.stderr
    assert "info: stream default: connecting" in done.stderr


def test_a_message_above_max_size_says_what_to_raise() -> None:
    with sending("x" * 2000) as server:
        arguments = ["--max-size", "1000", "--max-reconnect-attempts", "1"]
        done = run("listen", server.url, *arguments)
        assert done.returncode == 3
        assert "max_size" in done.stderr
        assert len(run("listen", server.url, "--max-messages", "1").stdout) > 2000


def test_a_full_stdout_is_said() -> None:
    with (
        sending("hello") as server,
        open("/dev/full", "w") as full,
        running("listen", server.url, stdout=full) as process,
    ):
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "datastream-ws listen: stdout: No space left on device"


def test_records_what_it_prints(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with sending({"a": 1}, b"\x01") as server:
        done = run("listen", server.url, "--record", str(path), "--max-messages", "2")
    assert done.returncode == 0
    assert done.stderr.endswith(f"2 messages; 2 messages in {path}\n")
    assert [m.data for m in moments(str(path)) if not m.event] == ['{"a": 1}', b"\x01"]


def test_a_full_disk_leaves_a_readable_recording(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    limit = 2000

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with sending(*["x" * 90] * 100) as server:
        done = run("listen", server.url, "--record", str(path), preexec_fn=small_disk)
    assert done.returncode == 1
    recorded = [m.data for m in moments(str(path)) if not m.event]
    assert 10 < len(recorded) < 20
    assert set(recorded) == {"x" * 90}
    assert path.read_bytes().endswith(b"\n")  # what was cut was taken back
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"datastream-ws listen: --record: {path}: File too large; ended with")


def test_a_disk_without_room_for_a_recording_leaves_no_file(tmp_path: Path) -> None:
    """The next run would refuse it."""
    path = tmp_path / "recording"

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))

    done = run("listen", "ws://127.0.0.1:1/", "--record", str(path), preexec_fn=no_room)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert not path.exists()


def test_killed_it_leaves_a_readable_recording(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with (
        sending("hello") as server,
        running("listen", server.url, "--record", str(path)) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.communicate()
    assert [m.data for m in moments(str(path)) if not m.event] == ["hello"]


def test_without_rich_it_says_what_to_install() -> None:
    hidden = "import sys; sys.modules['rich'] = None; from datastream_ws.cli import main; "
    done = subprocess.run(
        [COMMAND[0], "-c", f"{hidden} sys.exit(main(['check', 'ws://x']))"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert done.stderr == "rich is not installed. Run: pip install 'datastream-ws[cli]'\n"
    version = [COMMAND[0], "-c", f"{hidden} main(['--version'])"]
    done = subprocess.run(version, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "datastream-ws", "")


def test_the_console_script_is_installed() -> None:
    script = Path(COMMAND[0]).with_name("datastream-ws")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert done.stdout.startswith("datastream-ws ")


# --- on a terminal ---------------------------------------------------------------------------


def feed_on_terminal(server: StreamServer, *arguments: str) -> AbstractContextManager[Terminal]:
    return terminal("listen", f"{server.url}/feed?token={SECRET}", *arguments)


def statuses(screen: Terminal) -> list[str]:
    return [line for line in screen.lines if line.startswith("● ")]


def test_a_terminal_has_a_live_line_below_the_messages() -> None:
    greeting = {"type": "price", "p": 1}
    with sending(greeting) as server, feed_on_terminal(server) as screen:
        screen.wait_for(lambda: "● ready · 1 message ·" in screen.last)
        cursor_was_hidden = screen.cursor_is_hidden
        assert f"{server.url}/feed" in screen.last
        assert any(line.endswith('price  {"type": "price", "p": 1}') for line in screen.lines)
        server.send("\x1b[2J\x1b]0;owned\x07 [red]no")
        screen.wait_for(lambda: "● ready · 2 messages ·" in screen.last)
        assert any(r"\x1b[2J\x1b]0;owned\x07 [red]no" in line for line in screen.lines)
        assert len(statuses(screen)) == 1
        screen.press(b"\x03")  # Ctrl-C
        assert screen.end() == 0
    assert (cursor_was_hidden, screen.cursor_is_hidden) == (True, False)
    assert statuses(screen) == []
    assert screen.last.endswith("2 messages")
    assert b"\x1b]0;" not in screen.raw
    assert SECRET.encode() not in screen.raw
    assert b"\x1b[36mprice" in screen.raw


def test_a_terminal_shows_the_reconnect_and_the_countdown() -> None:
    with sending("hello") as server, feed_on_terminal(server, *HURRY) as screen:
        screen.wait_for(lambda: "● ready" in screen.last)
        server.abort()
        screen.wait_for(lambda: "● next attempt in" in screen.last)
        screen.wait_for(lambda: "● ready · 2 messages · " in screen.last)
        assert "1 reconnect" in screen.last
        assert any("lost without a close frame; next atte" in line for line in screen.lines)
        screen.resize(30, 20)
        server.send("again")
        screen.wait_for(lambda: screen.last.startswith("● ready · 3 messages"))
        assert len(screen.last) <= 30
        screen.press(b"\x03")
        assert screen.end() == 0


def test_no_color_and_a_terminal_that_knows_no_utf8() -> None:
    with sending({"type": "price"}, "grün →") as server:
        arguments = ["listen", server.url, "--max-messages", "2"]
        with terminal(*arguments, environ={"NO_COLOR": "1"}) as screen:
            assert screen.end() == 0
        assert b"\x1b[36m" not in screen.raw
        old = {"PYTHONIOENCODING": "ascii", "TERM": "dumb"}
        with terminal(*arguments, environ=old) as screen:
            assert screen.end() == 0
        assert b"\\xfcn \\u2192" in screen.raw
        assert b"Traceback" not in screen.raw


@pytest.mark.parametrize("seen", [b"\x1b[?25l", b"connecting", b"connected", b"hello"])
def test_ctrl_c_at_any_moment_leaves_terminal_and_code_clean(seen: bytes) -> None:
    with sending("hello") as server, terminal("listen", server.url, "-v") as screen:
        screen.wait_for(lambda: seen in screen.raw)
        screen.press(b"\x03")
        assert screen.end() == 0
    assert b"Traceback" not in screen.raw
    assert not screen.cursor_is_hidden


# --- which messages -----------------------------------------------------------------------------

MIXED = [
    {"type": "tick", "symbol": "ACME"},
    {"type": "flag", "symbol": "ACME"},
    {"type": "tick", "symbol": "OTHER"},
    b"\x00ACME",
    {"type": "price", "symbol": "ACME"},
]


@pytest.mark.parametrize(
    ("options", "seqs"),
    [
        (["--route", "tick"], [1, 3]),
        (["--route", "tick", "--route", "price"], [1, 3, 5]),
        (["--filter", "ACME"], [1, 2, 4, 5]),
        (["--filter", "ACME", "--filter", "flag"], [2]),
        (["--route", "tick", "--filter", "ACME"], [1]),
        (["--route", "nothing"], []),
    ],
)
def test_only_what_is_asked_for_is_printed(
    options: list[str], seqs: list[int], tmp_path: Path
) -> None:
    """A recording has all of it."""
    record = tmp_path / "rec.jsonl"
    ending = ["--record", str(record), "--max-messages", "5"]
    with sending(*MIXED) as server:
        done = run("listen", server.url, *options, *ending)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["seq"] for line in done.stdout.splitlines()] == seqs
    assert f"5 messages, {len(seqs)} of them shown" in done.stderr
    assert len(record.read_text().splitlines()) >= 1 + 5


@pytest.mark.parametrize("attempt", range(3))
def test_connected_is_told_before_the_first_message_and_a_summary_at_the_end(attempt: int) -> None:
    with sending("first", "second") as server, terminal("listen", server.url) as screen:
        screen.wait_for(lambda: any("second" in line for line in screen.lines))
        screen.press(b"\x03")
        assert screen.end() == 0
        lines = [line for line in screen.lines if line]
    told = [line.split("  ", 1)[-1].strip() for line in lines]
    assert told[0].startswith("connecting to ws://")
    assert told[1:4] == ["connected", "first", "second"]
    assert told[-1] == "2 messages"
