"""
The metrics of streams for Prometheus (extra ``prometheus``).

::

    from prometheus_client import start_http_server

    from datastream_ws.prometheus import expose

    expose(client)                                 # or expose(datastreams["prices"]) in Django
    expose(datastream, flask_app=app)              # a Flask extension
    start_http_server(9000)                        # or your framework's metrics view

The collector reads ``stats()`` when Prometheus scrapes the process. Each process has its own
metrics. If you run several, such as gunicorn workers, scrape each one, or expose only the process
that runs the stream. The multi-process mode of ``prometheus_client``
(``PROMETHEUS_MULTIPROC_DIR``) ignores custom collectors such as this one.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from .metrics import (
    FIRST_USE,
    METRICS,
    ROUND_TRIPS,
    ROUND_TRIPS_TEXT,
    Exported,
    Metric,
    Reading,
    readings,
)

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.metrics_core import (
        Metric as Family,
    )
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError(
        "prometheus_client is not installed. Run: pip install 'datastream-ws[prometheus]'"
    ) from missing

__all__ = ["StreamCollector", "expose"]

_collectors: weakref.WeakKeyDictionary[CollectorRegistry, StreamCollector] = (
    weakref.WeakKeyDictionary()
)


def expose(client: Any, registry: CollectorRegistry = REGISTRY, *, flask_app: Any = None) -> None:
    """
    Export the metrics of a stream to *registry*, as ``datastream_…`` with the label ``stream``.

    Calling it again has no effect. The registry holds a weak reference to the stream, so the
    metrics disappear with the client.

    Args:
        client: A Client, an AsyncClient, a Fleet, or a Django or Flask stream.
        registry: The registry of ``prometheus_client``.
        flask_app: The app of a Flask stream. ``None`` for any other stream.

    Raises:
        ConfigurationError: If *client* is something else, or another stream has its name.

    """
    with FIRST_USE:
        collector = _collectors.get(registry)
        if collector is None:
            collector = StreamCollector()
            registry.register(collector)
            _collectors[registry] = collector
    collector.watched.add(client, flask_app)


class StreamCollector(Collector):
    """The collector of a registry. It collects the metrics of all streams."""

    def __init__(self) -> None:
        self.watched = Exported()

    def describe(self) -> Iterator[Family]:
        """Yield the metrics without values."""
        yield from (_family(metric) for metric in METRICS)
        yield _round_trips([])

    def collect(self) -> Iterator[Family]:
        """Yield the metrics of all streams. Each stream is read once, so its counters add up."""
        streams = self.watched.read()
        for metric in METRICS:
            family = _family(metric)
            for reading in streams:
                for labels, value in readings(metric, reading):
                    family.add_metric(list(labels.values()), value)
            yield family
        yield _round_trips(streams)


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    name = "_".join(filter(None, ("datastream", metric.name, metric.unit)))
    labels = [label for label in ("stream", metric.label) if label]
    kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
    return kind(name, metric.text, labels=labels)


def _round_trips(streams: list[Reading]) -> HistogramMetricFamily:
    name = f"datastream_{ROUND_TRIPS}_seconds"
    family = HistogramMetricFamily(name, ROUND_TRIPS_TEXT, labels=["stream"])
    for reading in streams:
        if (found := reading.stats.round_trips) is not None:
            bounds = [*(f"{bound:g}" for bound in found.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(found.counts), strict=True))
            family.add_metric([reading.stream], buckets, sum_value=found.total)
    return family
