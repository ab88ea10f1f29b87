"""
A Flask app that shows the flags of the same feed: ``flask --app example_project.kiosk run``.

Each process that serves has its own client, and keeps the flags in memory without a database.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, current_app, render_template

from datastream_ws.schematic import (
    DataStreamRequest,
    DataStreamResponse,
    EntityType,
    stream_headers,
    stream_url,
)
from datastream_ws_flask import DataStream
from datastream_ws_flask.health import blueprint as health

datastream = DataStream()


@datastream.on_ready
def subscribe() -> None:
    """Request all flags on every connection."""
    datastream.send(DataStreamRequest(EntityType.FLAGS).to_json())


@datastream.on_message(EntityType.FLAGS)
def all_flags(message: Any) -> None:
    flags = DataStreamResponse.from_json(message.json()).data
    current_app.config["FLAGS"] = {flag["key"]: flag["default_value"] for flag in flags}


@datastream.on_message(EntityType.FLAG)
def one_flag(message: Any) -> None:
    flag = DataStreamResponse.from_json(message.json()).data
    current_app.config["FLAGS"] |= {flag["key"]: flag["default_value"]}


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.update(
        DATASTREAM_URL=stream_url(os.environ.get("FEED_URL", "http://127.0.0.1:9000")),
        DATASTREAM_HEADERS=stream_headers(os.environ.get("FEED_KEY", "demo-key")),
        DATASTREAM_ROUTE="entity_type",
        DATASTREAM_PROXY=None,
        DATASTREAM_MIN_RECONNECT_DELAY=0.4,
        DATASTREAM_MAX_RECONNECT_DELAY=2.0,
        DATASTREAM_STABLE_AFTER=1.0,
        DATASTREAM_AUTOSTART=True,  # at the first request in each process
        FLAGS={},
    )
    datastream.init_app(app)
    app.register_blueprint(health, url_prefix="/health")
    app.add_url_rule("/", view_func=board)
    app.add_url_rule("/stats.json", view_func=stats)
    return app


def board() -> str:
    client = datastream.client
    return render_template("kiosk.html", flags=current_app.config["FLAGS"], state=client.state)


def stats() -> dict[str, int]:
    """Return the counters of this process's client."""
    counted = datastream.client.stats()
    return {
        "received": counted.messages_received,
        "handled": counted.messages_handled,
        "failed": counted.messages_failed,
        "reconnects": counted.reconnects,
    }
