"""A program in its own process, which a test can kill, stop and observe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

__all__ = ["ROOT", "Child"]

ROOT = Path(__file__).parents[2]


class Child:
    """
    A process that ``with`` starts and kills. It must exit when its stdin is closed.

    Args:
        program: The source in Python.
        arguments: The arguments, which the program gets as JSON.
        prefix: A command that runs the program, such as ``ip netns exec …``.

    """

    def __init__(self, program: str, arguments: list[Any], prefix: Sequence[str] = ()) -> None:
        self._command = [*prefix, sys.executable, "-c", program, json.dumps(arguments)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # it ends with this process
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )
        self.pid = self._process.pid
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has ended."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self, timeout: float = 60.0) -> int:
        """Send SIGTERM, and return the exit code."""
        self._process.terminate()
        return self._process.wait(timeout)
