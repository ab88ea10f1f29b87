"""
Spans around handlers, and the figures of streams, for OpenTelemetry (extra ``opentelemetry``).

::

    from datastream_ws.opentelemetry import instrument

    instrument(client)                             # or instrument(datastreams["prices"])
    instrument(datastream, flask_app=app)          # an extension of Flask's

Only the API package is needed; without an SDK nothing is recorded. A handler of messages is a
CONSUMER span ``process <stream>``, a hook an INTERNAL one ``on_ready <stream>``, …. What the
handler does, a task published with ``forward`` included, belongs to its span.

Names of attributes: OpenTelemetry's semantic conventions, which are stable for ``server.*``,
``network.*``, ``error.type`` and ``code.function.name``, and still in development for
``messaging.*``; the rest begins with ``datastream.``. No payload, header or query string is shown.
The exception of a handler is recorded with its text.
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
from .metrics import BOUNDS, METRICS, ROUND_TRIPS, ROUND_TRIPS_TEXT, Exported, Metric, readings

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as missing:
    raise ImportError(
        "opentelemetry-api is not installed: pip install 'datastream-ws[opentelemetry]'"
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
    Create a span around each call of a handler, and instruments of the metrics of ``stats()``.

    Calling it again has no effect. Instruments hold the stream weakly.

    Args:
        client: A Client, an AsyncClient, or a stream of Django's or Flask's.
        tracer_provider, meter_provider: ``None`` means the global ones.
        flask_app: The app, of a Flask stream.

    Raises:
        ConfigurationError: If it is none of these, or another one there has its name.

    """
    provider = meter_provider or metrics.get_meter_provider()
    watched = _watched.get(provider)
    if watched is None:
        watched = _watched[provider] = Exported()
        _create_instruments(provider, watched)
    watched.add(client, flask_app)
    _record_round_trips(provider, client)
    if client not in _traced:
        _traced.add(client)
        client.use(Spans(client, trace.get_tracer(SCOPE, __version__, tracer_provider)))


# --- spans -----------------------------------------------------------------------------------


class Spans:
    """Makes the span of each call; a factory for ``use()``."""

    def __init__(self, client: Any, tracer: trace.Tracer) -> None:
        self._client = weakref.ref(client)
        self._tracer = tracer
        self._stream = name_of(client)
        self._server: dict[str, str | int] | None = None

    def __call__(self, call: Call) -> Any:
        return self._span(call)

    @contextmanager
    def _span(self, call: Call) -> Iterator[None]:
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
        """Return host and port; nothing where the URL comes from a callable."""
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
    """Say how a handler ended; one that postponed its message has not failed."""
    if isinstance(error, Postponed):
        span.set_attribute("datastream.postponed", True)
        return
    kind = type(error)
    span.record_exception(error)
    span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
    span.set_status(Status(StatusCode.ERROR, kind.__name__))


# --- figures ---------------------------------------------------------------------------------


def _create_instruments(provider: MeterProvider, watched: Exported) -> None:
    """Create each instrument once for a provider: a second of its name would be refused."""
    meter = provider.get_meter(SCOPE, __version__)
    for metric in METRICS:
        create = meter.create_observable_gauge
        if metric.is_counter:
            create = meter.create_observable_counter  # type: ignore[assignment]
        name = f"datastream.{metric.name}"
        create(name, [_callback(metric, watched)], UNITS[metric.unit], metric.text)


def _record_round_trips(provider: MeterProvider, client: Any) -> None:
    """Record each ping of *client*, once for a provider; a histogram cannot be observed."""
    listening = _listening.setdefault(provider, weakref.WeakSet())
    if client in listening:
        return
    listening.add(client)
    meter = provider.get_meter(SCOPE, __version__)
    create = functools.partial(
        meter.create_histogram, f"datastream.{ROUND_TRIPS}", "s", ROUND_TRIPS_TEXT
    )
    try:
        histogram = create(explicit_bucket_boundaries_advisory=BOUNDS)
    except TypeError:  # an API older than this argument
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
    """Counters that never fall, though those of a stream start at zero with each ``start()``."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], float] = {}
        self._before: dict[tuple[str, ...], float] = {}

    def of(self, series: tuple[str, ...], value: float) -> float:
        """Return *value* plus what earlier starts had reached."""
        last = self._last.get(series, 0)
        if value < last:
            self._before[series] = self._before.get(series, 0) + last
        self._last[series] = value
        return self._before.get(series, 0) + value
