"""The app, which imports the ``datastreams.py`` of every installed app and starts no stream."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.signals import request_started, setting_changed
from django.utils.module_loading import autodiscover_modules

__all__ = ["DatastreamConfig"]


class DatastreamConfig(AppConfig):
    """The app with the label ``datastream``."""

    name = "datastream_ws_django"
    label = "datastream"
    verbose_name = "Data streams"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers them
        from .autostart import on_request_started
        from .conf import streams_settings
        from .deadletters import keep_failures_of
        from .streams import datastreams

        setting_changed.connect(streams_settings.reset, dispatch_uid="datastream_ws_django")
        request_started.connect(on_request_started, dispatch_uid="datastream_ws_django")
        datastreams.for_each(keep_failures_of)
        autodiscover_modules("datastreams")
