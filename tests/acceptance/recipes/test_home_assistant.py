"""docs/recipes/home-assistant.md against a server that follows Home Assistant's description."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws import DataStreamError
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, kill

URL = "ws://homeassistant.local:8123/api/websocket"


class House:
    """One lamp. It ends a connection on which anything comes before the login, or an old id."""

    def __init__(self) -> None:
        self.server = StreamServer(on_connect=self.greet, on_message=self.answer)
        self.lamp = "off"
        self.last_id: dict[StreamConnection, int] = {}  # of those that are logged in
        self.subscribed: dict[StreamConnection, list[int]] = defaultdict(list)

    def greet(self, connection: StreamConnection) -> None:
        connection.send({"type": "auth_required", "ha_version": "2026.4.0"})

    def answer(self, connection: StreamConnection, data: str | bytes) -> None:
        message = json.loads(data)
        if connection not in self.last_id:
            self.log_in(connection, message)
            return
        assert message["id"] > self.last_id[connection], "identifier values have to increase"
        self.last_id[connection] = message["id"]
        result: dict[str, Any] = {"id": message["id"], "type": "result", "success": True}
        if message["type"] == "subscribe_events":
            self.subscribed[connection].append(message["id"])
            connection.send(result | {"result": None})
        elif message["type"] == "get_states":
            connection.send(result | {"result": [self.state()]})
        else:
            error = {"code": "unknown_command", "message": "Unknown command."}
            connection.send(result | {"success": False, "error": error})

    def log_in(self, connection: StreamConnection, message: dict[str, Any]) -> None:
        assert message["type"] == "auth"
        if message["access_token"] != "secret":
            connection.send({"type": "auth_invalid", "message": "Invalid access token"})
            connection.close()
            return
        self.last_id[connection] = 0
        connection.send({"type": "auth_ok", "ha_version": "2026.4.0"})

    def state(self) -> dict[str, str]:
        return {"entity_id": "light.lamp", "state": self.lamp}

    def turn(self, state: str) -> None:
        self.lamp = state
        event = {"event_type": "state_changed", "data": {"new_state": self.state()}}
        for connection, ids in self.subscribed.items():
            for number in ids if connection.is_open else ():
                connection.send({"id": number, "type": "event", "event": event})


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("HOME_ASSISTANT_TOKEN", "secret")
    house = House()
    with house.server:
        yield house


def test_states_over_three_losses(house: House) -> None:
    """Each change once, what changed meanwhile too; one login and one subscription each time."""
    server = house.server
    expected = []
    with Recipe("home-assistant", {URL: house.server.url}) as recipe:
        lose = [server.abort, server.drop, lambda: kill(server)]
        for number in recipe.connections(*lose):
            expected += [f"light.lamp {house.lamp}", f"light.lamp {number}"]
            house.turn(str(number))
            recipe.printed.wait(len(expected))
            house.lamp = f"changed after {number}"  # no event: nobody is told
        assert recipe.printed.all == expected
    assert len(house.last_id) == 4
    for connection in house.last_id:
        types = [json.loads(data)["type"] for data in connection.received]
        assert types == ["auth", "subscribe_events", "get_states"]


def test_a_command_that_fails(house: House) -> None:
    with (
        Recipe("home-assistant", {URL: house.server.url}) as recipe,
        pytest.raises(RuntimeError, match="Unknown command"),
    ):
        recipe.module.command("paint_the_house")


def test_a_wrong_token(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt: the server would ban the address."""
    monkeypatch.setenv("HOME_ASSISTANT_TOKEN", "wrong")
    recipe = Recipe("home-assistant", {URL: house.server.url})
    assert isinstance(recipe.failure(), DataStreamError)
    assert recipe.printed.all == ["The login failed: Invalid access token"]
    assert len(house.server.connections) == 1
