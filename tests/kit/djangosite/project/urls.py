"""Admin, health, and a view that says what the stream of this process is."""

import os

from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from datastream_ws_django import datastream


def state(request: HttpRequest) -> JsonResponse:
    """Answer with this process and its stream's state."""
    return JsonResponse({"pid": os.getpid(), "state": datastream.state.value})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("datastream/", include("datastream_ws_django.urls")),
    path("state/", state),
]
