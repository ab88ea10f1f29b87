"""
Health for orchestrators: 200 or 503, and nothing else for those who are not staff.

``live``: some process runs each stream. ``ready``: some process has it READY, STANDBY or PAUSED.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .health import StreamReport, report_here, report_on
from .streams import Stream, datastreams

__all__ = ["live", "ready"]

log = logging.getLogger("datastream_ws")


@never_cache
@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """503 when no process runs a stream, or it has given up: start one anew."""
    return answer(request, lambda stream: stream.is_live)


@never_cache
@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """503 while a stream does not bring messages."""
    return answer(request, lambda stream: stream.is_healthy)


def answer(request: HttpRequest, is_well: Callable[[StreamReport], bool]) -> JsonResponse:
    try:
        streams = [of(stream) for stream in datastreams.enabled]
    except Exception as error:  # no database, no health
        log.warning("health: %s: %s", type(error).__name__, error)
        return JsonResponse({"status": "unknown"}, status=503)
    well = all(is_well(stream) for stream in streams)
    body: dict[str, object] = {"status": "ok" if well else "unhealthy"}
    if may_see(request):
        body["streams"] = [asdict(stream) for stream in streams]
    return JsonResponse(body, status=200 if well else 503)


def of(stream: Stream) -> StreamReport:
    return report_here(stream.alias) if stream.settings.autostart else report_on(stream.alias)


def may_see(request: HttpRequest) -> bool:
    """Whether details are for this user; also where there is no authentication at all."""
    user = getattr(request, "user", None)
    return bool(user and user.is_staff and user.has_perm("datastream.view_streamstatus"))
