"""Secrets are in nothing that is exported: OpenTelemetry's spans and metrics, Prometheus."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from datastream_ws import Client, Message
from datastream_ws.opentelemetry import instrument
from datastream_ws.prometheus import expose
from kit.rawserver import TEXT, Close, ExpectFrame, Frame, RawConnection, RawServer, Script, Upgrade
from kit.seen import FAST, eventually

CANARY = "c4n4ry-s3cr3t"


class Tunnel:
    """Be the proxy that lets the client through."""

    def run(self, connection: RawConnection) -> None:
        connection.read_request()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.request = b""


SCRIPT: Script = [Tunnel(), Upgrade(), Frame(TEXT, CANARY), ExpectFrame(TEXT), Close(1011)]


@pytest.mark.parametrize("kind", ["values", "callables", "a list of URLs"])
def test_no_export_holds_a_secret(kind: str) -> None:
    """Of the URL, the headers, the proxy, the lease and messages, as the stream runs and fails."""
    registry = CollectorRegistry()
    spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider, meter_provider = TracerProvider(), MeterProvider([metrics])
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    with RawServer(SCRIPT) as proxy:
        url = f"ws://stream.invalid/v1?token={CANARY}"
        headers = {"Authorization": CANARY}
        kinds: dict[str, dict[str, Any]] = {
            "values": {"url": url, "headers": headers},
            "callables": {"url": lambda: url, "headers": lambda: headers},
            "a list of URLs": {"url": [url, f"{url}2"], "headers": headers},
        }
        through = f"http://{CANARY}:{CANARY}@127.0.0.1:{proxy.port}"
        client = Client(**kinds[kind], **FAST | {"proxy": through, "ping_interval": 0.05})
        expose(client, registry)
        instrument(client, tracer_provider=tracer_provider, meter_provider=meter_provider)

        @client.on_message
        def handle(message: Message) -> None:
            raise LookupError("no")

        client.on_ready(lambda: client.send(CANARY))
        with client:
            eventually(lambda: client.stats().messages_failed and client.stats().reconnects, 30)
            told = generate_latest(registry).decode() + str(client.stats())
            data = metrics.get_metrics_data()
            assert data is not None
            told += data.to_json()
        assert CANARY in proxy.connections[0].request.decode()
    told += "".join(span.to_json() for span in spans.get_finished_spans())
    tracer_provider.shutdown()
    meter_provider.shutdown()
    for text in ("datastream_messages_failed_total", "datastream.messages", "LookupError"):
        assert text in told
    assert CANARY not in told
