"""docs/recipes/phoenix.md against a server that follows Phoenix's description, serializer 2."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, kill
from kit.seen import Seen, eventually

URL = "wss://api.example.com"
LOBBY = "room:lobby"


class Phoenix:
    """A socket with topics. A second join of a living channel, or an old reference, is an error."""

    def __init__(self) -> None:
        self.server = StreamServer(on_message=self.take)
        self.channels: dict[StreamConnection, dict[str, str]] = defaultdict(dict)
        self.joins: list[tuple[int, Any]] = []
        self.last_ref = 0
        self.beats = 0

    def take(self, connection: StreamConnection, data: str | bytes) -> None:
        join_ref, ref, topic, event, payload = message = json.loads(data)
        assert int(ref) > self.last_ref, message
        self.last_ref = int(ref)
        status, response = "ok", {}
        if event == "heartbeat":
            assert (join_ref, topic) == (None, "phoenix")
            self.beats += 1
        elif event == "phx_join":
            self.joins.append((connection.number, payload))
            assert topic not in self.channels[connection]
            if payload["token"] != "TOKEN":
                status, response = "error", {"reason": "unauthorized"}
            else:
                self.channels[connection][topic] = join_ref
        else:
            assert self.channels[connection][topic] == join_ref
        reply = {"status": status, "response": response}
        connection.send([join_ref, ref, topic, "phx_reply", reply])

    def broadcast(self, payload: object) -> None:
        for connection, topics in self.channels.items():
            if connection.is_open and LOBBY in topics:
                connection.send([None, None, LOBBY, "shout", payload])

    def crash(self) -> None:
        for connection, topics in self.channels.items():
            if connection.is_open:
                connection.send([topics.pop(LOBBY), None, LOBBY, "phx_error", {}])

    @property
    def is_joined(self) -> bool:
        return LOBBY in self.channels[self.server.connections[-1]]


@pytest.fixture
def phoenix() -> Iterator[Phoenix]:
    phoenix = Phoenix()
    with phoenix.server:
        yield phoenix


def test_events_over_three_losses(phoenix: Phoenix) -> None:
    """Each event once; one join on each connection, with a reference of its own."""
    server = phoenix.server
    with Recipe("phoenix", {URL: server.url}) as recipe:
        for number in recipe.connections(server.abort, server.drop, lambda: kill(server)):
            eventually(lambda: phoenix.is_joined)
            phoenix.broadcast(number)
            recipe.printed.wait(number)
        assert recipe.printed.all == [f"{LOBBY} shout {number}" for number in range(1, 5)]
    assert phoenix.joins == [(number, {"token": "TOKEN"}) for number in range(1, 5)]


class Timers:
    """In the place of ``threading``: what is due is called when the test says so."""

    def __init__(self) -> None:
        self.due = Seen[Callable[[], None]]()

    def Timer(self, seconds: float, function: Callable[[], None]) -> Self:
        assert seconds == 1.0
        self.due(function)
        return self

    def start(self) -> None:
        pass


def test_a_channel_that_crashes(phoenix: Phoenix) -> None:
    """Joined again on the same connection, after a while; not if a new one has done so."""
    timers = Timers()
    with Recipe("phoenix", {URL: phoenix.server.url}) as recipe:
        vars(recipe.module)["threading"] = timers
        eventually(lambda: phoenix.is_joined)
        phoenix.crash()
        timers.due.wait()[0]()
        eventually(lambda: phoenix.is_joined)
        phoenix.crash()
        timers.due.wait(2)
        recipe.after(recipe.client.reconnect)
        eventually(lambda: phoenix.is_joined)
        timers.due.all[1]()
        push = [recipe.module.joined[LOBBY], next(recipe.module.refs), LOBBY, "new", {}]
        recipe.client.request(push, lambda message: message.json()[1] == push[1])
    assert [number for number, _ in phoenix.joins] == [1, 1, 2]


def test_heartbeats_and_refusals(phoenix: Phoenix) -> None:
    fill = {URL: phoenix.server.url, "TOKEN": "wrong"}
    with Recipe("phoenix", fill, heartbeat_interval=0.05) as recipe:
        assert recipe.printed.wait() == [f"{LOBBY} refused {{'reason': 'unauthorized'}}"]
        eventually(lambda: phoenix.beats >= 3)
