"""The blinker signals of a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from blinker import NamedSignal
from flask import Flask, g

from datastream_ws import Message, UnauthorizedError
from datastream_ws.testing import StreamServer
from datastream_ws_flask import DataStream, signals
from kit.flaskproject import PATIENCE

ALL = [getattr(signals, name) for name in signals.__all__]


class Recorder:
    """Receives every signal of an app; ``wait_for`` the one that is expected."""

    def __init__(self, app: Flask) -> None:
        self._news = threading.Condition()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._receivers = [self._receiver(app, signal) for signal in ALL]

    def _receiver(self, app: Flask, signal: NamedSignal) -> Any:
        @signal.connect_via(app)
        def receive(sender: Flask, **facts: Any) -> None:
            assert sender is app
            with self._news:
                self.seen.append((signal.name, facts))
                self._news.notify_all()

        return receive

    def wait_for(self, name: str) -> dict[str, Any]:
        with self._news:
            assert self._news.wait_for(lambda: name in dict(self.seen), PATIENCE), self.seen
            return dict(self.seen)[name]

    def disconnect(self) -> None:
        for signal, receiver in zip(ALL, self._receivers, strict=True):
            signal.disconnect(receiver)


class Lost(Exception):
    connection_invalidated = True


@pytest.fixture
def stream() -> DataStream:
    return DataStream()


@pytest.fixture
def app(stream: DataStream, stream_server: StreamServer) -> Iterator[Flask]:
    app = Flask("shop")
    app.config.update(DATASTREAM_URL=stream_server.url, DATASTREAM_MIN_RECONNECT_DELAY=0.01)
    stream.init_app(app)
    yield app
    stream.close(app)


def test_life_of_a_stream(app: Flask, stream: DataStream, stream_server: StreamServer) -> None:
    app.config["DATASTREAM_FATAL_DELAY"] = None
    recorder = Recorder(app)
    try:
        stream.start(app)
        assert recorder.wait_for("stream-ready") == {"stream": stream, "key": None}
        stream_server.send("x")
        facts = recorder.wait_for("message-received")
        assert (facts["stream"], facts["message"].data) == (stream, "x")
        stream_server.refuse(401)
        stream_server.abort()
        assert recorder.wait_for("stream-disconnected")["event"].code == 1006
        failed = recorder.wait_for("stream-failed")
        assert isinstance(failed["error"], UnauthorizedError)
        assert recorder.wait_for("stream-error")["stream"] is stream
    finally:
        recorder.disconnect()


def test_each_app_hears_its_own(app: Flask, stream: DataStream) -> None:
    other = Flask("other")
    other.config["DATASTREAM_URL"] = "ws://127.0.0.1:1/"
    stream.init_app(other)
    recorder = Recorder(app)
    try:
        stream.deliver(other, "theirs")
        stream.deliver(app, "ours")
        assert [facts["message"].data for _, facts in recorder.seen] == ["ours"]
    finally:
        recorder.disconnect()


def test_a_receiver_that_raises_is_reported_and_the_others_run(
    app: Flask, stream: DataStream
) -> None:
    seen: list[Any] = []

    def failing(sender: Flask, **facts: Any) -> None:
        raise KeyError("flag")

    def first(sender: Flask, *, message: Message, **facts: Any) -> None:
        assert "used" not in g  # a context of its own
        g.used = True
        seen.append(message.data)

    def second(sender: Flask, **facts: Any) -> None:
        first(sender, **facts)

    signal = signals.message_received
    with (
        signal.connected_to(first),
        signal.connected_to(failing),
        signal.connected_to(second),
        pytest.raises(ExceptionGroup) as caught,
    ):
        stream.deliver(app, "x")
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert seen == ["x", "x"]


def test_a_receiver_that_lost_its_database_connection_is_called_once_more(
    app: Flask, stream: DataStream
) -> None:
    calls: list[str] = []

    def unlucky(sender: Flask, **facts: Any) -> None:
        calls.append("unlucky")
        if calls.count("unlucky") == 1:
            raise RuntimeError from Lost()

    def lucky(sender: Flask, **facts: Any) -> None:
        calls.append("lucky")

    signal = signals.message_received
    with signal.connected_to(unlucky), signal.connected_to(lucky):
        stream.deliver(app, "x")
    assert sorted(calls) == ["lucky", "unlucky", "unlucky"]


@pytest.mark.parametrize("fails", [False, True])
def test_receivers_share_the_context_of_a_run(app: Flask, stream: DataStream, fails: bool) -> None:
    """One that fails has spoilt it: those after it have contexts of their own."""
    app.config["DATASTREAM_CONTEXT"] = "run"
    seen: list[int] = []

    def first(sender: Flask, **facts: Any) -> None:
        g.used = g.get("used", 0) + 1
        seen.append(g.used)
        if fails:
            raise KeyError

    def second(sender: Flask, **facts: Any) -> None:
        first(sender, **facts)

    def third(sender: Flask, **facts: Any) -> None:
        first(sender, **facts)

    signal = signals.message_received
    with (
        signal.connected_to(first),
        signal.connected_to(second),
        signal.connected_to(third),
        pytest.raises(ExceptionGroup) if fails else nullcontext(),
    ):
        stream.deliver(app, "x")
    assert seen == ([1, 1, 1] if fails else [1, 2, 3])


def test_a_receiver_called_again_has_a_context_of_its_own(app: Flask, stream: DataStream) -> None:
    """What the lost connection has left in that of the run would fail it again."""
    app.config["DATASTREAM_CONTEXT"] = "run"
    seen: list[bool] = []

    def unlucky(sender: Flask, **facts: Any) -> None:
        seen.append("used" in g)
        g.used = True
        if len(seen) == 1:
            raise Lost

    with signals.message_received.connected_to(unlucky):
        stream.deliver(app, "x")
    assert seen == [False, False]


def test_without_receivers_a_message_costs_nothing_more(app: Flask, stream: DataStream) -> None:
    with app.app_context():
        handlers = stream.client.handlers
    assert not handlers.has_message_handlers
    with signals.message_received.connected_to(lambda sender, **facts: None, sender=app):
        assert handlers.has_message_handlers
