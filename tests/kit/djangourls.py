"""The URLs of ``kit.djangohere``."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("datastream/", include("datastream_ws_django.urls")),
]
