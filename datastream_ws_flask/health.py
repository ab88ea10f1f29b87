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

import time
from collections.abc import Callable

from flask import Blueprint, Response, current_app

from datastream_ws import ConfigurationError, State
from datastream_ws.health import StreamHealth, describe, is_healthy, read_health_file

from .settings import HEALTH_FILE, MAX_AGE
from .streams import AppStream, streams_of

__all__ = ["blueprint"]

blueprint = Blueprint("datastream_health", __name__)

DEAD = {state.value for state in State if state.is_final}


@blueprint.get("/live/")
def live() -> Response:
    """200: each stream was seen lately, and nobody has given it up."""
    return _answer(lambda health: health.state not in DEAD)


@blueprint.get("/ready/")
def ready() -> Response:
    """200: each stream is ready, paused, or stands by."""
    return _answer(lambda health: is_healthy(health, health.at, MAX_AGE))


def _answer(is_well: Callable[[StreamHealth], bool]) -> Response:
    now = time.time()
    well = all(
        health is not None and now - health.at <= MAX_AGE and is_well(health)
        for health in _streams(now)
    )
    text = "ok\n" if well else "unavailable\n"
    return Response(text, 200 if well else 503, {"Cache-Control": "no-store"}, "text/plain")


def _streams(now: float) -> list[StreamHealth | None]:
    """Return the health of each enabled stream; ``None``: unknown."""
    try:
        streams = [s for s in streams_of(current_app).values() if s.is_enabled]
        written = _written() if any(not s.is_autostarted for s in streams) else {}
        return [_health(stream, written, now) for stream in streams]
    except ConfigurationError:
        return [None]


def _health(stream: AppStream, written: dict[str, StreamHealth], now: float) -> StreamHealth | None:
    return describe(stream.client, now) if stream.is_autostarted else written.get(stream.name)


def _written() -> dict[str, StreamHealth]:
    try:
        found = read_health_file(current_app.config[HEALTH_FILE])
    except (KeyError, OSError, ValueError):
        return {}
    return {health.name: health for health in found}
