"""
AUTOSTART: a background client in each serving process, started by the first request it handles.

Nothing else says so surely that a process serves: management commands, the reloader's parent and
gunicorn's master with ``--preload`` never handle a request.
"""

from __future__ import annotations

import logging
from typing import Any

from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started

from datastream_ws.embedding import about, fields, said

from .streams import datastreams

__all__ = ["on_request_started"]

log = logging.getLogger("datastream_ws")


def on_request_started(sender: Any, **kwargs: Any) -> None:
    """Start the streams that want it; a receiver of ``request_started``."""
    if is_test(sender):
        return
    request_started.disconnect(dispatch_uid="datastream_ws_django")
    try:
        aliases = list(datastreams)
    except ImproperlyConfigured as error:  # the request is not to blame, nor is any below
        log.error("AUTOSTART: %s", error)
        return
    for alias in aliases:
        start(alias)


def start(alias: str) -> None:
    """Start a stream if it wants it; what is wrong with it is logged, and others start."""
    stream = datastreams[alias]
    try:
        if stream.settings.autostart and stream.settings.enabled:
            stream.start()
    except ImproperlyConfigured as error:
        log.error("AUTOSTART: %s", error, extra=fields(alias))
    except Exception as error:  # of a spool, of a lease, of what a dotted path imports
        text = "AUTOSTART: stream %s is not started: %s"
        log.exception(text, alias, said(error), extra=fields(alias, **about(error)))


def is_test(sender: Any) -> bool:
    """Whether the test client asks, or a live server under Django's test environment."""
    module = str(getattr(sender, "__module__", ""))
    return module.startswith("django.test") or hasattr(mail, "outbox")
