"""
Servers of other projects, as processes on free ports.

``kit/otherservers`` documents the orders that all of them accept.

::

    with RealServer("aiohttp", folder) as server:
        client = Client(server.url)
        client.send({"do": "close", "code": 4000, "reason": "bye"})

Node's ``ws`` is installed once, into pytest's cache folder.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

__all__ = [
    "CAN_DROP",
    "CAN_FRAGMENT",
    "HERE",
    "SERVERS",
    "Nginx",
    "RealServer",
    "node_packages",
    "package",
    "ws_library",
]

from .djangoproject import Process
from .http import free_port
from .services import missing, needed

TESTS = Path(__file__).parents[1]
HERE = Path(__file__).parent / "otherservers"
SERVERS = ["ws", "websockets", "aiohttp", "uvicorn-websockets", "uvicorn-wsproto"]
CAN_DROP = ["ws", "websockets", "aiohttp"]
CAN_FRAGMENT = ["ws", "websockets"]
WS = "ws@8"
REGISTRY_SECONDS = 8


def package(name: str) -> None:
    """Skip the test if a Python package is not installed, or fail it if CI is set."""
    if importlib.util.find_spec(name) is None:
        missing(f"no {name} in this environment: pip install {name}")


def ws_library(config: pytest.Config, folder: Path) -> Path:
    """Return the folder of Node's ``ws``. *folder* is used if pytest has no cache."""
    return node_packages(config, "ws", folder, [WS]) / "node_modules" / "ws"


def node_packages(config: pytest.Config, name: str, folder: Path, packages: Sequence[str]) -> Path:
    """Install *packages*, and return the folder. *folder* is used if pytest has no cache."""
    npm = needed("npm", "npm")
    cache = getattr(config, "cache", None)  # missing with -p no:cacheprovider
    folder = cache.mkdir(name) if cache is not None else folder
    with (folder / "lock").open("w") as lock:  # other workers of this session may install them, too
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "installed"
        if not done.exists():
            expect_registry(npm, cache.mkdir("npm") if cache is not None else folder)
            install([npm, "install", "--prefix", str(folder)], packages)
            done.touch()
        return folder


def expect_registry(npm: str, folder: Path) -> None:
    """
    Skip the test if npm's registry does not respond within 8 seconds, once for each test run.

    With CI set this has no effect, because a package that npm can't install then fails the test.
    """
    if os.environ.get("CI"):
        return
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    known = folder / "unreachable"
    if not (known.exists() and known.read_text() == run):
        if registry_responds(npm):
            return
        known.write_text(run)
    missing("npm's registry does not respond, and the package is not in pytest's cache")


def registry_responds(npm: str) -> bool:
    command = [npm, "view", WS, "version", "--fetch-retries=0", "--prefer-online"]
    # npm starts more processes, which the time limit must end, too.
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as asking:
        try:
            return asking.wait(REGISTRY_SECONDS) == 0
        except subprocess.TimeoutExpired:
            os.killpg(asking.pid, signal.SIGKILL)
            return False


def install(command: list[str], packages: Sequence[str]) -> None:
    """Install *packages* with npm. If that fails, the test is skipped, or fails if CI is set."""
    command = [*command, "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        missing(f"npm did not install {', '.join(packages)} in time")
    if done.returncode:
        missing(f"npm could not install {', '.join(packages)}:\n{done.stderr[-500:]}")


class RealServer:
    """
    A server, which ``with`` starts and ends.

    Args:
        name: One of SERVERS.
        folder: The folder for its output.
        library: The folder of Node's ``ws``, for that server.
        ping: Seconds between the pings of ``ws``, which ends connections without a pong. ``None``
            disables pings.
        prefix: A command that runs it, such as ``ip netns exec …``.
        host: The address of a server in Python.

    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        library: Path | None = None,
        ping: float | None = None,
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self.port = 0
        self._prefix = prefix
        self._host = host
        self.name = name
        self._log = folder / f"{name}.log"
        self._library = library
        self._ping = ping

    @property
    def url(self) -> str:
        return f"ws://{self._host}:{self.port}/"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.__exit__(None, None, None)

    def start(self) -> None:
        """Start the server. A second start uses the same port."""
        command = [*self._prefix, *self._command()]
        environment = {**os.environ, "HOST": self._host}
        self.process = Process(command, TESTS, environment, self._log, stdin=True)
        self.process.wait_output("listening ")
        found = re.search(r"listening (\d+)", self.process.output)
        assert found is not None
        self.port = int(found[1])

    def _command(self) -> list[str]:
        if self.name == "ws":
            node = needed("node", "nodejs")
            ping = [str(self._ping)] if self._ping is not None else []
            return [node, str(HERE / "ws_server.mjs"), str(self.port), str(self._library), *ping]
        module, _, protocol = self.name.partition("-")
        command = [sys.executable, "-m", f"kit.otherservers.{module}_server", str(self.port)]
        return [*command, *([protocol] if protocol else [])]

    def kill(self) -> None:
        """Send SIGKILL, so that the system ends the connections."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.__exit__(None, None, None)

    def closed(self, code: int) -> int:
        """Return the number of connections that ended with *code*."""
        return self.process.output.count(f"closed {code}\n")


class Nginx:
    """
    nginx as a proxy, which ``with`` starts and ends.

    Args:
        folder: An empty folder.
        upstream: The port of the server behind it.
        idle: Seconds without data from the server after which it ends a connection.

    """

    def __init__(self, folder: Path, upstream: int, *, idle: float = 60.0) -> None:
        self._program = needed("nginx", "nginx-light")
        self._folder = folder
        self.port = free_port()
        self.set(upstream, idle=idle)

    def set(self, upstream: int, *, idle: float = 60.0) -> None:
        """Write another configuration, which :meth:`reload` applies."""
        (self._folder / "nginx.conf").write_text(
            CONFIGURATION.format(port=self.port, upstream=upstream, idle=int(idle * 1000))
        )

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        command = [self._program, "-p", str(self._folder), "-e", "stderr", "-c", "nginx.conf"]
        self.process = Process(command, self._folder, dict(os.environ), self._folder / "log")
        self.process.wait_output("start worker process ")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.__exit__(None, None, None)

    def reload(self) -> None:
        """Start new workers. The old ones end their connections within a second."""
        before = self.process.output.count("start worker process ")
        self.process.send_signal(signal.SIGHUP)
        self.process.wait_output("start worker process ", before + 1)


CONFIGURATION = """
daemon off;
worker_processes 1;
worker_shutdown_timeout 300ms;
pid nginx.pid;
error_log stderr notice;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_read_timeout {idle}ms;
    }}
  }}
}}
"""
