"""Admin, health, and a view that says what the stream of this process is."""

import os
from collections.abc import Callable

from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import include, path

from datastream_ws_django import datastream


def strict(answer: Callable[[HttpRequest], HttpResponseBase]) -> object:
    """Forbid inline scripts and styles, as careful sites do."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        response = answer(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    return respond


def state(request: HttpRequest) -> JsonResponse:
    """Answer with this process and its stream's state."""
    return JsonResponse({"pid": os.getpid(), "state": datastream.state.value})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("datastream/", include("datastream_ws_django.urls")),
    path("state/", state),
]
