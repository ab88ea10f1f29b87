"""docs/recipes/pusher.md against a server that follows Pusher's description of protocol 7."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator

import pytest

from datastream_ws import StreamClosedError
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, kill
from kit.seen import eventually

URL = "wss://ws-eu.pusher.com"


class Pusher:
    """Two channels; what is wrong ends the connection."""

    def __init__(self) -> None:
        self.server = StreamServer(on_connect=self.establish, on_message=self.take)
        self.subscribed: dict[StreamConnection, list[str]] = {}
        self.pongs = 0

    def establish(self, connection: StreamConnection) -> None:
        assert connection.path == "/app/key?protocol=7"
        self.subscribed[connection] = []
        data = {"socket_id": f"1.{connection.number}", "activity_timeout": 120}
        connection.send({"event": "pusher:connection_established", "data": json.dumps(data)})

    def take(self, connection: StreamConnection, text: str | bytes) -> None:
        message = json.loads(text)
        event, data = message["event"], message["data"]
        if event == "pusher:ping":
            connection.send({"event": "pusher:pong", "data": {}})
        elif event == "pusher:pong":
            self.pongs += 1
        else:
            assert event == "pusher:subscribe"
            self.subscribe(connection, data["channel"], data.get("auth"))

    def subscribe(self, connection: StreamConnection, channel: str, auth: str | None) -> None:
        if channel.startswith("private-"):
            text = f"1.{connection.number}:{channel}"
            signature = hmac.new(b"secret", text.encode(), hashlib.sha256).hexdigest()
            assert auth == f"key:{signature}", "Invalid signature"
        assert channel not in self.subscribed[connection], "Existing subscription"
        self.subscribed[connection].append(channel)
        succeeded = {"event": "pusher_internal:subscription_succeeded", "channel": channel}
        connection.send(succeeded | {"data": "{}"})

    def trigger(self, channel: str, number: int) -> None:
        event = {"event": "changed", "channel": channel, "data": json.dumps(number)}
        for connection, channels in self.subscribed.items():
            if connection.is_open and channel in channels:
                connection.send(event)

    @property
    def channels(self) -> list[str]:
        """Those of the last connection, in order of subscription."""
        return self.subscribed[self.server.connections[-1]]


@pytest.fixture
def pusher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pusher]:
    monkeypatch.setenv("PUSHER_KEY", "key")
    monkeypatch.setenv("PUSHER_SECRET", "secret")
    pusher = Pusher()
    with pusher.server:
        yield pusher


def test_events_over_three_losses(pusher: Pusher) -> None:
    """Each event once; every connection signs for its own socket id."""
    server = pusher.server
    expected = []
    with Recipe("pusher", {URL: server.url}) as recipe:
        for number in recipe.connections(server.abort, server.drop, lambda: kill(server)):
            eventually(lambda: len(pusher.channels) == 2)
            for channel in ("news", "private-orders"):
                pusher.trigger(channel, number)
                expected.append(f"{channel} changed {number}")
            recipe.printed.wait(len(expected))
        assert recipe.printed.all == expected
    assert list(pusher.subscribed.values()) == [["news", "private-orders"]] * 4


def test_pings_both_ways(pusher: Pusher) -> None:
    with Recipe("pusher", {URL: pusher.server.url}, heartbeat_interval=0.05) as recipe:
        pusher.server.send({"event": "pusher:ping", "data": "{}"})
        eventually(lambda: pusher.pongs == 1)
        eventually(lambda: '{"event":"pusher:ping","data":{}}' in pusher.server.received)
        recipe.client.receive(lambda message: message.route == "pusher:pong")


def test_codes(pusher: Pusher) -> None:
    """4200 asks the client to come back, 4001 says that there is no such application."""
    recipe = Recipe("pusher", {URL: pusher.server.url})
    with recipe:
        recipe.after(lambda: pusher.server.close(4200))
        pusher.server.close(4001, "App does not exist")
        with pytest.raises(StreamClosedError, match="4001"):
            recipe.client.wait_closed(30)
