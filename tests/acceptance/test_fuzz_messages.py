"""Whatever a message holds: it is handled once, as it was sent, and the next one after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastream_ws import Client, Message
from datastream_ws.testing import StreamServer
from kit.numbered import check_ledger
from kit.seen import FAST, Seen

ROUTES = ["order", "", "type", "\x00", "ü", "__class__"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(ROUTES), inner),
    max_leaves=10,
)
routed = st.builds(
    lambda route, rest: {**rest, "type": route},
    st.sampled_from(ROUTES) | json_values,
    st.dictionaries(st.sampled_from(["id", "price", "type"]), json_values, max_size=3),
)
texts = (
    st.text()
    | (json_values | routed).map(json.dumps)  # NaN and Infinity, too
    | st.text('{}[]":,01e+-.\\u', max_size=30)
    | st.integers(1, 9).map(lambda n: "[" * 10**n if n < 5 else "9" * n * 1000)
)
payloads = texts | texts.map(str.encode) | st.binary()


@dataclass
class Order:
    id: int
    price: float = 0.0


class Told:
    """A client with every kind of handler, on a server that sends what it is given."""

    def __init__(self, codec: Any, stack: ExitStack) -> None:
        self.server = stack.enter_context(StreamServer())
        self.client = Client(self.server.url, codec=codec, compression=None, **FAST)
        self.seen = Seen[Message]()
        self.client.on_message(self.seen)
        self.client.on_message("order", decode_as=Order)(lambda order: order.id + 1)
        self.client.on_message("order")(lambda message: message.json()["id"])
        self.client.on_message(when=lambda message: message.route)(lambda _: None)
        self.client.on_message(default=True)(lambda message: message.json())
        stack.enter_context(self.client)
        self.server.wait_connected(1, 30)

    def round(self, sent: list[str | bytes]) -> list[str | bytes]:
        """Send these; return what was handled."""
        before = len(self.seen)
        for payload in sent:
            self.server.send(payload)
        return [message.data for message in self.seen.wait(before + len(sent))[before:]]


@pytest.fixture(params=["json", "orjson", "msgspec"])
def told(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    if request.param != "json":
        pytest.importorskip(request.param)
    caplog.set_level("CRITICAL")  # what cannot be decoded is an error each time, on purpose
    with ExitStack() as stack:
        yield Told(request.param, stack)


def test_payloads_are_handled_one_after_another(told: Told) -> None:
    """On one connection, by one thread, whatever the handlers raise about them."""

    @settings(max_examples=50)
    @given(sent=st.lists(payloads, min_size=1, max_size=8))
    def check(sent: list[str | bytes]) -> None:
        assert told.round(sent) == sent

    check()
    told.round(['{"type":"order","id":"no number"}'])
    told.client.close()
    stats = told.client.stats()
    assert stats.connections == 1
    assert stats.messages_failed > 0
    check_ledger(stats)
