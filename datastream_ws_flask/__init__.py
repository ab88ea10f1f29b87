"""
A Flask extension for WebSocket streams.

::

    datastream = DataStream()

    @datastream.on_message("flag_update")
    def update(message):            # runs in its own application context
        db.session.merge(Flag(**message.json()))
        db.session.commit()

    def create_app():
        app = Flask(__name__)
        app.config["DATASTREAM_URL"] = "wss://api.example.com/stream"
        datastream.init_app(app)
        return app

``flask datastream run`` runs the stream in a separate process. ``DATASTREAM_AUTOSTART = True`` runs
it in every process that serves requests. Signals are in :mod:`datastream_ws_flask.signals`, and
health views are in :mod:`datastream_ws_flask.health`.
"""

from __future__ import annotations

try:
    import flask as _  # noqa: F401
except ImportError as missing:
    raise ImportError(
        "flask is not installed. Run: pip install 'datastream-ws[flask]'"
    ) from missing

from .extension import DataStream

__all__ = ["DataStream"]
