"""
Spans around handlers, and the metrics of streams, for OpenTelemetry (extra ``opentelemetry``).

::

    from datastream_ws.opentelemetry import instrument

    instrument(client)                             # or instrument(datastreams["prices"])
    instrument(datastream, flask_app=app)          # a Flask extension

The module needs only the API package. Without an SDK nothing is recorded. A call of a message
handler is a CONSUMER span with the name ``process <stream>``. A call of a hook is an INTERNAL span,
such as ``on_ready <stream>``. A task that the handler publishes belongs to its span.

The attributes follow OpenTelemetry's semantic conventions. Those are stable for ``server.*``,
``network.*``, ``error.type`` and ``code.function.name``, and still in development for
``messaging.*``. All other attributes begin with ``datastream.``. No payload, header or query string
is recorded. The exception of a handler is recorded with its text.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from . import Postponed, __version__
from .embedding import Call, name_of
from .metrics import (
    BOUNDS,
    FIRST_USE,
    METRICS,
    ROUND_TRIPS,
    ROUND_TRIPS_TEXT,
    Exported,
    Metric,
    readings,
)

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as missing:
    raise ImportError(
        "opentelemetry-api is not installed. Run: pip install 'datastream-ws[opentelemetry]'"
    ) from missing

__all__ = ["instrument"]

SCOPE = "datastream_ws"
UNITS = {"seconds": "s", "bytes": "By", "": "1"}

_traced: weakref.WeakSet[Any] = weakref.WeakSet()
_listening: weakref.WeakKeyDictionary[MeterProvider, weakref.WeakSet[Any]] = (
    weakref.WeakKeyDictionary()
)
_watched: weakref.WeakKeyDictionary[MeterProvider, Exported] = weakref.WeakKeyDictionary()


def instrument(
    client: Any,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    flask_app: Any = None,
) -> None:
    """
    Create a span around each call of a handler or hook, and instruments for the metrics.

    Calling it again has no effect. The instruments hold a weak reference to the stream.

    Args:
        client: A Client, an AsyncClient, a Fleet, or a Django or Flask stream.
        tracer_provider: The provider for spans. ``None`` means the global one.
        meter_provider: The provider for metrics. ``None`` means the global one.
        flask_app: The app of a Flask stream. ``None`` for any other stream.

    Raises:
        ConfigurationError: If *client* is something else, or another stream has its name.

    """
    provider = meter_provider or metrics.get_meter_provider()
    with FIRST_USE:
        watched = _watched.get(provider)
        if is_first := watched is None:
            watched = _watched[provider] = Exported()
    if is_first:  # without the lock, because a provider has its own
        _create_instruments(provider, watched)
    watched.add(client, flask_app)
    with FIRST_USE:
        listening = _listening.setdefault(provider, weakref.WeakSet())
        is_silent, is_untraced = client not in listening, client not in _traced
        listening.add(client)
        _traced.add(client)
    if is_silent:
        _record_round_trips(provider, client)
    if is_untraced:
        client.use(Spans(client, trace.get_tracer(SCOPE, __version__, tracer_provider)))


# --- spans -----------------------------------------------------------------------------------


class Spans:
    """A factory for ``use()`` that creates the span of each call."""

    def __init__(self, client: Any, tracer: trace.Tracer) -> None:
        self._client = weakref.ref(client)
        self._tracer = tracer
        self._stream = name_of(client)
        self._server: dict[str, str | int] | None = None

    @contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            f"{call.hook or 'process'} {self._stream}",
            kind=SpanKind.INTERNAL if call.hook else SpanKind.CONSUMER,
            attributes=self._attributes(call),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                _note(span, error)
                raise

    def _attributes(self, call: Call) -> dict[str, str | int]:
        found: dict[str, str | int] = {
            "code.function.name": call.handler.name,
            "messaging.system": "websocket",
            "messaging.destination.name": self._stream,
            "network.protocol.name": "websocket",
            **self._where(),
        }
        if call.hook:
            return found
        first = call.messages[0]
        found |= {
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "datastream.connection": first.connection,
            "datastream.epoch": first.epoch,
            "datastream.seq": first.seq,
        }
        if call.handler.is_batch:
            found["messaging.batch.message_count"] = len(call.messages)
        elif call.handler.route is not None:
            found["datastream.route"] = call.handler.route
        return found

    def _where(self) -> dict[str, str | int]:
        """Return the attributes for host and port. None if the option ``url`` isn't a string."""
        if self._server is None:
            self._server = _server_of(getattr(self._client(), "options", None))
        return self._server


def _server_of(options: Any) -> dict[str, str | int]:
    url = getattr(options, "url", None)
    if not isinstance(url, str):
        return {}
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _note(span: Span, error: BaseException) -> None:
    """Record the exception of a handler. A postponed message isn't a failure."""
    if isinstance(error, Postponed):
        span.set_attribute("datastream.postponed", True)
        return
    kind = type(error)
    span.record_exception(error)
    span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
    span.set_status(Status(StatusCode.ERROR, kind.__name__))


# --- metrics ---------------------------------------------------------------------------------


def _create_instruments(provider: MeterProvider, watched: Exported) -> None:
    """Create the instruments of a provider, which accepts each name only once."""
    meter = provider.get_meter(SCOPE, __version__)
    for metric in METRICS:
        create = meter.create_observable_gauge
        if metric.is_counter:
            create = meter.create_observable_counter  # type: ignore[assignment]
        name = f"datastream.{metric.name}"
        create(name, [_callback(metric, watched)], UNITS[metric.unit], metric.text)


def _record_round_trips(provider: MeterProvider, client: Any) -> None:
    """Record each ping of *client*, because histograms have no callbacks."""
    meter = provider.get_meter(SCOPE, __version__)
    create = functools.partial(
        meter.create_histogram, f"datastream.{ROUND_TRIPS}", "s", ROUND_TRIPS_TEXT
    )
    try:
        histogram = create(explicit_bucket_boundaries_advisory=BOUNDS)
    except TypeError:  # an older version of the API
        histogram = create()
    labels = {"stream": name_of(client)}
    client.handlers.on_round_trip.append(lambda seconds: histogram.record(seconds, labels))


def _callback(metric: Metric, watched: Exported) -> Callable[[CallbackOptions], Any]:
    rising = Rising()

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for reading in watched.read():
            for labels, value in readings(metric, reading):
                shown = rising.of(tuple(labels.values()), value) if metric.is_counter else value
                yield Observation(shown, labels)

    return observe


class Rising:
    """Counters that never fall, although a stream's counters restart at 0 with ``start()``."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], float] = {}
        self._before: dict[tuple[str, ...], float] = {}

    def of(self, series: tuple[str, ...], value: float) -> float:
        """Return *value* plus the counts of earlier starts."""
        last = self._last.get(series, 0)
        if value < last:
            self._before[series] = self._before.get(series, 0) + last
        self._last[series] = value
        return self._before.get(series, 0) + value
