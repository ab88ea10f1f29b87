"""A Redis server for one test, which can crash and restart on the same port."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from .http import free_port
from .services import needed

__all__ = ["PrivateRedis"]


class PrivateRedis:
    """
    A ``redis-server`` process on a free port, which stores nothing on disk. ``with`` runs it.

    Without the program, the test is skipped, or fails if CI is set.

    Args:
        folder: A folder of this server.
        password: The password of clients. An empty string means none.

    """

    def __init__(self, folder: Path, password: str = "") -> None:
        self._folder = folder
        self._password = password
        self.port = free_port()

    @property
    def url(self) -> str:
        userinfo = f":{self._password}@" if self._password else ""
        return f"redis://{userinfo}127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        program = needed("redis-server", "redis-server")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--requirepass", self._password] if self._password else []
        self._process = subprocess.Popen(
            [program, *options, "--appendonly", "no", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.01)
        raise TimeoutError("redis-server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
