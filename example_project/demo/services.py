"""Programs that are started, looked after, and surely ended: what systemd does in production."""

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

SOON = 5.0  # seconds; one that ends earlier has not really started
STOP_SECONDS = 10.0  # for all of them to finish what they have in hand

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1  # prctl(2)


class Service:
    """
    A program with a log file, in a session of its own: the terminal's Ctrl-C does not reach it.

    On Linux it is told to finish when the demo is killed outright.

    Args:
        arguments: Of this Python.
        folder: Working directory, and where the log is.
        pass_fds: Descriptors it inherits.

    Attributes:
        restarts: How often it was started again.
        early_ends: How often in a row it ended within SOON seconds of its start.

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
                preexec_fn=_end_with_parent,  # no threads here
            )

    def revive(self) -> str | None:
        """Start it again if it has ended; return how it ended, ``None``: it has not."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self._signal_all(signal.SIGKILL)  # children that outlive it
        early = time.monotonic() - self._started_at < SOON
        self.early_ends = self.early_ends + 1 if early else 0
        self.restarts += 1
        self.start()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Have it finish; its children are its own business."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and whatever it left, at once; nothing if all that is gone."""
        self._signal_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def last_lines(self, count: int) -> list[str]:
        """Return the end of its log."""
        return self.log.read_text(errors="replace").splitlines()[-count:]


def _end_with_parent() -> None:
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end(services: Sequence[Service], is_urgent: Callable[[], bool]) -> None:
    """Have them finish, and kill what has not after STOP_SECONDS, or once it is urgent."""
    deadline = time.monotonic() + STOP_SECONDS
    for service in services:
        service.terminate()
    while any(service.is_running for service in services):
        if is_urgent() or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for service in services:
        service.kill()
