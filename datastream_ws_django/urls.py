"""The health views, for ``path("datastream/", include("datastream_ws_django.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "datastream"

urlpatterns = [
    path("health/live/", views.live, name="live"),
    path("health/ready/", views.ready, name="ready"),
]
