"""One extension, its apps, its streams: what is shared, and what is not."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask, current_app, g, has_app_context, has_request_context

from datastream_ws import ConfigurationError, HandlerError, Message, NotConnectedError, State
from datastream_ws.testing import StreamServer
from datastream_ws_flask import DataStream
from kit.flaskproject import PATIENCE
from kit.seen import eventually

URL = "wss://feed.example/v1"


def app_with(*streams: DataStream, name: str = "shop", **config: Any) -> Flask:
    app = Flask(name)
    app.config.update(config or {"DATASTREAM_URL": URL})
    for stream in streams:
        stream.init_app(app)
    return app


@contextmanager
def started(stream: DataStream, *apps: Flask) -> Iterator[None]:
    for app in apps:
        stream.start(app)
    try:
        for app in apps:
            with app.app_context():
                stream.client.wait_ready(PATIENCE)
        yield
    finally:
        for app in apps:
            stream.close(app)


# --- where things live ----------------------------------------------------------------------------


def test_handlers_from_before_and_after_any_app() -> None:
    stream, seen = DataStream(), []

    @stream.on_message
    def before(message: Message) -> None:
        seen.append(f"before {current_app.name}")

    app = app_with(stream)
    stream.deliver(app, "x")

    @stream.on_message
    async def after(message: Message) -> None:
        seen.append(f"after {current_app.name}")

    stream.deliver(app, "x")
    assert seen == ["before shop", "before shop", "after shop"]


def test_state_lives_in_the_app() -> None:
    stream = DataStream()
    app = app_with(stream)
    assert list(app.extensions["datastream"]) == ["default"]
    stream.on_message(print)
    with app.app_context():
        gone = weakref.ref(stream.client)
    del app
    gc.collect()
    assert gone() is None


def test_second_init_app_names_the_cure() -> None:
    stream = DataStream()
    app = app_with(stream)
    for again in (stream, DataStream()):
        with pytest.raises(ConfigurationError, match=r"once per app.*DataStream\(name='prices'\)"):
            again.init_app(app)
    DataStream(app, name="prices")


def test_one_client_per_app_and_name() -> None:
    first, prices = DataStream(), DataStream(name="prices")
    config = {"DATASTREAM_URL": URL, "DATASTREAMS": {"prices": {"URL": URL}}}
    apps = [app_with(first, prices, name=name, **config) for name in ("one", "two")]
    clients = []
    for app in apps:
        with app.app_context():
            assert first.client is first.client
            clients += [first.client, prices.client]
    assert len(set(clients)) == 4
    assert [client.name for client in clients] == ["default", "prices"] * 2


def test_client_needs_an_app() -> None:
    stream = DataStream()
    with pytest.raises(RuntimeError, match="application context"):
        _ = stream.client
    with Flask("bare").app_context(), pytest.raises(ConfigurationError, match=r"init_app\(app\)"):
        _ = stream.client


def test_send_in_a_process_without_the_stream_says_how_to_start_it() -> None:
    stream = DataStream()
    with app_with(stream).app_context(), pytest.raises(NotConnectedError) as caught:
        stream.send("x")
    for word in ("default", "start()", "command", "AUTOSTART"):
        assert word in str(caught.value)


# --- no handler crosses over ----------------------------------------------------------------------


def test_two_apps_share_an_extension() -> None:
    stream, seen, done = DataStream(), [], threading.Semaphore(0)

    @stream.on_message
    def handle(message: Message) -> None:
        seen.append((current_app.name, message.data))
        done.release()

    with StreamServer() as east, StreamServer() as west:
        apps = [
            app_with(stream, name=name, DATASTREAM_URL=server.url)
            for name, server in {"east": east, "west": west}.items()
        ]
        with started(stream, *apps):
            for server in (east, west):
                server.send(f"from {server.port}")
            for app in apps:
                with app.app_context():
                    stream.send(app.name)
            assert done.acquire(timeout=PATIENCE)
            assert done.acquire(timeout=PATIENCE)
            assert east.wait_received(1, PATIENCE) == ["east"]
            assert west.wait_received(1, PATIENCE) == ["west"]
        expected = {("east", f"from {east.port}"), ("west", f"from {west.port}")}
    assert len(seen) == 2
    assert set(seen) == expected


def test_two_streams_in_one_app(stream_server: StreamServer) -> None:
    flags, prices, seen = DataStream(), DataStream(name="prices"), []
    flags.on_message(lambda message: seen.append(("flags", message.stream, message.data)))
    prices.on_message(lambda message: seen.append(("prices", message.stream, message.data)))
    with StreamServer() as other:
        app = app_with(
            flags,
            prices,
            DATASTREAM_URL=stream_server.url,
            DATASTREAMS={"prices": {"URL": other.url}},
        )
        with started(flags, app), started(prices, app):
            stream_server.send("flag")
            other.send("price")
    assert sorted(seen) == [("flags", "default", "flag"), ("prices", "prices", "price")]


# --- contexts -------------------------------------------------------------------------------------


def test_every_call_has_a_context_of_its_own(stream_server: StreamServer) -> None:
    """Hooks and handlers, plain and coroutine functions; torn down with what was raised."""
    stream, seen, torn = DataStream(), [], []

    def look(what: str) -> None:
        assert current_app.name == "shop"
        assert "used" not in g
        g.used = what
        seen.append(what)

    stream.on_ready(lambda: look("ready"))

    @stream.on_message("plain")
    def plain(message: Message) -> None:
        look("plain")

    @stream.on_message("coroutine")
    async def coroutine(message: Message) -> None:
        look("coroutine")
        await asyncio.sleep(0)
        assert g.used == "coroutine"

    @stream.on_message("failing")
    def failing(message: Message) -> None:
        look("failing")
        raise KeyError

    app = app_with(stream, DATASTREAM_URL=stream_server.url)

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        torn.append((g.get("used"), type(error).__name__))

    kinds = ["plain", "coroutine", "failing"] * 3
    with started(stream, app), app.app_context():
        g.used = "outside"
        for kind in kinds:
            stream_server.send({"type": kind})
    with app.app_context():
        assert stream.client.stats().messages_failed == 3
    assert seen == ["ready", *kinds]
    raised = {"failing": "KeyError"}
    calls = [(used, error) for used, error in torn if used not in (None, "outside")]
    assert calls == [(kind, raised.get(kind, "NoneType")) for kind in seen]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_messages_of_a_run_share_a_context(stream_server: StreamServer, is_async: bool) -> None:
    """One context for those that wait; torn down with the run, and after a failure at once."""
    stream, torn = DataStream(), []
    hurry = threading.Event()

    def keep(message: Message) -> None:
        assert current_app.name == "shop"
        g.seen = [*g.get("seen", ()), message.data]
        if message.data == "bad":
            raise KeyError

    def plain(message: Message) -> None:
        hurry.wait(PATIENCE)
        keep(message)

    async def coroutine(message: Message) -> None:
        await asyncio.to_thread(hurry.wait, PATIENCE)
        keep(message)

    stream.on_message(coroutine if is_async else plain)
    app = app_with(stream, DATASTREAM_URL=stream_server.url, DATASTREAM_CONTEXT="run")

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        if "seen" in g:
            torn.append((g.seen, error))

    with started(stream, app):
        sent = ["first", "a", "b", "bad", "c", "d"]
        for data in sent:
            stream_server.send(data)
        with app.app_context():
            client = stream.client
        eventually(lambda: client.stats().messages_received == len(sent))
        hurry.set()
    assert [data for seen, _ in torn for data in seen] == sent
    assert [seen[-1] for seen, _ in torn].count("bad") == 1  # it ended its context
    assert len(torn) <= 4  # as many runs at most, and two contexts more for the failure
    assert {error for _, error in torn} == {None}


def test_hooks_of_a_stream_with_contexts_per_run_have_their_own(
    stream_server: StreamServer,
) -> None:
    stream, seen = DataStream(), []

    @stream.on_ready
    def ready() -> None:
        seen.append((current_app.name, "used" in g))
        g.used = True

    stream.on_state(lambda event: ready())
    app = app_with(stream, DATASTREAM_URL=stream_server.url, DATASTREAM_CONTEXT="run")
    with started(stream, app):
        pass
    assert len(seen) > 1
    assert set(seen) == {("shop", False)}


def test_a_request_that_starts_the_stream_is_not_seen_by_handlers(
    stream_server: StreamServer,
) -> None:
    stream, seen = DataStream(), []

    @stream.on_message
    async def handle(message: Message) -> None:
        seen.append((has_app_context(), has_request_context()))

    app = app_with(stream, DATASTREAM_URL=stream_server.url)
    with app.test_request_context("/"):
        stream.client.start()
        stream.client.wait_ready(PATIENCE)
    stream_server.send("x")
    stream.close(app)
    assert seen == [(True, False)]


def test_contexts_of_the_user_are_inside_the_app_context() -> None:
    stream, seen = DataStream(), []

    @stream.use
    @contextmanager
    def unit() -> Iterator[None]:
        seen.append(current_app.name)
        yield

    stream.on_message(lambda message: None)
    stream.deliver(app_with(stream), "x")
    assert seen == ["shop"]


def test_deliver_raises_or_reports() -> None:
    stream, reported = DataStream(), list[BaseException]()
    stream.on_error(reported.append)

    @stream.on_message
    def handle(message: Message) -> None:
        raise KeyError("flag")

    app = app_with(stream)
    with pytest.raises(KeyError):
        stream.deliver(app, {"type": "x"})
    stream.deliver(app, {"type": "x"}, robust=True)
    [error] = reported
    assert isinstance(error, HandlerError)


def test_a_disabled_stream_is_not_started() -> None:
    stream = DataStream()
    app = app_with(stream, DATASTREAM_URL=URL, DATASTREAM_ENABLED=False)
    stream.start(app)
    with app.app_context():
        assert stream.client.state is State.IDLE
    stream.start(app_with(stream, DATASTREAM_ENABLED=False))  # not even a URL is needed
