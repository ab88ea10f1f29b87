"""docs/recipes/discord.md against a server that follows Discord's description of the gateway."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from datastream_ws import StreamClosedError
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.pages import Block, steps
from kit.recipes import Recipe, kill
from kit.seen import eventually

URL = "wss://gateway.discord.gg"


class Packed:
    """A connection with compress=zlib-stream: one compressed stream, cut into frames anywhere."""

    def __init__(self, connection: StreamConnection) -> None:
        self._connection = connection
        self._stream = zlib.compressobj()
        self.close = connection.close

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    def send(self, obj: object) -> None:
        packed = self._stream.compress(json.dumps(obj).encode())
        packed += self._stream.flush(zlib.Z_SYNC_FLUSH)
        self._connection.send(packed[:7])
        self._connection.send(packed[7:])


Line = StreamConnection | Packed


class Session:
    """What a gateway keeps of a bot: its events, numbered from 1, and where they go now."""

    def __init__(self, connection: Line) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []

    def dispatch(self, kind: str, data: object) -> None:
        event = {"op": 0, "t": kind, "s": len(self.events) + 1, "d": data}
        self.events.append(event)
        if self.connection.is_open:
            self.connection.send(event)


class Gateway:
    """One gateway. Its sessions end with 1000, with a kill, and when it is told so."""

    def __init__(self) -> None:
        self.server = StreamServer(
            on_connect=lambda connection: self.hello(self.line(connection)),
            on_message=lambda connection, data: self.take(self.line(connection), data),
        )
        self.lines: dict[StreamConnection, Line] = {}
        self.sessions: dict[str, Session] = {}
        self.said: list[str] = []
        self.beats: list[int | None] = []

    def line(self, connection: StreamConnection) -> Line:
        if "compress=zlib-stream" in connection.path:
            return self.lines.setdefault(connection, Packed(connection))
        return connection

    def hello(self, connection: Line) -> None:
        self.said.append("hello")
        connection.send({"op": 10, "d": {"heartbeat_interval": 41250}, "s": None, "t": None})

    def take(self, connection: Line, data: str | bytes) -> None:
        message = json.loads(data)
        assert set(message) == {"op", "d"}
        takers: dict[int, Callable[[Line, Any], None]]
        takers = {1: self.beat, 2: self.identify, 6: self.resume}
        takers[message["op"]](connection, message["d"])

    def beat(self, connection: Line, sequence: int | None) -> None:
        self.beats.append(sequence)
        connection.send({"op": 11})

    def identify(self, connection: Line, data: dict[str, Any]) -> None:
        if data["token"] != "secret":
            connection.close(4004, "Authentication failed.")
            return
        self.said.append("identify")
        name = f"session {len(self.said)}"
        session = self.sessions[name] = Session(connection)
        session.dispatch("READY", {"session_id": name, "resume_gateway_url": self.server.url})

    def resume(self, connection: Line, data: dict[str, Any]) -> None:
        self.said.append("resume")
        if data["session_id"] not in self.sessions:
            connection.send({"op": 9, "d": False})
            return
        session = self.sessions[data["session_id"]]
        session.connection = connection
        for event in session.events[data["seq"] :]:
            connection.send(event)
        session.dispatch("RESUMED", {})

    def message(self, text: str) -> None:
        for session in self.sessions.values():
            session.dispatch("MESSAGE_CREATE", {"content": text})

    def kill(self) -> None:
        self.sessions.clear()
        kill(self.server)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    gateway = Gateway()
    with gateway.server:
        yield gateway


def away(gateway: Gateway, lose: Any, text: str) -> None:
    """Lose the connection; a message is written before the bot is back."""
    gateway.server.refuse(503)
    lose()
    gateway.message(text)
    gateway.server.accept()


def zlib_stream() -> Any:
    """The codec of the page that the recipe names."""
    found = [each for each in steps("docs/howto/typed-messages.md") if isinstance(each, Block)]
    [code] = [each.text for each in found if "class ZlibStream" in each.text]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # our own page
    return names["ZlibStream"]()


@pytest.mark.parametrize("compressed", [False, True])
def test_messages_over_three_losses(gateway: Gateway, compressed: bool) -> None:
    """Each message once and in order, those sent meanwhile too, until the sessions are lost."""
    fill = {URL: gateway.server.url}
    options: dict[str, Any] = {}
    if compressed:
        fill["encoding=json"] = "encoding=json&compress=zlib-stream"
        options["codec"] = zlib_stream()
    server = gateway.server
    lose = [
        lambda: away(gateway, server.abort, "away 1"),
        lambda: away(gateway, server.drop, "away 2"),
        gateway.kill,
    ]
    with Recipe("discord", fill, **options) as recipe:
        for number in recipe.connections(*lose):
            gateway.message(f"here {number}")
            recipe.printed.wait_for(f"here {number}".__eq__)
        assert recipe.printed.all == ["here 1", "away 1", "here 2", "away 2", "here 3", "here 4"]
    said = [line for line in gateway.said if line != "hello"]
    assert said == ["identify", "resume", "resume", "resume", "identify"]
    for connection in server.connections:
        opened = [json.loads(data)["op"] for data in connection.received]
        assert opened in ([2], [6])


def test_heartbeats(gateway: Gateway) -> None:
    """They carry the last sequence number, at the interval and when the server asks."""
    with Recipe("discord", {URL: gateway.server.url}, heartbeat_interval=0.05) as recipe:
        eventually(lambda: gateway.beats[-1:] == [1])
        gateway.message("hello")
        eventually(lambda: gateway.beats[-1:] == [2])
        recipe.printed.wait()
    with Recipe("discord", {URL: gateway.server.url}):
        before = len(gateway.beats)
        gateway.server.send({"op": 1, "d": None})
        eventually(lambda: len(gateway.beats) == before + 1)


def test_asked_to_reconnect(gateway: Gateway) -> None:
    """Opcode 7: closed so that the session lives, and resumed."""
    with Recipe("discord", {URL: gateway.server.url}) as recipe:
        recipe.after(lambda: gateway.server.send({"op": 7, "d": None}))
        assert gateway.said == ["hello", "identify", "hello", "resume"]
        first = gateway.server.connections[0]
        assert first.closed.wait(10)
        assert first.close_code == 4000


def test_a_session_that_ends_while_ready(gateway: Gateway) -> None:
    """Opcode 9: the bot tries to resume, and identifies when it is told so again."""
    with Recipe("discord", {URL: gateway.server.url}) as recipe:
        gateway.sessions.clear()
        recipe.after(lambda: gateway.server.send({"op": 9, "d": False}))
        assert gateway.said == ["hello", "identify", "hello", "resume", "hello", "identify"]


@pytest.mark.parametrize("code", [4007, 4009])
def test_a_session_that_cannot_be_resumed(gateway: Gateway, code: int) -> None:
    with Recipe("discord", {URL: gateway.server.url}) as recipe:
        recipe.after(lambda: gateway.server.close(code))
        assert gateway.said == ["hello", "identify", "hello", "identify"]


def test_a_wrong_token(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """4004: not tried again."""
    monkeypatch.setenv("DISCORD_TOKEN", "wrong")
    failure = Recipe("discord", {URL: gateway.server.url}).failure()
    assert isinstance(failure, StreamClosedError)
    assert failure.code == 4004
    assert gateway.said == ["hello"]
