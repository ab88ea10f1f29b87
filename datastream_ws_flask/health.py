"""
Health views for a load balancer or an orchestrator. You have to register them.

::

    from datastream_ws_flask.health import blueprint

    app.register_blueprint(blueprint, url_prefix="/datastream/health")

``live/`` returns 200 while a process runs the app's streams and none of them has failed. ``ready/``
returns 200 while all streams are ready, paused or in standby. Otherwise the views return 503. For a
stream with ``AUTOSTART``, the views use the client of the process that serves the request. For any
other stream, they use the health file of ``flask datastream run``. The responses contain no
details, because the views are public.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from flask import Blueprint, Response, current_app

from datastream_ws.embedding import (
    DEAD,
    StreamHealth,
    describe,
    is_fresh,
    is_healthy,
    peer_text,
    read_health_file,
)

from .settings import HEALTH_FILE
from .streams import streams_of

__all__ = ["blueprint", "written_health"]

log = logging.getLogger("datastream_ws")

blueprint = Blueprint("datastream_health", __name__)


@blueprint.get("/live/")
def live() -> Response:
    """Return 200 if each stream has a recent report and hasn't failed."""
    return _answer(lambda health, share: health.state not in DEAD)


@blueprint.get("/ready/")
def ready() -> Response:
    """Return 200 if each stream is ready, paused or in standby, and so are enough of a fleet."""
    return _answer(lambda health, share: is_healthy(health, health.at, share=share))


def _answer(is_well: Callable[[StreamHealth, float], bool]) -> Response:
    """Return 200 if *is_well* is true for each stream's health and HEALTHY_SHARE."""
    now = time.time()
    try:
        found = _streams(now)
        well = all(
            health and is_fresh(health, now) and is_well(health, share) for health, share in found
        )
    except Exception as error:  # the orchestrator must get 503 for any error
        log.warning(
            "the health check failed: %s: %s; returning 503",
            type(error).__name__,
            peer_text(error),
        )
        well = False
    text = "ok\n" if well else "unavailable\n"
    return Response(text, 200 if well else 503, {"Cache-Control": "no-store"}, "text/plain")


def _streams(now: float) -> list[tuple[StreamHealth | None, float]]:
    """Return the health and the share of each enabled stream. ``None`` if there is no report."""
    streams = [stream for stream in streams_of(current_app).values() if stream.is_enabled]
    path = current_app.config.get(HEALTH_FILE)
    is_needed = any(not stream.is_autostarted for stream in streams)
    written = written_health(path) if path and is_needed else {}
    return [
        (
            describe(stream.client, now) if stream.is_autostarted else written.get(stream.name),
            stream.settings.healthy_share,
        )
        for stream in streams
    ]


def written_health(path: str) -> dict[str, StreamHealth]:
    """
    Return the entries of a health file by stream. A file that is not written yet has none.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it isn't a health file.

    """
    try:
        return {health.name: health for health in read_health_file(os.fspath(path))}
    except FileNotFoundError:
        return {}
