"""Where the services are that some tests need, and what happens when one is not there."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest


class Service(NamedTuple):
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

    Where it does not, the test is skipped with the name of the service; with `CI` set it fails, so
    that a green run there means that everything was tested.
    """
    service = SERVICES[name]
    url = os.environ.get(service.variable) or service.default
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or service.port
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:  # the text names no URL: that may carry a password
        missing = f"no {name} at {host}:{port} ({error}); {service.variable} names another"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return url
