"""
A simulated reader who follows a page exactly, in an empty folder.

It writes the files, runs the programs and commands, and compares their output. A server runs until
the page mentions Ctrl-C or ends, and must then exit without an error. The reader replaces only
example addresses (``wss://api.example.com/stream``) and ports.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.blockchecks import check_block
from kit.flaskproject import PATIENCE, Running
from kit.http import free_port
from kit.pages import ROOT, Block, Remark, steps
from kit.redisserver import PrivateRedis

__all__ = ["NOT_RUN", "OWN_TESTS", "Reader", "has_own_test"]

# Whether it is installed as a package or editable, so that pytest finds its plugin.
INSTALLED = any(importlib.metadata.distributions(name="datastream-ws"))

# Commands that are not run, and the reasons.
NOT_RUN = {
    "docker": "needs Docker's daemon; Dockerfile and compose file are checked line by line",
    "kubectl": "needs a cluster; the manifests are checked field by field",
    "sudo": "changes the machine; systemd's units are given to systemd-analyze",
    "uwsgi": "a C program that is compiled when installed; tried by hand, see the page",
}

# Pages with separate tests, because their programs need another server, or Django with Tasks.
OWN_TESTS = ("docs/recipes/", "docs/howto/django-tasks.md")

# Commands that run until Ctrl-C.
SERVES = re.compile(
    r"^(flask .*\brun\b|gunicorn |uvicorn |celery .* worker\b|datastream-ws replay|"
    r"python manage\.py (runserver|run_datastream)|python (feed|watch)\.py$)"
)
# Commands that are repeated, because a process that has just started may report late.
ASKS = re.compile(r"\b(curl|probe\.py|datastream_status|datastream status|inspect|control)\b")
PORTS = ("8765", "8000", "5000", "9100")
EXTRAS = re.compile(r"datastream-ws\[([\w,]+)\]")
SPEAKS = re.compile(r"\.(send|subscribe|request|start_entity)\(")

# The messages of the server that replaces wss://api.example.com/stream.
MESSAGES: list[dict[str, object]] = [
    {"type": "flag_update", "key": "feature1", "value": True},
    {"type": "price", "symbol": "ACME", "price": "10.5"},
    {"entity_type": "rulesengine.Flags", "message_type": "full", "data": [{"key": "feature1"}]},
    {"type": "goodbye"},
]


def has_own_test(page: str) -> bool:
    """Return whether a separate test runs the program of the page."""
    return page.startswith(OWN_TESTS)


def feed(connection: StreamConnection, data: str | bytes = b"") -> None:
    for message in MESSAGES:
        connection.send(message)


def server_for(text: str) -> StreamServer:
    """Return a server for the code in *text*. If the code sends messages, it waits for one."""
    # Otherwise the program could be ended before it has sent anything.
    return StreamServer(on_message=feed) if SPEAKS.search(text) else StreamServer(on_connect=feed)


class Reader:
    """
    A reader who follows *page* in *folder*, an empty folder.

    Attributes:
        fill: The texts to replace in every block, and their replacements.
        running: The commands that serve, with their processes.
        done: The commands that were run.
        printed: A function that asserts that the last output contains a pattern.
        codes: The exit code of the next command, if the page contains one.

    """

    def __init__(self, page: str, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.fill = {port: str(free_port()) for port in PORTS}
        self.running: list[tuple[str, Running]] = []
        self.printed: Callable[[re.Pattern[str]], object] | None = None
        self.codes: list[int] = []
        self.done: list[str] = []
        self._end = ExitStack()

    def __enter__(self) -> Self:
        text = "\n".join(each.text for each in steps(self.page))
        if "redis://localhost" in text:
            extras = EXTRAS.findall(text)
            assert not extras or "redis" in ",".join(extras), f"{extras} lack redis"
            redis = self._end.enter_context(PrivateRedis(self.folder))
            self.fill["redis://localhost"] = redis.url
        if "wss://api.example.com/stream" in text:
            files = [e.text for e in steps(self.page) if isinstance(e, Block) and e.title]
            server = self._end.enter_context(server_for("\n".join(files)))
            self.fill["wss://api.example.com/stream"] = server.url
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._end.close()
        for command, running in self.running:
            running.__exit__(kind, error, trace)
            if error is not None:
                print(f"--- output of {command} ---\n{running.output}")

    def follow(self) -> None:
        """Follow the page from its beginning to its end."""
        for step in steps(self.page):
            if isinstance(step, Remark):
                self.remark(step)
            else:
                try:
                    self.block(step)
                except BaseException as error:
                    error.add_note(str(step))
                    raise
        for command, _ in list(self.running):
            self.interrupt(command)
        assert self.idle_files() == [], "files that no command has run"

    def remark(self, remark: Remark) -> None:
        if remark.word == "Ctrl-C":
            self.interrupt(remark.text)
        elif remark.word == "exit code":
            self.codes = [int(remark.text)]
        else:
            [self.printed] = [look_in(r) for c, r in self.running if c == remark.text]

    def block(self, block: Block) -> None:
        text = self.filled(block.text)
        if block.language == "text" and not block.title:
            assert self.printed is not None, "no command before it could print this"
            self.printed(pattern(text))
            return
        check_block(block, self.folder)
        if block.title:
            self.write(block.title, text)
        elif block.language == "python":
            self.program(block, text)
        elif block.language == "sh":
            self.commands(text)

    def write(self, title: str, text: str) -> None:
        path = self.folder / title
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n\n" if file.tell() else "") + text)

    def idle_files(self) -> list[str]:
        """Return the Python files of the page that no command has loaded."""
        titles = {e.title for e in steps(self.page) if isinstance(e, Block)}
        files = [self.folder / title for title in titles if title.endswith(".py")]
        ran = " ".join(self.done)
        return [
            str(file)
            for file in files
            if file.name not in ran and not list(file.parent.glob(f"__pycache__/{file.stem}.*"))
        ]

    # --- programs ---

    def program(self, block: Block, text: str) -> None:
        """Run a program until it has printed the expected output. Run tests until they end."""
        file = self.folder / f"test_line_{block.line}.py"
        with server_for(text) as server:
            url = re.compile(r"wss://api\.example\.com/stream|https://api\.schematichq\.com")
            file.write_text(url.sub(server.url, block.text), encoding="utf-8")
            (self.tests if "def test_" in text else self.run_program)(file)

    def tests(self, file: Path) -> None:
        plugin = "" if INSTALLED else "-p datastream_ws.testing.plugin "
        self.command(f"python -m pytest -q {plugin}{file.name}")
        assert self.printed
        self.printed(re.compile(r"\d passed"))

    def run_program(self, file: Path) -> None:
        expected = self.expected_after(file)
        errors = file.with_suffix(".err")
        with (
            errors.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-W", "error", "-u", file],
                cwd=self.folder,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
            ExitStack() as if_it_hangs,  # Popen waits for the program without a limit
        ):
            if_it_hangs.callback(process.kill)
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if expected.search(printed):
                    break
            if ".run()" in file.read_text(encoding="utf-8") and printed:
                process.send_signal(signal.SIGINT)
            printed += process.stdout.read()
            code = process.wait(PATIENCE)
        assert (code, errors.read_text()) == (0, "")
        assert printed, "a program in a page prints something"
        self.printed = look_at(printed)

    def expected_after(self, file: Path) -> re.Pattern[str]:
        """Return the pattern of the output of this program. Without one, any line matches."""
        blocks = [each for each in steps(self.page) if isinstance(each, Block)]
        line = int(file.stem.rpartition("_")[2])
        [number] = [n for n, each in enumerate(blocks) if each.line == line]
        after = blocks[number + 1 : number + 2]
        if after and after[0].language == "text":
            return pattern(self.filled(after[0].text))
        return re.compile("\n")

    # --- commands ---

    def commands(self, text: str) -> None:
        printed, command = "", ""
        commands = [c for c in map(without_comment, lines_of(text)) if c]
        for number, command in enumerate(commands):
            words = shlex.split(command)
            if words[0] in NOT_RUN:
                continue
            if SERVES.match(without_variables(command)):
                assert number == len(commands) - 1, f"{command} would hold up what follows"
                self.serve(command)
                return
            printed += self.command(command)
        self.printed = self.look_again(command) if ASKS.search(command) else look_at(printed)

    def look_again(self, command: str) -> Callable[[re.Pattern[str]], object]:
        """Return a function that repeats a command until it prints a pattern."""

        def look(expected: re.Pattern[str]) -> None:
            deadline = time.monotonic() + PATIENCE
            while not expected.search(printed := self.command(command)):
                assert time.monotonic() < deadline, f"{expected.pattern}\nis not in\n{printed}"

        return look

    def command(self, command: str) -> str:
        """Run a command until it exits, and return its output."""
        words = shlex.split(command)
        if words[0] == "make":  # it only prints the commands
            return str(subprocess.check_output([*words, "-n"], cwd=ROOT, text=True))
        if words[:2] == ["pip", "install"]:
            return installable(words[2:])
        if words[0] == "curl":
            return fetched(words[-1])
        expected = self.codes.pop() if self.codes else 0
        deadline = time.monotonic() + PATIENCE
        while True:
            code, printed = self.run(command)
            if code == expected:
                break
            assert ASKS.search(command), f"ended with {code}:\n{printed}"
            assert time.monotonic() < deadline, f"ended with {code}:\n{printed}"
        if re.fullmatch(r"python \w+\.py", command):
            assert not re.search("(?m)^stream ", printed), f"a log line not in the page:\n{printed}"
        self.printed = look_at(printed)
        return printed

    def run(self, command: str) -> tuple[int, str]:
        running = self.start(command)
        try:
            return running.exit_code(), running.output
        finally:
            running.__exit__(None, None, None)

    def serve(self, command: str) -> None:
        running = self.start(command)
        self.running.append((command, running))
        self.printed = look_in(running)

    def start(self, command: str) -> Running:
        self.done.append(command)
        whole = command if re.search(r"[|;&<>]", command) else f"exec env {command}"
        return Running(["sh", "-c", whole], self.folder, self.environment())

    def interrupt(self, command: str) -> None:
        """Press Ctrl-C in the terminal of a command, and assert its exit code."""
        command = self.filled(command)
        [found] = [each for each in self.running if each[0] == command]
        os.killpg(found[1].process.pid, signal.SIGINT)
        code = found[1].exit_code()
        # Celery exits with 1 after Ctrl-C, with or without a stream.
        good = (0, 1) if command.startswith("celery ") else (0,)
        assert code in good, f"{command} ended with {code}:\n{found[1].output}"
        self.running.remove(found)
        found[1].__exit__(None, None, None)

    def filled(self, text: str) -> str:
        for known, filled in self.fill.items():
            text = text.replace(known, filled)
        return text

    def environment(self) -> dict[str, str]:
        """Return the environment of a new user, with this Python first in PATH."""
        ours = ("PYTEST_", "DJANGO_", "FLASK_", "CELERY_", "DATASTREAM", "GUNICORN_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # the bytecode shows which files were loaded
        return inherited | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": "" if is_wheel() else str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(self.folder),
            "FLASK_RUN_PORT": self.fill["5000"],
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{self.fill['8000']}",
        }


def is_wheel() -> bool:
    """Return whether a wheel is installed. Otherwise the pages use this checkout."""
    for installed in importlib.metadata.distributions(name="datastream-ws"):
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
        return not origin.get("dir_info", {}).get("editable", False)
    return False


def lines_of(text: str) -> list[str]:
    """Return the commands. Lines that end with a backslash are joined."""
    return text.replace("\\\n", " ").strip().split("\n")


def without_comment(command: str) -> str:
    return re.sub(r"(^|\s+)#.*", "", command).strip()


def without_variables(command: str) -> str:
    """Return the command without preceding ``NAME=value``."""
    return re.sub(r"^(\w+=\S+\s+)+", "", command)


def pattern(text: str) -> re.Pattern[str]:
    """Return a pattern for these lines in order. ``…`` matches any text."""
    lines = (re.escape(line.strip()).replace("…", "[^\n]*?") for line in text.strip().split("\n"))
    return re.compile(".*?".join(lines), re.DOTALL)


def look_at(printed: str) -> Callable[[re.Pattern[str]], object]:
    def look(expected: re.Pattern[str]) -> None:
        assert expected.search(printed), f"{expected.pattern}\nis not in\n{printed}"

    return look


def look_in(running: Running) -> Callable[[re.Pattern[str]], object]:
    return lambda expected: running.wait_for(f"(?s){expected.pattern}")


def installable(words: list[str]) -> str:
    """Assert that pip would install this package with existing extras, or another package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = set(project["optional-dependencies"])
    for word in words:
        if match := re.fullmatch(r"datastream-ws(?:\[([\w,]+)\])?", word):
            assert set(filter(None, (match[1] or "").split(","))) <= known, word
        else:
            assert re.fullmatch(r"\.|-r|[\w.-]+", word), word
    return ""


def fetched(url: str) -> str:
    """Return the content of a URL once a server responds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
