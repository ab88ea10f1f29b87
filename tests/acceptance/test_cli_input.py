"""``datastream-ws listen`` sends what is typed on its terminal, or comes through its stdin."""

from __future__ import annotations

import json
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws.cli.lines import write_all
from datastream_ws.testing import StreamServer
from kit.cli import COMMAND, Terminal, environment, running, terminal

PATIENCE = 20.0
HURRY = ["--min-reconnect-delay", "0.3", "--max-reconnect-delay", "0.5"]
HINT = "> Type a line and press Enter to send it"
ENTER, CTRL_C, CTRL_D = b"\r", b"\x03", b"\x04"


@contextmanager
def listening(server: StreamServer, *arguments: str, **options: Any) -> Iterator[Terminal]:
    """The command on a terminal, once it is ready."""
    with terminal("listen", server.url, *HURRY, *arguments, **options) as screen:
        screen.wait_for(lambda: "● ready" in screen.last)
        yield screen


def prompts(screen: Terminal) -> list[str]:
    return [line for line in screen.lines if line.startswith(">")]


def told(screen: Terminal) -> list[str]:
    """What was printed, without the times and the live lines."""
    return [line.split("  ", 1)[1] for line in screen.lines if "  " in line]


def is_printed(screen: Terminal, text: str) -> bool:
    return text in told(screen)


def modes(screen: Terminal) -> list[Any]:
    return termios.tcgetattr(screen._master)[:4]


# --- on a terminal ---------------------------------------------------------------------------


def test_a_line_is_sent_with_enter_and_shown_apart_from_what_comes() -> None:
    with (
        StreamServer(on_message=lambda c, data: c.write(json.dumps({"got": data}))) as server,
        listening(server) as screen,
    ):
        screen.wait_for(lambda: prompts(screen) == [HINT])
        screen.press(b'{"a": 1}')
        screen.wait_for(lambda: prompts(screen) == ['> {"a": 1}'])
        assert server.received == []
        screen.press(ENTER)
        screen.wait_for(lambda: is_printed(screen, r'{"got": "{\"a\": 1}"}'))
        assert server.received == ['{"a": 1}']
        assert told(screen)[-2:] == ['> {"a": 1}', r'{"got": "{\"a\": 1}"}']
        assert prompts(screen) == [HINT]
        screen.press(CTRL_C)
        assert screen.end() == 0
    assert screen.last.endswith("1 message, 1 line sent")


def test_messages_that_arrive_meanwhile_leave_the_typed_line_whole() -> None:
    with StreamServer() as server, listening(server) as screen:
        screen.press(b"hel")
        for number in range(40):
            server.send(f"message {number}")
            if number == 20:
                screen.press(b"l")
        screen.wait_for(lambda: is_printed(screen, "message 39"))
        screen.wait_for(
            lambda: (
                prompts(screen) == screen.lines[-2:-1] == ["> hell"]
                and screen.lines[-1].startswith("● ready · 40 messages")
            )
        )
        assert told(screen)[-5:] == [f"message {number}" for number in range(35, 40)]
        screen.press(b"o" + ENTER)
        server.wait_received(1, PATIENCE)
    assert server.received == ["hello"]


def test_without_a_connection_a_line_is_not_sent_and_says_so() -> None:
    with StreamServer() as server, listening(server) as screen:
        server.stop()
        screen.wait_for(lambda: "● next attempt" in screen.last)
        screen.press(b"lost" + ENTER)
        screen.wait_for(lambda: is_printed(screen, "not connected, not sent: lost"))
        server.restart()
        screen.wait_for(lambda: "● ready" in screen.last)
        screen.press(b"kept" + ENTER)
        server.wait_received(1, PATIENCE)
        screen.press(CTRL_C)
        assert screen.end() == 0
    assert server.received == ["kept"]
    assert "1 line sent" in screen.last


def test_ctrl_d_ends_the_input_and_nothing_else() -> None:
    with StreamServer() as server, listening(server) as screen:
        screen.press(b"half" + CTRL_D)  # no empty line
        screen.wait_for(lambda: prompts(screen) == ["> half"])
        screen.press(ENTER + CTRL_D)
        screen.wait_for(lambda: is_printed(screen, "> half") and not prompts(screen))
        screen.press(b"unseen" + ENTER)
        server.send("still here")
        screen.wait_for(lambda: is_printed(screen, "still here"))
        screen.press(CTRL_C)
        assert screen.end() == 0
    assert server.received == ["half"]


@pytest.mark.parametrize("how", [CTRL_C, signal.SIGTERM])
def test_the_end_gives_the_terminal_back_whatever_is_half_typed(how: Any) -> None:
    with StreamServer() as server, terminal("listen", server.url) as screen:
        before = modes(screen)
        screen.wait_for(lambda: "● ready" in screen.last)
        during = modes(screen)
        screen.press(b"half")
        screen.wait_for(lambda: prompts(screen) == ["> half"])
        if isinstance(how, bytes):
            screen.press(how)
        else:
            screen.process.send_signal(how)
        assert screen.end() == 0
        after = modes(screen)
    assert not during[3] & (termios.ECHO | termios.ICANON)
    assert after == before
    assert server.received == []
    assert prompts(screen) == []


