"""The URLs of the shop, its admin and the health views."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from example_project.shop import views

admin.site.site_header = admin.site.site_title = "The shop"

urlpatterns = [
    path("", views.index, name="index"),
    path("live/", views.live, name="live"),
    path("admin/", admin.site.urls),
    path("datastream/", include("datastream_ws_django.urls")),
]
