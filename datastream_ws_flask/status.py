"""The database rows of the runner's streams, for an app that shares a Django project."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datastream_ws import Client, Fleet

__all__ = ["django_rows"]


@contextmanager
def django_rows(clients: Sequence[Client | Fleet]) -> Iterator[Any]:
    """
    Yield a function that stores each heartbeat, so that Django's admin can control the streams.

    Yield ``None`` unless the app has called ``django.setup()`` with ``datastream_ws_django``
    installed.
    """
    heartbeat = _heartbeat(clients)
    try:
        yield heartbeat and heartbeat.beat
    finally:
        if heartbeat is not None:
            heartbeat.close()


def _heartbeat(clients: Sequence[Client | Fleet]) -> Any:
    django_apps = sys.modules.get("django.apps")  # only if the app has imported it
    if django_apps is None or not django_apps.apps.ready:
        return None
    if not django_apps.apps.is_installed("datastream_ws_django"):
        return None
    from datastream_ws_django.heartbeat import Heartbeat

    return Heartbeat(clients)
