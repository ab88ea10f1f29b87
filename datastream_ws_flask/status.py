"""Rows of the runner's streams in the tables of a Django project whose database the app shares."""

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
    Yield what takes each heartbeat, and has Django's admin show and command the streams.

    Only where the app has called ``django.setup()`` with ``datastream_ws_django`` installed; else
    ``None``.
    """
    heartbeat = _heartbeat(clients)
    try:
        yield heartbeat and heartbeat.beat
    finally:
        if heartbeat is not None:
            heartbeat.close()


def _heartbeat(clients: Sequence[Client | Fleet]) -> Any:
    django_apps = sys.modules.get("django.apps")  # not imported for this
    if django_apps is None or not django_apps.apps.ready:
        return None
    if not django_apps.apps.is_installed("datastream_ws_django"):
        return None
    from datastream_ws_django.heartbeat import Heartbeat

    return Heartbeat(clients)
