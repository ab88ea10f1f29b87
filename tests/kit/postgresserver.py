"""A PostgreSQL server for one test, which can stop, crash and restart on the same port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from .http import free_port
from .services import needed

__all__ = ["PrivatePostgres"]

# Debian has a folder for the server's programs of each version, which is not in PATH.
FOLDERS = [
    str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
]
START_SECONDS = 30.0


class PrivatePostgres:
    """
    A ``postgres`` process on a free port, in its own folder. ``with`` runs it.

    The program refuses to run as root, so it then runs as the user ``postgres``. Without the
    program, the test is skipped, or fails if CI is set.
    """

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        initdb = needed("initdb", "postgresql", FOLDERS)
        # Not in the test's folder, because only its user may enter that.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as: dict[str, Any] = {"cwd": self._folder}
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
            self._as |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._data = str(self._folder / "data")
        options = ["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run(
            [initdb, "-D", self._data, *options],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
            **self._as,
        )
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "fsync": "off"}
        settings["unix_socket_directories"] = ""
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._log = (self._folder / "log").open("a")
        self._process = subprocess.Popen(
            [needed("postgres", "postgresql", FOLDERS), "-D", self._data, *options],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            **self._as,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._responds():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"postgres did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.02)

    def _responds(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End all connections and shut down, as a restart for an upgrade does."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End immediately without a shutdown, so that the next start has to recover."""
        self._end(signal.SIGQUIT)

    def hang(self) -> None:
        """Stop all processes, so that connections stay open without responses."""
        self._signal_all(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _end(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.wait(60)
        self._log.close()

    def _signal_all(self, number: int) -> None:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in [self._process.pid, *map(int, children.read_text().split())]:
            os.kill(pid, number)
