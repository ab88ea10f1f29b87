"""Prometheus and OpenTelemetry with the streams of Django and Flask."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
from typing import Any

import pytest
from django.test import override_settings
from flask import Flask
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from datastream_ws import ConfigurationError
from datastream_ws.opentelemetry import instrument
from datastream_ws.prometheus import expose
from datastream_ws_django import datastreams
from datastream_ws_django.testing import deliver
from datastream_ws_flask import DataStream

URL = "ws://127.0.0.1:1/"
FIGURE = "datastream_state"


def value(registry: CollectorRegistry, stream: str, state: str) -> float | None:
    return registry.get_sample_value(FIGURE, {"stream": stream, "state": state})


@pytest.fixture
def spans() -> Any:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def test_a_stream_of_django_s(spans: Any) -> None:
    provider, exporter = spans
    registry = CollectorRegistry()
    stream = datastreams["observed"]
    expose(stream, registry)  # reads no settings: it may stand in datastreams.py
    instrument(stream, tracer_provider=provider)
    stream.on_message(lambda message: None)
    with override_settings(DATASTREAMS={"observed": {"URL": URL, "DEAD_LETTER_DAYS": 0}}):
        assert value(registry, "observed", "idle") == 1
        deliver("observed", "x")
    [span] = exporter.get_finished_spans()
    assert span.name == "process observed"
    assert span.attributes["server.port"] == 1


def test_wrong_settings_cost_one_stream_s_figures(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    expose(datastreams["broken"], registry)
    expose(datastreams["right"], registry)
    settings = {"broken": {"URL": "nonsense"}, "right": {"URL": URL}}
    with override_settings(DATASTREAMS=settings):
        assert value(registry, "right", "idle") == 1
        assert value(registry, "broken", "idle") is None
    assert "stream broken: the metrics cannot be read" in caplog.text


def test_a_stream_of_flask_s(spans: Any) -> None:
    provider, exporter = spans
    registry = CollectorRegistry()
    app = Flask("shop")
    app.config["DATASTREAM_URL"] = URL
    stream = DataStream(app)
    stream.on_message(lambda message: None)
    with pytest.raises(ConfigurationError, match="requires its app"):
        expose(stream, registry)
    expose(stream, registry, flask_app=app)
    instrument(stream, tracer_provider=provider, flask_app=app)
    assert value(registry, "default", "idle") == 1
    stream.deliver(app, "x")
    assert [span.name for span in exporter.get_finished_spans()] == ["process default"]