def test_what_is_typed_drives_no_terminal() -> None:
    with StreamServer() as server, listening(server) as screen:
        screen.press("a\x1b[2J\u202eb".encode() + ENTER)
        screen.wait_for(lambda: is_printed(screen, r"> a\u202eb"))
        server.wait_received(1, PATIENCE)
    assert server.received == ["a\u202eb"]
    assert "\u202e".encode() not in screen.raw


def test_a_terminal_that_cannot_redraw_sends_lines_as_well() -> None:
    with StreamServer() as server, terminal("listen", server.url, environ={"TERM": "dumb"}) as s:
        s.wait_for(lambda: b"connected" in s.raw)
        server.wait_connected(1)
        s.press(b"hello\n")
        server.wait_received(1, PATIENCE)
        s.press(CTRL_C)
        assert s.end() == 0
    assert server.received == ["hello"]


# --- through a pipe --------------------------------------------------------------------------


@contextmanager
def piped(server: StreamServer, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with running("listen", server.url, *HURRY, *arguments, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        yield process


def ended(process: subprocess.Popen[str]) -> tuple[list[Any], list[str]]:
    """Stop it; return the messages and the words."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return [json.loads(line)["data"] for line in out.splitlines()], err.splitlines()


def test_piped_lines_wait_for_the_connection_and_the_end_of_them_ends_nothing() -> None:
    with StreamServer(on_message=lambda c, data: c.write(f"got {data!s}")) as server:
        server.refuse(503, times=2)
        with piped(server) as process:
            assert process.stdin is not None
            process.stdin.write('{"a": 1}\n\nb\nwithout a line feed')
            process.stdin.close()
            process.stdin = None
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline())["data"] for _ in range(3)]
            server.abort()
            server.wait_connected(2)[-1].send("again")
            lines.append(json.loads(process.stdout.readline())["data"])
            _, words = ended(process)
    assert server.received == ['{"a": 1}', "b", "without a line feed"]
    assert lines == ['got {"a": 1}', "got b", "got without a line feed", "again"]
    assert words[-1].startswith("datastream-ws listen: 4 messages, 3 lines sent, 1 reconnect")
    assert not any("> " in word for word in words)


def test_lines_that_cannot_be_sent_are_told() -> None:
    with StreamServer(max_size=2**21) as server, piped(server) as process:
        assert process.stdin is not None
        lines = b"\xff\n" + b"x" * (2**20 + 1) + b"\n" + b"y" * 2**20 + b"\nlast\n"
        write_all(process.stdin.fileno(), lines)
        server.wait_received(2, PATIENCE)
        _, words = ended(process)
    assert [len(text) for text in server.received] == [2**20, 4]
    assert "datastream-ws listen: a line is not UTF-8, not sent" in words
    assert "datastream-ws listen: a line is longer than 1 MiB, not sent" in words


def test_a_pipe_that_waits_for_a_connection_holds_up_no_end() -> None:
    with StreamServer() as server:
        server.refuse(503)
        with piped(server) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write("a\n" * 1000)
            process.stdin.flush()
            while "next attempt" not in process.stderr.readline():
                pass
            ended(process)
    assert server.received == []


@pytest.mark.parametrize("stdin", ["null", "closed", "unread"])
def test_it_listens_without_an_input(stdin: str) -> None:
    with StreamServer(on_connect=lambda c: c.write("hello")) as server:
        command = [*COMMAND, "listen", server.url, "--max-messages", "1"]
        shell = {"null": "</dev/null", "closed": "<&-", "unread": "--no-input"}[stdin]
        done = subprocess.run(
            ["sh", "-c", f'"$@" {shell}', "sh", *command],
            input="not for the server\n",
            capture_output=True,
            text=True,
            env=environment(),
            timeout=PATIENCE,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == "hello"
    assert server.received == []


# Reads a line itself while the command runs in the background, ends it at the next one. What is
# in the background outlives the terminal: `timeout` ends it where the test has failed.
SHELL = """
timeout 60 "$@" &
read -r line; echo "the shell got $line"
read -r line; kill $!; wait $!
"""


def test_a_background_job_leaves_the_keys_to_the_shell_and_is_not_stopped() -> None:
    """A background process that reads its terminal, or changes its modes, is stopped."""
    with (
        StreamServer() as server,
        terminal("listen", server.url, run_by=["sh", "-mc", SHELL, "sh"]) as screen,
    ):
        before = modes(screen)
        screen.wait_for(lambda: "● ready" in screen.last)
        screen.press(b"a line\n")
        screen.wait_for(lambda: b"the shell got a line" in screen.raw)
        server.send("hello")
        screen.wait_for(lambda: is_printed(screen, "hello"))
        assert modes(screen) == before
        assert prompts(screen) == []
        screen.press(b"\n")
        [connection] = server.connections
        assert connection.closed.wait(PATIENCE)
        assert connection.close_code == 1000
        screen.end()
    assert server.received == []
