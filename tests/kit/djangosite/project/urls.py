"""The admin, the health views, and a view with the state of this process's stream."""

import os
from collections.abc import Callable

from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import include, path

from datastream_ws_django import datastream


def strict(answer: Callable[[HttpRequest], HttpResponseBase]) -> object:
    """Forbid inline scripts and styles. This is a middleware."""

    def respond(request: HttpRequest) -> HttpResponseBase:
        response = answer(request)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    return respond


def state(request: HttpRequest) -> JsonResponse:
    """Return the id of this process, and the state of its stream."""
    return JsonResponse({"pid": os.getpid(), "state": datastream.state.value})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("datastream/", include("datastream_ws_django.urls")),
    path("state/", state),
]
