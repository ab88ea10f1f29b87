"""
WebSocket streams in a Django project: settings, handlers, commands, admin.

::

    from datastream_ws_django import datastream, datastreams

    @datastream.on_message("flag_update")
    def update(message):
        Flag.objects.update_or_create(...)

``datastreams[alias]`` is the stream that ``DATASTREAMS`` configures under this alias.
``datastream`` is ``datastreams["default"]``.
"""

from __future__ import annotations

try:
    import django as _  # noqa: F401
except ImportError as missing:
    raise ImportError(
        "django is not installed. Run: pip install 'datastream-ws[django]'"
    ) from missing

from .streams import Stream, datastream, datastreams

__all__ = ["Stream", "datastream", "datastreams"]
