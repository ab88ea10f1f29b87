"""Find the services and programs of tests. Without one, a test is skipped, or fails in CI."""

from __future__ import annotations

import functools
import os
import shutil
import socket
from collections.abc import Sequence
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import pytest


class Service(NamedTuple):
    """A service, with the variable that contains its URL."""

    variable: str
    default: str
    port: int


SERVICES = {
    "redis": Service("REDIS_URL", "redis://127.0.0.1:6379/0", 6379),
    "rabbitmq": Service("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//", 5672),
    "postgresql": Service("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres", 5432),
}


def url_of(name: str) -> str:
    """
    Return the URL of the service *name*, which accepts connections.

    Without the service, the test is skipped. With `CI` set it fails, so that a successful run has
    tested everything.
    """
    service = SERVICES[name]
    url = os.environ.get(service.variable) or service.default
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or service.port
    if (error := refusal(url, host, port)) is not None:  # its text contains no password
        missing(f"no {name} at {host}:{port} ({error}); {service.variable} names another")
    return url


@functools.cache  # a host that drops packets costs the time limit once
def refusal(url: str, host: str, port: int) -> OSError | None:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return error
    return None


def needed(program: str, debian: str, folders: Sequence[str] = ()) -> str:
    """
    Return the path of a program. Without it, the test is skipped, or fails if CI is set.

    Args:
        program: The name of the program.
        debian: The package of Debian that contains it.
        folders: More folders to search, besides PATH.

    """
    path = shutil.which(
        program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *folders])
    )
    return path or missing(f"no {program} on the path (Debian: {debian})")


def missing(what: str) -> NoReturn:
    """Skip the test with the reason *what*, or fail it if CI is set."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
