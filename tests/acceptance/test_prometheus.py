"""The figures of streams, as Prometheus reads them."""

from __future__ import annotations

import gc
import os
import threading
import traceback
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from datastream_ws import AsyncClient, Client, ConfigurationError
from datastream_ws.metrics import METRICS, Exported
from datastream_ws.prometheus import expose
from datastream_ws.testing import StreamServer
from kit.seen import eventually

URL = "ws://127.0.0.1:1/"


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """What Prometheus would store: name and labels to value."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels.pop("stream"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_of_streams_that_run() -> None:
    registry = CollectorRegistry()
    with StreamServer(on_connect=lambda c: c.send("hello")) as server:
        options: dict[str, Any] = {"min_reconnect_delay": 0.01, "ping_interval": 0.05}
        client = Client(server.url, name="prices", **options)
        client.on_message(lambda message: None)
        other = Client(URL, name="flags")
        for each in (client, other, client):
            expose(each, registry)
        with client:
            client.wait_ready(10)
            server.abort()
            eventually(lambda: client.stats().messages_handled == 2)
            eventually(lambda: client.stats().round_trip_time is not None)
            client.send("abc")
            client.flush(5)
            found = scraped(registry)
            eventually(lambda: scraped(registry)["datastream_state", "prices", "ready"] == 1)
    assert found["datastream_messages_received_total", "prices"] == 2
    assert found["datastream_messages_handled_total", "prices"] == 2
    assert found["datastream_messages_waiting", "prices"] == 0
    assert found["datastream_messages_dropped_total", "prices", "overflow"] == 0
    assert found["datastream_received_bytes_total", "prices"] == 10
    assert found["datastream_sent_bytes_total", "prices"] == 3
    assert found["datastream_reconnects_total", "prices"] == 1
    assert found["datastream_blocked_seconds_total", "prices"] == 0
    assert 0 < found["datastream_round_trip_seconds", "prices"] < 5
    assert found["datastream_connected_since_timestamp_seconds", "prices"] > 1e9
    assert found["datastream_state", "flags", "idle"] == 1
    assert ("datastream_round_trip_seconds", "flags") not in found
    sums = ("handled_total", "failed_total", "waiting", "spooled")
    assert found["datastream_messages_received_total", "prices"] == sum(
        found[f"datastream_messages_{name}", "prices"] for name in sums
    )


def test_every_figure_of_stats_is_exposed() -> None:
    """A new one must not be forgotten."""
    from dataclasses import fields, replace

    from datastream_ws import HandlerStats, State, Stats
    from datastream_ws.metrics import Reading

    elsewhere = {"last_error", "recent_events", "round_trips"}  # texts, and a histogram
    others: dict[str, Any] = {
        "messages_dropped": {"overflow": 7},
        "handlers": {"app.tick": HandlerStats(calls=7, failures=7, p50=7.0, p95=7.0, max=7.0)},
    }
    before = Stats()
    for field in fields(Stats):
        changed = replace(before, **{field.name: others.get(field.name, 7)})
        differs = [
            metric.name
            for metric in METRICS
            if metric.read(Reading("a", State.IDLE, before))
            != metric.read(Reading("a", State.IDLE, changed))
        ]
        figures = {"handlers": 5}.get(field.name, int(field.name not in elsewhere))
        assert len(differs) == figures, field.name


def test_handlers_and_round_trips_are_exposed(stream_server: StreamServer) -> None:
    registry = CollectorRegistry()
    client = Client(stream_server.url, name="prices", ping_interval=0.05, pong_timeout=20.0)
    expose(client, registry)
    seen = threading.Event()

    @client.on_message
    def tick(message: Any) -> None:
        seen.set()

    with client:
        client.wait_ready(timeout=30)
        stream_server.send("x")
        assert seen.wait(30)
        eventually(lambda: client.stats().round_trips is not None and client.stats().handlers != {})
        found = scraped(registry)
    (handler,) = client.stats().handlers
    assert handler.endswith("tick")
    assert found["datastream_handler_calls_total", "prices", handler] == 1
    assert found["datastream_handler_failures_total", "prices", handler] == 0
    assert 0 < found["datastream_handler_p95_seconds", "prices", handler] < 5
    assert found["datastream_inbox_share", "prices"] == 0
    assert found["datastream_round_trips_seconds_bucket", "prices", "+Inf"] >= 1
    assert found["datastream_round_trips_seconds_sum", "prices"] > 0


class Slow(CollectorRegistry):
    """A registry in which a second thread has time to overtake the first."""

    overtaking: threading.Thread

    def register(self, collector: Any) -> None:
        if not self.overtaking.is_alive():
            self.overtaking.start()
            self.overtaking.join(0.5)
        super().register(collector)


def test_two_threads_expose_their_first_stream() -> None:
    """Neither is lost, and neither registers a second collector."""
    registry = Slow()
    one, two = Client(URL, name="one"), Client(URL, name="two")
    registry.overtaking = threading.Thread(target=expose, args=(two, registry))
    expose(one, registry)
    registry.overtaking.join(10)
    found = scraped(registry)
    assert found["datastream_state", "one", "idle"] == 1
    assert found["datastream_state", "two", "idle"] == 1


def test_two_threads_add_a_stream() -> None:
    exported = Exported()
    more = [Client(URL, name=name) for name in ("two", "three")]
    overtaking = threading.Thread(target=exported.add, args=(more[1],))

    class Slow(Client):
        @property
        def name(self) -> str:
            if overtaking.ident is None:
                overtaking.start()
                overtaking.join(0.5)
            return "one"

    slow = Slow(URL)
    exported.add(slow)
    exported.add(more[0])
    overtaking.join(10)
    assert sorted(reading.stream for reading in exported.read()) == ["one", "three", "two"]


def test_two_streams_of_one_name_are_refused_unless_one_is_gone() -> None:
    registry = CollectorRegistry()
    first = Client(URL)
    expose(first, registry)
    with pytest.raises(ConfigurationError, match="two streams have the name 'default'"):
        expose(Client(URL), registry)
    del first
    gc.collect()
    assert ("datastream_state", "default", "idle") not in scraped(registry)
    second = AsyncClient(URL)
    expose(second, registry)
    assert scraped(registry)["datastream_state", "default", "idle"] == 1


@pytest.mark.parametrize("wrong", ["ws://x", None, object()])
def test_what_is_no_stream_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a Client"):
        expose(wrong, CollectorRegistry())


def test_the_global_registry_over_http() -> None:
    client = Client(URL, name="of-this-test")
    expose(client)
    server, thread = start_http_server(0, "127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert 'datastream_messages_received_total{stream="of-this-test"} 0.0' in text


def test_after_a_fork_the_child_has_figures_of_its_own() -> None:
    registry = CollectorRegistry()
    with StreamServer(on_connect=lambda c: c.send("hello")) as server:
        client = Client(server.url)
        client.on_message(lambda message: None)
        expose(client, registry)
        with client:
            eventually(lambda: client.stats().messages_handled == 1)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    found = scraped(registry)
                    idle = found["datastream_state", "default", "idle"]
                    received = found["datastream_messages_received_total", "default"]
                    code = 0 if (idle, received) == (1, 0) else 2
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert scraped(registry)["datastream_messages_received_total", "default"] == 1
