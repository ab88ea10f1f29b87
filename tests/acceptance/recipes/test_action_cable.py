"""docs/recipes/action-cable.md against a server that follows the description of the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws import StreamClosedError
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, kill
from kit.seen import eventually

URL = "wss://api.example.com"
CHAT = json.dumps({"channel": "ChatChannel", "room": "lobby"})


class Cable:
    """One channel; what comes before the welcome, or twice, ends the connection."""

    def __init__(self) -> None:
        self.server = StreamServer(
            on_connect=self.welcome, on_message=self.take, subprotocols=["actioncable-v1-json"]
        )
        self.subscribed: dict[StreamConnection, list[str]] = {}
        self.performed: list[Any] = []
        self.rejects = False
        self.lets_in = True

    def welcome(self, connection: StreamConnection) -> None:
        assert connection.path == "/cable"
        assert connection.headers["Origin"] == "https://api.example.com"
        if self.lets_in:
            self.subscribed[connection] = []
            connection.send({"type": "welcome"})
            connection.send({"type": "ping", "message": 1})
        else:
            disconnect(connection, "unauthorized", reconnect=False)

    def take(self, connection: StreamConnection, text: str | bytes) -> None:
        message = json.loads(text)
        identifier = message["identifier"]
        if message["command"] == "message":
            assert identifier in self.subscribed[connection]
            self.performed.append(json.loads(message["data"]))
            return
        assert message["command"] == "subscribe"
        assert identifier not in self.subscribed[connection], "Already subscribed"
        kind = "reject_subscription" if self.rejects else "confirm_subscription"
        if not self.rejects:
            self.subscribed[connection].append(identifier)
        connection.send({"identifier": identifier, "type": kind})

    def broadcast(self, text: str) -> None:
        for connection, identifiers in self.subscribed.items():
            for identifier in identifiers:
                if connection.is_open:
                    connection.send({"identifier": identifier, "message": text})


def disconnect(connection: StreamConnection, reason: str, *, reconnect: bool) -> None:
    connection.send({"type": "disconnect", "reason": reason, "reconnect": reconnect})
    connection.close()


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    with cable.server:
        yield cable


def recipe_of(cable: Cable, **options: Any) -> Recipe:
    return Recipe("action-cable", {f'"{URL}/cable': f'"{cable.server.url}/cable'}, **options)


def test_broadcasts_over_three_losses(cable: Cable) -> None:
    """Each once; on every connection one subscription, after the welcome."""
    server = cable.server
    with recipe_of(cable) as recipe:
        for number in recipe.connections(server.abort, server.drop, lambda: kill(server)):
            cable.broadcast(f"hello {number}")
            recipe.printed.wait(number)
        assert recipe.printed.all == [f"hello {number}" for number in range(1, 5)]
    assert list(cable.subscribed.values()) == [[CHAT]] * 4
    assert [len(each.received) for each in server.connections] == [1] * 4


def test_actions(cable: Cable) -> None:
    with recipe_of(cable) as recipe:
        recipe.module.perform("speak", body="Hello")
        eventually(lambda: cable.performed == [{"action": "speak", "body": "Hello"}])


def test_pings_that_stop(cable: Cable) -> None:
    with recipe_of(cable, idle_timeout=0.5) as recipe:
        recipe.after(lambda: None)
    assert list(cable.subscribed.values())[:2] == [[CHAT]] * 2


def test_a_server_that_restarts(cable: Cable) -> None:
    with recipe_of(cable) as recipe:
        [connection] = cable.server.connections
        recipe.after(lambda: disconnect(connection, "server_restart", reconnect=True))
        assert recipe.printed.all == []


def test_a_server_that_does_not_let_the_client_in(cable: Cable) -> None:
    cable.lets_in = False
    recipe = recipe_of(cable)
    failure = recipe.failure()
    assert isinstance(failure, StreamClosedError), failure
    assert recipe.printed.all == ["The server refuses: unauthorized"]
    assert len(cable.server.connections) == 1


def test_a_subscription_that_is_rejected(cable: Cable) -> None:
    cable.rejects = True
    failure = recipe_of(cable).failure()
    assert isinstance(failure, PermissionError)
    assert len(cable.server.connections) == 1
