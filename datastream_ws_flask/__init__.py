"""
The Flask extension: a WebSocket stream inside an app.

::

    datastream = DataStream()

    @datastream.on_message("flag_update")
    def update(message):            # in an application context of its own
        db.session.merge(Flag(**message.json()))
        db.session.commit()

    def create_app():
        app = Flask(__name__)
        app.config["DATASTREAM_URL"] = "wss://api.example.com/stream"
        datastream.init_app(app)
        return app

``flask datastream run`` runs it in a process of its own; ``DATASTREAM_AUTOSTART = True`` in
every serving process. Signals are in :mod:`datastream_ws_flask.signals`, health views for a load
balancer in :mod:`datastream_ws_flask.health`.
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
