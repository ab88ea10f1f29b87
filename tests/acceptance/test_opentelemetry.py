"""Spans around handlers and the figures of streams, recorded by OpenTelemetry's own SDK."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from datastream_ws import Client, Message, Postponed
from datastream_ws.metrics import METRICS, Exported
from datastream_ws.opentelemetry import Rising, instrument
from datastream_ws.testing import StreamServer
from kit.seen import eventually

URL = "wss://api.example.com/stream?token=hunter2"


class Recorded:
    """An SDK that keeps everything in memory."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meter_provider = MeterProvider([self._reader])

    def instrument(self, client: Any, **options: Any) -> None:
        instrument(
            client,
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            **options,
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def metrics(self) -> dict[tuple[Any, ...], Any]:
        """Name and labels to value."""
        data: Any = self._reader.get_metrics_data()
        return {
            (metric.name, *point.attributes.values()): getattr(point, "value", None)
            or getattr(point, "count", 0)  # of a histogram
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    found = Recorded()
    yield found
    found.tracer_provider.shutdown()
    found.meter_provider.shutdown()


def test_a_span_for_each_handler_of_a_message(recorded: Recorded) -> None:
    client = Client(URL, name="prices")
    recorded.instrument(client)
    recorded.instrument(client)
    inner: list[int] = []

    @client.on_message("tick")
    def plain(message: Message) -> None:
        inner.append(trace.get_current_span().get_span_context().span_id)

    @client.on_message
    async def coroutine(message: Message) -> None:
        inner.append(trace.get_current_span().get_span_context().span_id)

    client.deliver({"type": "tick", "secret": "hunter2"})
    first, second = recorded.spans
    assert [span.context.span_id for span in (first, second)] == inner
    assert first.name == "process prices"
    assert first.kind is SpanKind.CONSUMER
    assert first.status.status_code is StatusCode.UNSET
    attributes = dict(first.attributes or {})
    assert attributes.pop("code.function.name").endswith("plain")  # type: ignore[union-attr]
    assert attributes.pop("datastream.epoch") == 0
    assert attributes == {
        "messaging.system": "websocket",
        "messaging.destination.name": "prices",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "network.protocol.name": "websocket",
        "server.address": "api.example.com",
        "server.port": 443,
        "datastream.connection": 0,
        "datastream.seq": 1,
        "datastream.route": "tick",
    }
    assert "hunter2" not in first.to_json() + second.to_json()


def test_a_failure_marks_the_span_and_a_postponed_message_does_not(recorded: Recorded) -> None:
    client = Client(URL)
    recorded.instrument(client)
    raised = iter([ValueError("no"), Postponed(0)])

    @client.on_message
    def handle(message: Message) -> None:
        raise next(raised)

    for error in (ValueError, Postponed):
        with pytest.raises(error):
            client.deliver("x")
    failed, postponed = recorded.spans
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ValueError"
    assert (failed.attributes or {})["error.type"] == "builtins.ValueError"
    assert [event.name for event in failed.events] == ["exception"]
    assert postponed.status.status_code is StatusCode.UNSET
    assert (postponed.attributes or {})["datastream.postponed"] is True


def test_batches_hooks_and_figures_of_a_stream_that_runs(recorded: Recorded) -> None:
    def greet(connection: Any) -> None:
        for number in range(4 - connection.number):
            connection.write(str(number))

    with StreamServer(on_connect=greet) as server:
        client = Client(server.url, name="prices")
        client.on_batch(max_size=3, max_wait=0.3)(lambda messages: None)
        client.on_ready(lambda: None)
        recorded.instrument(client)
        with client:
            eventually(lambda: len(recorded.spans) == 2)
            client.wait_ready(timeout=30)  # a moment after its handler's span has ended
            figures = recorded.metrics()
        received = client.stats().messages_received
        with client:  # counts from 0 again
            eventually(lambda: client.stats().messages_handled == 2)
            again = recorded.metrics()
    spans = {span.name: span for span in recorded.spans[:2]}
    assert spans["on_ready prices"].kind is SpanKind.INTERNAL
    batch = spans["process prices"]
    assert (batch.attributes or {})["messaging.batch.message_count"] == 3
    assert (batch.attributes or {})["datastream.seq"] == 1
    assert received == 3
    assert figures["datastream.messages_received", "prices"] == 3
    assert figures["datastream.received", "prices"] == 3
    assert figures["datastream.state", "prices", "ready"] == 1
    assert figures["datastream.messages_dropped", "prices", "overflow"] == 0
    assert {name for name, *_ in figures} >= {
        f"datastream.{metric.name}"
        for metric in METRICS
        if metric.name not in {"round_trip", "oldest_waiting", "spool_share"}
    }
    assert again["datastream.messages_received", "prices"] == 5


def test_round_trips_are_a_histogram_however_often_it_is_instrumented(recorded: Recorded) -> None:
    with StreamServer() as server:
        client = Client(server.url, name="prices", ping_interval=0.05, pong_timeout=20.0)
        client.on_message(print)
        recorded.instrument(client)
        recorded.instrument(client)
        with client:
            client.wait_ready(timeout=30)
            eventually(lambda: client.stats().round_trip_time is not None)
            client.pause()
            eventually(lambda: client.state.value == "paused")
            found = client.stats().round_trips
            assert found is not None
            assert recorded.metrics()["datastream.round_trips", "prices"] == sum(found.counts)


def test_two_threads_instrument_the_first_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instrument is created once, and each ping is recorded once."""
    client = Client(URL)
    meters: list[str] = []

    class Counting(NoOpMeterProvider):
        def get_meter(self, name: str, *arguments: Any, **more: Any) -> Any:
            meters.append(name)
            return super().get_meter(name, *arguments, **more)

    class Slow(Exported):
        """An object in whose creation a second thread has time to overtake the first."""

        def __init__(self) -> None:
            super().__init__()
            if overtaking.ident is None:
                overtaking.start()
                overtaking.join(0.5)

    options: dict[str, Any] = {"meter_provider": Counting()}
    overtaking = threading.Thread(target=instrument, args=(client,), kwargs=options)
    monkeypatch.setattr("datastream_ws.opentelemetry.Exported", Slow)
    instrument(client, **options)
    overtaking.join(10)
    assert len(meters) == 2, "one for all observable instruments, and one for the histogram"
    assert len(client.handlers.on_round_trip) == 1
    assert len(client.handlers.context_factories) == 1


def test_without_an_sdk_nothing_happens() -> None:
    client = Client(URL)
    seen: list[str | bytes] = []
    instrument(client)
    client.on_message(lambda message: seen.append(message.data))
    client.deliver("x")
    assert seen == ["x"]


def test_counters_never_fall() -> None:
    rising = Rising()
    assert [rising.of(("a",), value) for value in (1, 5, 0, 2, 1)] == [1, 5, 5, 7, 8]
    assert rising.of(("b",), 1) == 1
