"""
The metrics of streams, for :mod:`datastream_ws.prometheus` and :mod:`datastream_ws.opentelemetry`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .embedding import check_stream, client_of, fields, in_child, name_of
from .events import State
from .exceptions import ConfigurationError
from .stats import BOUNDS, Stats

__all__ = [
    "BOUNDS",
    "FIRST_USE",
    "METRICS",
    "ROUND_TRIPS",
    "ROUND_TRIPS_TEXT",
    "Exported",
    "Metric",
    "Reading",
    "readings",
]

log = logging.getLogger("datastream_ws")

CAUSES = ("overflow", "conflated", "shutdown", "lease_lost", "spool", "untaken")


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric of a stream.

    Attributes:
        name: The name in snake case, without a prefix.
        text: The description.
        read: A function that returns the value, or ``None`` if there is no value now. For a metric
            with a label it returns a mapping from the label's value to the metric's value.
        is_counter: Whether it only rises, until the stream is started again.
        unit: ``"seconds"``, ``"bytes"``, or empty for a number of things.
        label: The label that distinguishes the series. It's empty if there is only one series.

    """

    name: str
    text: str
    read: Callable[[Reading], float | Mapping[str, float] | None]
    is_counter: bool = False
    unit: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A stream at one moment."""

    stream: str
    state: State
    stats: Stats


def _counter(name: str, text: str, field: str, unit: str = "") -> Metric:
    return Metric(name, text, lambda r: getattr(r.stats, field), is_counter=True, unit=unit)


def _gauge(name: str, text: str, field: str, unit: str = "") -> Metric:
    return Metric(name, text, lambda r: getattr(r.stats, field), unit=unit)


def _dropped(reading: Reading) -> Mapping[str, float]:
    return dict.fromkeys(CAUSES, 0) | dict(reading.stats.messages_dropped)


def _states(reading: Reading) -> Mapping[str, float]:
    return {state.value: float(state is reading.state) for state in State}


def _of_handlers(field: str) -> Callable[[Reading], Mapping[str, float]]:
    def read(reading: Reading) -> Mapping[str, float]:
        found = ((name, getattr(each, field)) for name, each in reading.stats.handlers.items())
        return {name: value for name, value in found if value is not None}

    return read


def _handler_counter(name: str, text: str, field: str) -> Metric:
    return Metric(name, text, _of_handlers(field), is_counter=True, label="handler")


def _handler_gauge(name: str, text: str, field: str) -> Metric:
    return Metric(name, text, _of_handlers(field), unit="seconds", label="handler")


METRICS = (
    _counter("messages_received", "Messages received.", "messages_received"),
    _counter("messages_handled", "Messages handled.", "messages_handled"),
    _counter("messages_failed", "Messages whose handler failed.", "messages_failed"),
    _counter("messages_unrouted", "Messages that no handler took.", "messages_unrouted"),
    Metric("messages_dropped", "Messages dropped.", _dropped, is_counter=True, label="cause"),
    _gauge("messages_waiting", "Messages waiting for handlers, in memory.", "messages_waiting"),
    _gauge("messages_spooled", "Messages waiting in the spool file only.", "messages_spooled"),
    _counter("messages_sent", "Messages sent.", "messages_sent"),
    _counter("received", "Payload received.", "bytes_received", "bytes"),
    _counter("sent", "Payload sent.", "bytes_sent", "bytes"),
    _counter("connections", "Connections that were open.", "connections"),
    _counter("reconnects", "Connections after the first.", "reconnects"),
    _counter("attempts", "Attempts to connect.", "attempts"),
    _counter("blocked", "Time without reading: full inbox.", "blocked_seconds", "seconds"),
    _counter("errors_dropped", "Errors that were not read in time.", "errors_dropped"),
    _counter("reports_dropped", "Reports dropped behind a slow one.", "reports_dropped"),
    _gauge("oldest_waiting", "Age of the oldest waiting message.", "oldest_waiting", "seconds"),
    _gauge("round_trip", "Round trip of the last ping.", "round_trip_time", "seconds"),
    _gauge("connected_since_timestamp", "UNIX time.", "connected_since", "seconds"),
    _gauge("last_message_timestamp", "UNIX time.", "last_message_at", "seconds"),
    _gauge("inbox_share", "How full the inbox is, from 0 to 1.", "inbox_share"),
    _gauge("spool_share", "How full the spool is, from 0 to 1.", "spool_share"),
    _handler_counter("handler_calls", "Calls of a handler.", "calls"),
    _handler_counter("handler_failures", "Calls of a handler that failed.", "failures"),
    _handler_gauge("handler_p50", "Time that half of the recent calls did not exceed.", "p50"),
    _handler_gauge("handler_p95", "Time that 95 % of the recent calls did not exceed.", "p95"),
    _handler_gauge("handler_max", "Time of the longest call.", "max"),
    Metric("state", "1 for the state the stream is in.", _states, label="state"),
)


ROUND_TRIPS = "round_trips"  # not in METRICS, because each library has its own histograms
ROUND_TRIPS_TEXT = "Round trips of pings."


def readings(metric: Metric, reading: Reading) -> Iterator[tuple[dict[str, str], float]]:
    """Yield the labels and the value of each series of *metric* in *reading*."""
    value = metric.read(reading)
    if isinstance(value, Mapping):
        for label, each in value.items():
            yield {"stream": reading.stream, metric.label: label}, each
    elif value is not None:
        yield {"stream": reading.stream}, value


class FirstUse:
    """
    A lock for steps of threads that may be the first to export a stream.

    A forked child gets a new one, because a thread of the parent may hold it.
    """

    def __init__(self) -> None:
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


FIRST_USE = FirstUse()


class Exported:
    """
    The streams whose metrics are exported. It holds weak references to them.

    A Django or Flask stream is resolved when it's read, in the process that reads.
    """

    def __init__(self) -> None:
        self._sources: tuple[tuple[weakref.ref[Any], Any], ...] = ()

    def add(self, given: Any, flask_app: Any = None) -> None:
        """
        Export a stream. Calling it again has no effect.

        Args:
            given: A Client, an AsyncClient, a Fleet, or a Django or Flask stream.
            flask_app: The app of a Flask stream. ``None`` for any other stream.

        Raises:
            ConfigurationError: If *given* is something else, or another stream has its name.

        """
        check_stream(given, flask_app, "metrics")
        with FIRST_USE:
            self._add(given, flask_app)

    def _add(self, given: Any, flask_app: Any) -> None:
        alive = [(ref, app) for ref, app in self._sources if ref() is not None]
        for ref, app in alive:
            other = ref()
            if other is given and app is flask_app:
                return
            if other is not None and name_of(other) == name_of(given):
                raise ConfigurationError(
                    f"two streams have the name {name_of(given)!r}, so their metrics would be "
                    "mixed. Set another name, Client(…, name=…)."
                )
        self._sources = (*alive, (weakref.ref(given), flask_app))

    def read(self) -> list[Reading]:
        """Return a reading of each stream. One that can't be read is logged and left out."""
        found = ((ref(), app) for ref, app in self._sources)
        read = (_read(given, app) for given, app in found if given is not None)
        return [reading for reading in read if reading is not None]


def _read(given: Any, flask_app: Any) -> Reading | None:
    try:
        client = client_of(given, flask_app)
        return Reading(name_of(given), client.state, client.stats())
    except Exception as error:  # for example invalid settings; the other streams are exported
        name = name_of(given)
        log.warning("stream %s: the metrics cannot be read: %s", name, error, extra=fields(name))
        return None
