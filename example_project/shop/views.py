"""The page, and its data, which the page requests twice a second."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from datastream_ws_django.models import StreamStatus

from .history import events, gaps
from .models import CANDLE_SECONDS, Candle, Flag

SHOWN_SECONDS = 120


def index(request: HttpRequest) -> HttpResponse:
    context = {"seconds": SHOWN_SECONDS, "candle": CANDLE_SECONDS}
    return render(request, "shop/index.html", context)


@never_cache
def live(request: HttpRequest) -> JsonResponse:
    now = timezone.now()
    since = now - timedelta(seconds=SHOWN_SECONDS)
    return JsonResponse(
        {
            "now": now.timestamp(),
            "streams": [state(name) for name in ("flags", "prices")],
            "flags": [plain(flag) for flag in Flag.objects.values("key", "is_on", "changed_at")],
            "candles": [
                plain(candle) for candle in Candle.objects.filter(start__gte=since).values()
            ],
            "events": [plain(event) for event in events().filter(at__gte=since).values()],
            "gaps": [
                {"began": gap.began.timestamp(), "ended": gap.ended.timestamp()}
                for gap in gaps("prices", since)
            ],
        }
    )


def state(stream: str) -> dict[str, Any]:
    """Return the state of a stream in the process that holds it."""
    rows = StreamStatus.objects.filter(stream=stream).exclude(state="standby")
    row = rows.order_by("-beat_at").first()
    if row is None:
        return {"name": stream, "state": "starting", "reconnects": 0}
    return {"name": stream, "state": row.state, "reconnects": row.reconnects}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for JSON, with times in UNIX seconds."""
    return {k: v.timestamp() if isinstance(v, datetime) else v for k, v in row.items()}
