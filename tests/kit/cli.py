"""``datastream-ws`` in its own process, in pipes or on a terminal whose screen a test can read."""

from __future__ import annotations

import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from select import select
from typing import Any

import pyte

__all__ = ["COMMAND", "Terminal", "environment", "run", "running", "terminal"]

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "datastream_ws.cli"]
PATIENCE = 30.0  # seconds


def environment(**changes: str) -> dict[str, str]:
    """Return an environment without variables that set colors or proxies."""
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in names and not name.lower().endswith("_proxy")
    }
    return kept | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | changes


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in pipes until it exits."""
    with running(*arguments, **options) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def running(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the command in pipes, and kill it at the end of the block."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings: dict[str, Any] = {"env": environment(), "cwd": ROOT} | pipes | options
    process = subprocess.Popen([*COMMAND, *arguments], **settings)
    with process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """The terminal of a running command, as its user sees it."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, size: tuple[int, int]):
        self.process = process
        self.raw = b""
        self._master = master
        self.screen = pyte.HistoryScreen(size[0], size[1], history=1000)
        self._stream = pyte.ByteStream(self.screen)

    @property
    def lines(self) -> list[str]:
        """The lines on the screen, without trailing spaces."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def last(self) -> str:
        """The last line that is not empty, such as the live status line."""
        return next((line for line in reversed(self.lines) if line), "")

    @property
    def cursor_is_hidden(self) -> bool:
        return bool(self.screen.cursor.hidden)

    def wait_for(self, seen: Callable[[], Any]) -> None:
        """Read until *seen* is true. After 30 seconds, AssertionError shows the screen."""
        deadline = time.monotonic() + PATIENCE
        while not seen():
            more = self._read() and time.monotonic() < deadline
            assert more, "\n".join(self.lines)

    def _read(self) -> bool:
        """Wait for output, and return whether there may be more."""
        if not select([self._master], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux reports the end of the other side in this way
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def resize(self, columns: int, lines: int) -> None:
        ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)
        self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        """Read until the command exits, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)


@contextmanager
def terminal(
    *arguments: str,
    size: tuple[int, int] = (80, 24),
    environ: dict[str, str] | None = None,
    run_by: Sequence[str] = (),
) -> Iterator[Terminal]:
    """
    Run the command on its own terminal, and kill it at the end of the block.

    Args:
        size: The columns and lines of the terminal.
        environ: Variables to add to the environment.
        run_by: A command that gets this one as its arguments, such as a shell.

    """
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    process = subprocess.Popen(
        [*run_by, *COMMAND, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(**(environ or {})),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
    )
    os.close(slave)
    try:
        yield Terminal(process, master, size)
    finally:
        process.kill()
        process.wait()
        os.close(master)
