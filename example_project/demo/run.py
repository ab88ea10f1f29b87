"""
Run the shop on one machine, with Django, Celery and Flask on a feed that drops regularly.

A program that exits is started again. Ctrl-C stops all of them.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from example_project.demo.parts import DemoError, Parts
from example_project.demo.signals import Signals

__all__ = ["run"]

PORT = 8000


def run(arguments: Sequence[str], signals: Signals) -> int:
    """Run the demo, and return the exit code."""
    wanted = _parser().parse_args(arguments)
    try:
        with (
            _listener(wanted.port, 0) as site,
            _listener(wanted.port, 1) as kiosk,
            _state_folder(wanted.state) as folder,
        ):
            parts = Parts(folder, site, kiosk, wanted)
            parts.prepare()
            from example_project.demo.watch import Demo  # after django.setup()

            return Demo(parts, signals, wanted.messages).run()
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo", usage="make demo ARGS='[OPTIONS]'", description=__doc__
    )
    add = parser.add_argument
    add("--messages", type=_positive(int), metavar="N", help="Stop after N prices, with a summary")
    add(
        "--rate",
        type=_positive(float),
        metavar="R",
        default=20.0,
        help="Prices per second (default: 20)",
    )
    add(
        "--seed", type=int, metavar="N", default=0, help="Seed of the prices and flags (default: 0)"
    )
    add("--port", type=_port, metavar="P",
        help="Port of the site; the kiosk has the next one (default: 8000)")  # fmt: skip
    add("--state", type=Path, metavar="DIR", help="Keep the database and logs in this new folder")
    return parser


def _positive(kind: Any) -> Any:
    def parse(text: str) -> Any:
        number = kind(text)
        if not number > 0:
            raise argparse.ArgumentTypeError("must be above 0")
        return number

    parse.__name__ = kind.__name__
    return parse


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65535:  # the kiosk has the next port
        raise argparse.ArgumentTypeError("must be 0 to 65534")
    return port


_port.__name__ = "port"


@contextmanager
def _listener(port: int | None, offset: int) -> Iterator[socket.socket]:
    """Yield a listening socket, so that no request is refused while the server starts."""
    wanted = PORT + offset if port is None else port and port + offset
    try:
        listening = socket.create_server(("127.0.0.1", wanted))
    except OSError as error:
        if port is not None:
            raise DemoError(
                f"port {wanted} is not available ({error.strerror}). Pass another --port, or "
                "--port 0 for any free port."
            ) from None
        listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        yield listening


@contextmanager
def _state_folder(wanted: Path | None) -> Iterator[Path]:
    """Yield the wanted folder, which must be empty. Without one, yield a temporary folder."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="shop-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise DemoError(f"--state: {wanted} is not empty. Pass a new folder, or remove it.")
    except OSError as error:
        raise DemoError(f"--state: {wanted} cannot be used: {error.strerror}") from None
    yield wanted.resolve()
