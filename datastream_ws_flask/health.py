"""
Health views for a load balancer or an orchestrator; off unless registered.

::

    from datastream_ws_flask.health import blueprint

    app.register_blueprint(blueprint, url_prefix="/datastream/health")

``live/`` answers 200 while the app's streams are kept by somebody, ``ready/`` while they deliver;
else 503. An autostarted stream is judged by the client of the process that answers, any other by
the health file of ``flask datastream run``. There are no details: anybody may ask.
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
from .streams import AppStream, streams_of

__all__ = ["blueprint"]

log = logging.getLogger("datastream_ws")

blueprint = Blueprint("datastream_health", __name__)


@blueprint.get("/live/")
def live() -> Response:
    """200: each stream was seen lately, and nobody has given it up."""
    return _answer(lambda health, share: health.state not in DEAD)


@blueprint.get("/ready/")
def ready() -> Response:
    """200: each stream is ready, paused, or stands by, and of a fleet enough streams are."""
    return _answer(lambda health, share: is_healthy(health, health.at, share=share))


def _answer(is_well: Callable[[StreamHealth, float], bool]) -> Response:
    """Answer what *is_well* makes of each stream's health and the HEALTHY_SHARE of a fleet."""
    now = time.time()
    try:
        found = _streams(now)
        well = all(
            health and is_fresh(health, now) and is_well(health, share) for health, share in found
        )
    except Exception as error:  # whatever is wrong, an orchestrator is to hear 503
        log.warning("health: %s: %s", type(error).__name__, peer_text(error))
        well = False
    text = "ok\n" if well else "unavailable\n"
    return Response(text, 200 if well else 503, {"Cache-Control": "no-store"}, "text/plain")


def _streams(now: float) -> list[tuple[StreamHealth | None, float]]:
    """Return the health of each enabled stream, and its share; ``None``: no runner has written."""
    streams = [stream for stream in streams_of(current_app).values() if stream.is_enabled]
    written = _written() if any(not stream.is_autostarted for stream in streams) else {}
    return [(_health(stream, written, now), stream.settings.healthy_share) for stream in streams]


def _health(stream: AppStream, written: dict[str, StreamHealth], now: float) -> StreamHealth | None:
    return describe(stream.client, now) if stream.is_autostarted else written.get(stream.name)


def _written() -> dict[str, StreamHealth]:
    path = current_app.config.get(HEALTH_FILE)
    if not path:
        return {}
    try:
        return {health.name: health for health in read_health_file(os.fspath(path))}
    except FileNotFoundError:
        return {}
