"""
AUTOSTART, which starts streams in each process that serves requests, at its first request.

A request is the only reliable sign of such a process. Management commands, the reloader's parent
and the master of ``gunicorn --preload`` never handle one.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started

from datastream_ws.embedding import about, fields, said

from .migrated import warn
from .streams import datastreams

__all__ = ["on_request_started"]

log = logging.getLogger("datastream_ws")


def on_request_started(sender: Any, **kwargs: Any) -> None:
    """Start the streams with AUTOSTART. This is a receiver of ``request_started``."""
    if is_test(sender):
        return
    request_started.disconnect(dispatch_uid="datastream_ws_django")
    try:
        aliases = list(datastreams)
    except ImproperlyConfigured as error:  # it must not fail the request
        log.error("AUTOSTART: %s", error)
        return
    if any([start(alias) for alias in aliases]):  # all of them, not up to the first one
        # The database may hang, and the request must not.
        threading.Thread(target=warn, name="datastream-migrations", daemon=True).start()


def start(alias: str) -> bool:
    """Start a stream that has AUTOSTART. A failure is logged, so that other streams still start."""
    stream = datastreams[alias]
    try:
        if stream.settings.autostart and stream.settings.enabled:
            stream.start()
            return True
    except ImproperlyConfigured as error:
        log.error("AUTOSTART: %s", error, extra=fields(alias))
    except Exception as error:  # from a spool, a lease or an imported module
        text = "AUTOSTART: stream %s is not started: %s"
        log.exception(text, alias, said(error), extra=fields(alias, **about(error)))
    return False


def is_test(sender: Any) -> bool:
    """Return whether the request comes from a test client or a live server test."""
    module = str(getattr(sender, "__module__", ""))
    return module.startswith("django.test") or hasattr(mail, "outbox")
