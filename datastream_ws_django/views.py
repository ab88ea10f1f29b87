"""
Health checks that respond with 200 or 503. Only staff see details of the streams.

``live`` succeeds if a process runs each stream. ``ready`` succeeds if a process reports each stream
as READY, STANDBY or PAUSED. Without a database they respond with 503 also, and not with 500.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from datastream_ws.embedding import peer_text

from .db import non_atomic
from .health import StreamReport, report, report_here
from .streams import datastreams

__all__ = ["live", "ready"]

log = logging.getLogger("datastream_ws")


@non_atomic
@never_cache
@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Respond with 503 if no process runs a stream, or if the stream has given up."""
    return answer(request, lambda stream: stream.is_live)


@non_atomic
@never_cache
@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Respond with 503 while a stream is not healthy."""
    return answer(request, lambda stream: stream.is_healthy)


def answer(request: HttpRequest, is_well: Callable[[StreamReport], bool]) -> JsonResponse:
    try:
        shown = may_see(request)
        streams = reports(details=shown)
    except Exception as error:  # without a database there is no report
        log.warning("health: %s: %s", type(error).__name__, peer_text(error))
        return JsonResponse({"status": "unknown"}, status=503)
    well = all(is_well(stream) for stream in streams)
    body: dict[str, object] = {"status": "ok" if well else "unhealthy"}
    if shown:
        body["streams"] = [asdict(stream) for stream in streams]
    return JsonResponse(body, status=200 if well else 503)


def reports(*, details: bool) -> list[StreamReport]:
    enabled = datastreams.enabled
    here = {s.alias: report_here(s.alias) for s in enabled if s.settings.autostart}
    elsewhere = [stream.alias for stream in enabled if stream.alias not in here]
    there = {found.stream: found for found in report(elsewhere, details=details)}
    return [(here | there)[stream.alias] for stream in enabled]


def may_see(request: HttpRequest) -> bool:
    """Return whether the user may see details. Works without authentication, too."""
    user = getattr(request, "user", None)
    return bool(user and user.is_staff and user.has_perm("datastream.view_streamstatus"))
