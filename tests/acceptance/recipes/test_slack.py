"""docs/recipes/slack.md against a server that speaks Socket Mode as Slack describes it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, answering, kill
from kit.seen import eventually

API = "https://slack.com/api/apps.connections.open"


class Slack:
    """Keeps each event until it is acknowledged; sends it again on the next connection."""

    def __init__(self) -> None:
        self.server = StreamServer(on_connect=self.hello, on_message=self.acknowledged)
        self.waiting: dict[str, dict[str, Any]] = {}
        self.greeted = 0
        self.turn = threading.Condition()
        self.tickets = 0
        self.tokens: list[str] = []

    def hello(self, connection: StreamConnection) -> None:
        with self.turn:
            connection.send({"type": "hello", "num_connections": 1})
            for envelope in self.waiting.values():
                envelope["retry_attempt"] += 1
                connection.send(envelope)
            self.greeted += 1
            self.turn.notify_all()

    def acknowledged(self, connection: StreamConnection, data: str | bytes) -> None:
        del self.waiting[json.loads(data)["envelope_id"]]

    def event(self, text: str, kind: str = "message") -> None:
        event = {"type": kind, "text": text} if kind == "message" else {"type": kind}
        payload = {"event_id": f"Ev{text}", "event": event}
        name = f"envelope of {text}"
        envelope: dict[str, Any] = {"type": "events_api", "envelope_id": name, "payload": payload}
        envelope |= {"accepts_response_payload": False, "retry_attempt": 0}
        with self.turn:  # else what is sent now might be sent again behind the greeting
            self.turn.wait_for(lambda: self.greeted == len(self.server.connections), 30)
            self.waiting[name] = envelope
            self.server.send(envelope)

    def open(self, authorization: str) -> dict[str, Any]:
        self.tokens.append(authorization)
        self.tickets += 1
        return {"ok": True, "url": f"{self.server.url}/link/?ticket={self.tickets}"}


@pytest.fixture
def slack() -> Iterator[Slack]:
    slack = Slack()
    with slack.server:
        yield slack


@pytest.fixture
def api(slack: Slack, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL that hands out WebSocket URLs."""
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-1")
    with answering(lambda _, headers: slack.open(headers["Authorization"])) as url:
        yield url


def test_events_over_three_losses(slack: Slack, api: str) -> None:
    """Each event once, over a URL of its own for every connection."""
    server = slack.server
    with Recipe("slack", {API: api}) as recipe:
        for number in recipe.connections(server.abort, server.drop, lambda: kill(server)):
            slack.event(f"hello {number}")
            recipe.printed.wait(number)
            eventually(lambda: not slack.waiting)
        assert recipe.printed.all == [f"hello {number}" for number in range(1, 5)]
    paths = [connection.path for connection in server.connections]
    assert len(set(paths)) == len(paths) == 4
    assert set(slack.tokens) == {"Bearer xapp-1"}


def test_an_event_whose_acknowledgement_was_lost(slack: Slack, api: str) -> None:
    with Recipe("slack", {API: api}) as recipe:
        slack.server.mute()
        slack.event("once")
        recipe.printed.wait()
        slack.server.abort()
        recipe.after(slack.server.unmute)
        eventually(lambda: not slack.waiting)
        slack.event("after")
        assert recipe.printed.wait(2) == ["once", "after"]


def test_acknowledged_while_a_handler_is_busy(slack: Slack, api: str) -> None:
    busy, done = threading.Event(), threading.Event()

    def handle(text: str) -> None:
        busy.set()
        done.wait(30)

    with Recipe("slack", {API: api}) as recipe:
        vars(recipe.module)["print"] = handle
        for number in range(200):
            slack.event(str(number))
        busy.wait(30)
        eventually(lambda: not slack.waiting)
        assert recipe.client.stats().messages_waiting >= 199
        done.set()


def test_an_event_without_a_text(slack: Slack, api: str) -> None:
    with Recipe("slack", {API: api}) as recipe:
        slack.event("a thumb", kind="reaction_added")
        slack.event("after")
        assert recipe.printed.wait() == ["after"]
        assert recipe.client.stats().messages_failed == 0


def test_a_refresh(slack: Slack, api: str) -> None:
    """The server asks for a new connection; what it sends until then is still acknowledged."""
    with Recipe("slack", {API: api}) as recipe:
        slack.event("before")
        recipe.after(lambda: slack.server.send({"type": "disconnect", "reason": "warning"}))
        slack.event("after")
        assert recipe.printed.wait(2) == ["before", "after"]
    assert [each.close_code for each in slack.server.connections] == [1000, 1000]


def test_a_refused_token(slack: Slack, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack, "open", lambda _: {"ok": False, "error": "invalid_auth"})
    recipe = Recipe("slack", {API: api}, max_reconnect_attempts=2)
    assert "invalid_auth" in str(recipe.failure())
