"""The supervision of programs, which systemd does in production."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Service", "end"]

SOON = 5.0  # seconds after the start in which an exit counts as a failed start
STOP_SECONDS = 10.0  # for all programs to exit

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1  # prctl(2)


class Service:
    """
    A program with a log file, in its own session, so that it does not get the terminal's Ctrl-C.

    On Linux it gets SIGTERM if the demo is killed.

    Args:
        name: The name of the log file.
        command: The program and its arguments.
        folder: The working folder, and the folder of the log file.
        pass_fds: The descriptors that it inherits.

    Attributes:
        restarts: The number of restarts.
        early_ends: The number of exits in a row within SOON seconds of the start.

    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, pass_fds: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.restarts = 0
        self.early_ends = 0
        self._command = command
        self._folder = folder
        self._pass_fds = pass_fds
        self._started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._started_at = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self._pass_fds,
                preexec_fn=_end_with_parent,  # safe, because the demo has no threads
            )

    def revive(self) -> str | None:
        """Restart it if it has exited. Return the reason, or ``None`` if it is running."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._signal_all(signal.SIGKILL)  # for children that outlive it
        early = time.monotonic() - self._started_at < SOON
        self.early_ends = self.early_ends + 1 if early else 0
        self.restarts += 1
        self.start()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Send SIGTERM to the program, which has to end its children."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the program and its children, if there are any."""
        self._signal_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of its log."""
        return self.log.read_text(errors="replace").splitlines()[-count:]


def _end_with_parent() -> None:
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end(services: Sequence[Service], is_urgent: Callable[[], bool]) -> None:
    """Stop services, and kill those that run after STOP_SECONDS or once *is_urgent* is true."""
    deadline = time.monotonic() + STOP_SECONDS
    for service in services:
        service.terminate()
    while any(service.is_running for service in services):
        if is_urgent() or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for service in services:
        service.kill()
