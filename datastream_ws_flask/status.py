"""The database rows of the runner's streams, for an app that shares a Django project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from datastream_ws import Client, Fleet

__all__ = ["django_rows"]


def django_rows(clients: Sequence[Client | Fleet]) -> AbstractContextManager[Any]:
    """
    Enter with a function that stores each heartbeat, so that Django's admin shows the streams.

    Without ``django.setup()`` and ``datastream_ws_django`` in the app, enter with ``None``.
    """
    django_apps = sys.modules.get("django.apps")  # only if the app has imported it
    if django_apps is None or not django_apps.apps.ready:
        return nullcontext()
    if not django_apps.apps.is_installed("datastream_ws_django"):
        return nullcontext()
    from datastream_ws_django.heartbeat import beating

    return beating(clients)
