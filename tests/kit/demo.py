"""
``make demo`` in its own process, and the processes that it leaves behind.

::

    with Demo(tmp_path, "--messages", "60") as demo:
        demo.wait_for("ready")
        demo.kill("feed")
        assert demo.end() == 0
    assert demo.left() == []
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from kit.browser import log_in
from kit.flaskproject import Running

__all__ = ["Demo"]

ROOT = Path(__file__).parents[2]
BROKERS = ("REDIS_URL", "AMQP_URL")


class Demo(Running):
    """
    The demo on free ports, with its state in *folder*.

    Args:
        env: Variables to add to the environment. Those that name a broker are removed first.

    """

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if name not in BROKERS}
        words = {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        ports = () if "--port" in arguments else ("--port", "0")
        command = [sys.executable, "-m", "example_project.demo", *ports, *arguments]
        super().__init__(command, folder, inherited | words | env)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for process in self.processes():  # of a demo that did not end as it should
            with suppress(psutil.Error):
                process.kill()

    def address(self, name: str) -> str:
        """Return the URL of the site or the kiosk."""
        return self.wait_for(rf"  {name} +(http\S+)")[1]

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the demo, which are those that run in the state folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                below = Path(process.cwd()).is_relative_to(self.folder)
                if below and process.pid != self.process.pid:
                    found.append(process)
        return found

    def queue(self) -> str:
        """Return the name of the queue of this demo."""
        return self.processes()[0].environ()["SHOP_QUEUE"]

    def kill(self, words: str) -> None:
        """Send SIGKILL to the oldest process whose command line contains *words*."""
        found = [it for it in self.processes() if words in " ".join(it.cmdline())]
        min(found, key=lambda it: it.create_time()).send_signal(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGINT, times: int = 1) -> int:
        """Press Ctrl-C this number of times, and return the exit code."""
        for _ in range(times):
            self.process.send_signal(number)
        return self.exit_code()

    def log_in(self, browser: Any) -> None:
        """Log a browser in as the admin."""
        password = self.wait_for(r"password (\S+)\)")[1]
        log_in(browser, self.address("site"), "admin", password)

    def left(self) -> list[str]:
        """Return the processes and files that are left."""
        processes = [" ".join(it.cmdline()) for it in self.processes()]
        return processes + [str(it) for it in self.folder.iterdir()]

    def counted(self) -> dict[str, tuple[int, ...]]:
        """Return the numbers in the summary, by the first word of each line."""
        lines = self.output.rpartition("received   handled")[2].splitlines()
        rows = [line.split(maxsplit=1) for line in lines[1:] if line.strip()]
        return {name: tuple(map(int, re.findall(r"\d+", text))) for name, text in rows}
