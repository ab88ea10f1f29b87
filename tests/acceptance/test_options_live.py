"""Each option and verb at work on a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, unix_serve

from datastream_ws import (
    AsyncClient,
    Client,
    ConfigurationError,
    DecodeError,
    DisconnectEvent,
    HandlerError,
    Handlers,
    InboxOverflowError,
    Message,
    NotConnectedError,
    Postponed,
    State,
    StreamClosedError,
)
from datastream_ws.testing import StreamServer, capture_sent
from kit.numbered import check_ledger
from kit.rawserver import TEXT, Drain, Frame, RawServer, Send, Stall, Upgrade
from kit.seen import FAST, Seen, eventually


class Held:
    """A handler that holds the first message until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.handled = Seen[Message]()

    def __call__(self, message: Message) -> None:
        self.begun.set()
        assert self.go.wait(60)
        self.handled(message)

    @property
    def data(self) -> list[str | bytes]:
        return [message.data for message in self.handled.all]


@pytest.mark.parametrize("size", [sys.maxsize, 10**30])
def test_any_number_may_stand_for_no_limit_of_size(size: int) -> None:
    """Zlib refuses such a number, and every compressed message ended the connection."""
    with StreamServer() as server, Client(server.url, max_size=size, **FAST) as client:
        data = Seen[Any]()
        client.on_message(lambda message: data(message.data))
        client.wait_ready(30)
        server.send("x" * 5000)
        assert data.wait(1) == ["x" * 5000]
        assert client.stats().connections == 1


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


def numbers(first: int, last: int) -> list[str]:
    return [str(n) for n in range(first, last + 1)]


def send_all(server: StreamServer, messages: list[Any]) -> None:
    for message in messages:
        server.send(message)


# --- overflow ---------------------------------------------------------------------------------


def overflow(
    server: StreamServer, options: dict[str, Any], count: int, received: int
) -> tuple[Held, Client, list[BaseException]]:
    """Send *count* messages while the first is in hand; return who handled what in the end."""
    held, errors = Held(), Seen[BaseException]()
    client = Client(server.url, **options, **FAST)
    client.on_message(held)
    client.on_error(errors)
    with client:
        client.wait_ready(30)
        server.send("0")
        assert held.begun.wait(30)
        send_all(server, numbers(1, count))
        eventually(lambda: client.stats().messages_received >= received)
        held.go.set()
        eventually(lambda: client.stats().messages_waiting == 0)
    check_ledger(client.stats())
    return held, client, errors.all


@pytest.mark.fault("64", "G10")
def test_overflow_block(server: StreamServer) -> None:
    """Reading stops; everything is handled in the end, and the time is counted."""
    options: dict[str, Any] = {"inbox_size": 10, "overflow": "block"}
    held, client = Held(), Client(server.url, **options, **FAST)
    client.on_message(held)
    with client:
        client.wait_ready(30)
        send_all(server, numbers(1, 500))
        eventually(lambda: client.stats().blocked_seconds > 0)
        assert client.stats().messages_waiting <= 10
        held.go.set()
        held.handled.wait(500)
        assert held.data == numbers(1, 500)
        assert client.stats().messages_dropped == {}


@pytest.mark.fault("64", "G10")
def test_overflow_drop_oldest(server: StreamServer) -> None:
    """The newest stay; what went is counted and reported."""
    options: dict[str, Any] = {"inbox_size": 10, "overflow": "drop_oldest"}
    held, client, errors = overflow(server, options, 100, 101)
    assert held.data == ["0", *numbers(92, 100)]  # ten with the one in hand
    assert client.stats().messages_dropped == {"overflow": 91}
    assert any(isinstance(error, InboxOverflowError) for error in errors)


@pytest.mark.fault("64", "G10")
def test_overflow_drop_newest(server: StreamServer) -> None:
    """The oldest stay; what went is counted and reported."""
    options: dict[str, Any] = {"inbox_size": 10, "overflow": "drop_newest"}
    held, client, errors = overflow(server, options, 100, 101)
    assert held.data == ["0", *numbers(1, 9)]
    assert client.stats().messages_dropped == {"overflow": 91}
    assert any(isinstance(error, InboxOverflowError) for error in errors)


@pytest.mark.fault("64", "G10")
def test_overflow_disconnect(server: StreamServer) -> None:
    """The connection is dropped, and the next one goes on; what was received is handled."""
    ended = Seen[DisconnectEvent]()
    held = Held()
    client = Client(server.url, inbox_size=10, overflow="disconnect", **FAST)
    client.on_message(held)
    client.on_disconnect(ended)
    with client:
        client.wait_ready(30)
        send_all(server, numbers(1, 100))
        assert isinstance(ended.wait()[0].error, InboxOverflowError)
        held.go.set()
        server.wait_connected(2, 30)
        client.wait_ready(30)
        held.handled.wait(10)
        assert held.data[:10] == numbers(1, 10)


@pytest.mark.fault("64")
def test_inbox_bytes(server: StreamServer) -> None:
    """The limit in bytes holds as well as the one in messages."""
    options: dict[str, Any] = {"inbox_bytes": 1000, "overflow": "drop_oldest"}
    held = Held()
    client = Client(server.url, **options, **FAST)
    client.on_message(held)
    with client:
        client.wait_ready(30)
        server.send("first")
        assert held.begun.wait(30)
        send_all(server, [f"{n:100}" for n in range(50)])
        eventually(lambda: client.stats().messages_received == 51)
        assert client.stats().messages_waiting <= 10
        held.go.set()
        eventually(lambda: client.stats().messages_waiting == 0)
    assert held.data[-1] == f"{49:100}"


def test_conflate(server: StreamServer) -> None:
    """A newer message takes the place of a waiting one with the same key."""
    held = Held()
    client = Client(server.url, conflate=lambda message: message.json()["key"], **FAST)
    client.on_message(held)
    with client:
        client.wait_ready(30)
        server.send({"key": "first"})
        assert held.begun.wait(30)
        for n in range(10):
            for key in "ab":
                server.send({"key": key, "n": n})
        eventually(lambda: client.stats().messages_received == 21)
        held.go.set()
        held.handled.wait(3)
    values = [message.json() for message in held.handled.all]
    assert values == [{"key": "first"}, {"key": "a", "n": 9}, {"key": "b", "n": 9}]
    assert client.stats().messages_dropped == {"conflated": 18}
    check_ledger(client.stats())


# --- concurrency ------------------------------------------------------------------------------


def test_concurrency(server: StreamServer) -> None:
    """So many handlers are at work at once, and no more."""
    at_work, most = [0], Seen[int]()
    lock, meet = threading.Lock(), threading.Barrier(4)

    def handle(message: Message) -> None:
        with lock:
            at_work[0] += 1
            most(at_work[0])
        meet.wait(30)  # only four at once get past this
        with lock:
            at_work[0] -= 1

    client = Client(server.url, concurrency=4, **FAST)
    client.on_message(handle)
    with client:
        client.wait_ready(30)
        send_all(server, numbers(1, 40))
        eventually(lambda: client.stats().messages_handled == 40)
    assert max(most.all) == 4


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_ordering_key(server: StreamServer, kind: str) -> None:
    """With concurrency, the order is kept per key, and lanes do not wait for one another."""
    handled = Seen[tuple[str, int]]()
    stuck = threading.Event()

    def handle(message: Message) -> None:
        value = message.json()
        if value == {"lane": "stuck", "n": 0}:
            stuck.wait(60)
        handled((value["lane"], value["n"]))

    async def handle_async(message: Message) -> None:
        value = message.json()
        if value == {"lane": "stuck", "n": 0}:
            await asyncio.to_thread(stuck.wait, 60)
        await asyncio.sleep(0)
        handled((value["lane"], value["n"]))

    client = Client(
        server.url, concurrency=3, ordering_key=lambda message: message.json()["lane"], **FAST
    )
    client.on_message(handle if kind == "plain" else handle_async)
    with client:
        client.wait_ready(30)
        for n in range(50):
            for lane in ("stuck", "a", "b"):
                server.send({"lane": lane, "n": n})
        handled.wait(100)
        assert not [lane for lane, _ in handled.all if lane == "stuck"]
        stuck.set()
        handled.wait(150)
    for lane in ("stuck", "a", "b"):
        assert [n for name, n in handled.all if name == lane] == list(range(50))


# --- handlers ---------------------------------------------------------------------------------


def test_batches(server: StreamServer) -> None:
    """on_batch gets lists: full ones at once, the rest after max_wait, all in order."""
    batches: Seen[list[Message]] = Seen()
    client = Client(server.url, **FAST)
    client.on_batch(10, 0.2)(batches)
    with client:
        client.wait_ready(30)
        send_all(server, numbers(1, 25))
        eventually(lambda: client.stats().messages_handled == 25)
    assert [len(batch) for batch in batches.all] == [10, 10, 5]
    assert [message.data for batch in batches.all for message in batch] == numbers(1, 25)


def test_batches_at_the_end(server: StreamServer) -> None:
    """close() does not wait for max_wait, and loses nothing."""
    batches: Seen[list[Message]] = Seen()
    client = Client(server.url, **FAST)
    client.on_batch(100, 3600.0)(batches)
    with client:
        client.wait_ready(30)
        send_all(server, numbers(1, 25))
        eventually(lambda: client.stats().messages_received == 25)
    assert [len(batch) for batch in batches.all] == [25]
    check_ledger(client.stats())


@pytest.mark.fault("68")
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_handler_timeout(server: StreamServer, kind: str) -> None:
    """A handler that runs too long is reported by name, with its stack, and runs on."""
    go, errors, handled = threading.Event(), Seen[BaseException](), Seen[Message]()

    def slow_and_plain(message: Message) -> None:
        go.wait(60)
        handled(message)

    async def slow_coroutine(message: Message) -> None:
        await asyncio.to_thread(go.wait, 60)
        handled(message)

    client = Client(server.url, handler_timeout=0.1, **FAST)
    client.on_message(slow_and_plain if kind == "plain" else slow_coroutine)
    client.on_error(errors)
    with client:
        client.wait_ready(30)
        server.send("x")
        error = errors.wait()[0]
        go.set()
        handled.wait()
    assert isinstance(error, HandlerError)
    assert "slow_" in str(error)
    assert "go.wait" in str(error.__cause__)
    assert error.message is handled.all[0]
    assert client.stats().messages_failed == 0


@dataclass
class Flag:
    key: str
    value: bool = False


def test_typed_messages(server: StreamServer) -> None:
    """decode_as gives the handler a dataclass; what does not fit is a HandlerError."""
    flags, errors = Seen[Flag](), Seen[BaseException]()
    client = Client(server.url, **FAST)
    client.on_message("flag", decode_as=Flag)(flags)
    client.on_error(errors)
    with client:
        client.wait_ready(30)
        server.send({"type": "flag", "key": "a", "value": True, "unknown": 1})
        server.send({"type": "flag"})
        server.send({"type": "flag", "key": "b"})
        flags.wait(2)
    assert flags.all == [Flag("a", True), Flag("b")]
    (error,) = errors.all
    assert isinstance(error, HandlerError)
    assert isinstance(error.__cause__, DecodeError)
    assert client.stats().messages_failed == 1


def test_routes(server: StreamServer) -> None:
    """By name, by predicate, by default, bare; each once, in order of registration."""
    called = Seen[tuple[str, Any]]()

    def into(name: str) -> Callable[[Message], None]:
        return lambda message: called((name, message.json()["n"]))

    client = Client(server.url, **FAST)
    client.on_message("a")(into("route a"))
    client.on_message(when=lambda message: message.json()["n"] > 1)(into("above 1"))
    client.on_message(default=True)(into("default"))
    with client:
        client.wait_ready(30)
        for n, route in enumerate(["a", "b", "a", "c"]):
            server.send({"type": route, "n": n})
        called.wait(5)
    assert called.all == [
        ("route a", 0),
        ("default", 1),
        ("route a", 2),
        ("above 1", 2),
        ("above 1", 3),
    ]


@pytest.mark.parametrize("route", ["event", lambda message: message.json().get("event")])
def test_route_as_another_field_and_as_a_callable(server: StreamServer, route: Any) -> None:
    """The option route names the field, or finds the name."""
    seen = Seen[Message]()
    handlers = Handlers()
    handlers.on_message("tick")(seen)
    client = Client(server.url, route=route, handlers=handlers, **FAST)
    with client:
        client.wait_ready(30)
        server.send({"event": "tick"})
        server.send({"event": "tock"})
        eventually(lambda: client.stats().messages_unrouted == 1)
    assert len(seen) == 1


@pytest.mark.parametrize("codec", ["json", "orjson", "msgspec"])
def test_codecs(server: StreamServer, codec: Any) -> None:
    """What json() and send() use."""
    if codec != "json":
        pytest.importorskip(codec)
    values = Seen[Any]()
    client = Client(server.url, codec=codec, **FAST)
    client.on_message(lambda message: values(message.json()))
    with client:
        client.wait_ready(30)
        server.send({"a": [1, "ü"]})
        assert values.wait() == [{"a": [1, "ü"]}]
        client.send({"b": None})
        assert json.loads(server.wait_received(1, 30)[0]) == {"b": None}


@pytest.mark.fault("66", "G2", "P6")
def test_a_failing_handler_does_not_stop_the_stream(server: StreamServer) -> None:
    """It is logged with its traceback, counted, given to on_error and errors()."""
    errors, handled = Seen[BaseException](), Seen[Message]()

    def fail(message: Message) -> None:
        if message.data == "bad":
            raise ValueError("cannot")
        handled(message)

    client = Client(server.url, **FAST)
    client.on_message(fail)
    client.on_error(errors)
    with client:
        client.wait_ready(30)
        send_all(server, ["good", "bad", "good"])
        handled.wait(2)
        (error,) = errors.wait()
        assert next(client.errors(timeout=1)) is error
    assert isinstance(error, HandlerError)
    assert isinstance(error.__cause__, ValueError)
    assert error.message is not None
    assert error.message.data == "bad"
    assert error.handler is fail
    stats = client.stats()
    assert (stats.messages_handled, stats.messages_failed) == (2, 1)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_postponed(server: StreamServer, kind: str) -> None:
    """The same message again after the delay, before any other."""
    tries: Seen[tuple[float, str | bytes]] = Seen()

    def handle(message: Message) -> None:
        tries((time.monotonic(), message.data))
        if message.data == "1" and len(tries) < 3:
            raise Postponed(0.1)

    async def handle_async(message: Message) -> None:
        handle(message)

    client = Client(server.url, **FAST)
    client.on_message(handle if kind == "plain" else handle_async)
    with client:
        client.wait_ready(30)
        send_all(server, ["1", "2"])
        tries.wait(4)
    assert [data for _, data in tries.all] == ["1", "1", "1", "2"]
    moments = [at for at, _ in tries.all]
    assert moments[1] - moments[0] >= 0.1
    assert moments[2] - moments[1] >= 0.1
    stats = client.stats()
    assert (stats.messages_handled, stats.messages_failed) == (2, 0)


def test_retry_message(server: StreamServer) -> None:
    """Such an error gets the message once more, in fresh contexts; a second one fails it."""
    tries, entered = Seen[str | bytes](), Seen[str]()
    errors = Seen[BaseException]()

    @contextlib.contextmanager
    def unit() -> Iterator[None]:
        entered("in")
        yield

    def handle(message: Message) -> None:
        tries(message.data)
        if message.data == "always" or tries.all.count(message.data) == 1:
            raise ConnectionError("the database went away")

    client = Client(
        server.url, retry_message=lambda error: isinstance(error, ConnectionError), **FAST
    )
    client.use(unit, per="run")
    client.on_message(handle)
    client.on_error(errors)
    with client:
        client.wait_ready(30)
        send_all(server, ["once", "always"])
        errors.wait()
    assert tries.all == ["once", "once", "always", "always"]
    assert len(entered) >= 3
    stats = client.stats()
    assert (stats.messages_handled, stats.messages_failed) == (1, 1)


# --- use() ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["call", "run"])
def test_use_around_plain_handlers(server: StreamServer, per: Any) -> None:
    """Entered and left in the thread that handles, around each call or each run of messages."""
    log: Seen[str] = Seen()
    held = Held()

    @contextlib.contextmanager
    def unit() -> Iterator[None]:
        thread = threading.current_thread()
        log("enter")
        yield
        assert threading.current_thread() is thread
        log("leave")

    client = Client(server.url, **FAST)
    client.use(unit, per=per)

    def handle(message: Message) -> None:
        held(message)
        log(str(message.data))

    client.on_message(handle)
    with client:
        client.wait_ready(30)
        send_all(server, numbers(1, 3))
        eventually(lambda: client.stats().messages_received == 3)
        held.go.set()
        held.handled.wait(3)
    if per == "call":
        assert log.all == [word for n in "123" for word in ("enter", n, "leave")]
    else:
        # Those that waited when the run began are in one entry; a run may also find none.
        assert log.all[:4] == ["enter", "1", "2", "3"]
        assert log.all[4] == "leave"


@pytest.mark.parametrize("per", ["call", "run"])
def test_use_around_coroutine_handlers(server: StreamServer, per: Any) -> None:
    """An asynchronous context is entered around coroutine handlers, on the loop."""
    log: Seen[str] = Seen()

    @contextlib.asynccontextmanager
    async def unit() -> AsyncIterator[None]:
        await asyncio.sleep(0)
        log("enter")
        yield
        await asyncio.sleep(0)
        log("leave")

    async def handle(message: Message) -> None:
        await asyncio.sleep(0)
        log(str(message.data))

    client = Client(server.url, **FAST)
    client.use(unit, per=per)
    client.on_message(handle)
    with client:
        client.wait_ready(30)
        server.send("1")
        log.wait(3)
    assert log.all[:3] == ["enter", "1", "leave"]


def test_use_per_call_sees_what_the_handler_raised_and_hooks_too(server: StreamServer) -> None:
    """As a transaction must, to be rolled back."""
    raised = Seen[str]()

    @contextlib.contextmanager
    def transaction() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raised(type(error).__name__)
            raise

    client = Client(server.url, **FAST)
    client.use(transaction)
    client.on_message(lambda message: message.json()["missing"])
    client.on_state(lambda event: 1 / 0 if event.state is State.READY else None)
    with client:
        client.wait_ready(30)
        server.send({})
        raised.wait(2)
    assert sorted(raised.all) == ["KeyError", "ZeroDivisionError"]


# --- sending by itself ------------------------------------------------------------------------


def test_heartbeat(server: StreamServer) -> None:
    """An object, or what a callable returns, every heartbeat_interval while ready."""
    count = iter(range(1000))
    beats: list[Any] = [{"type": "ping"}, lambda: {"n": next(count)}]
    for heartbeat in beats:
        before = len(server.received)
        client = Client(server.url, heartbeat=heartbeat, heartbeat_interval=0.05, **FAST)
        with client:
            client.wait_ready(30)
            server.wait_received(before + 3, 30)
    received = [json.loads(frame) for frame in server.received]
    assert received[:3] == [{"type": "ping"}] * 3
    assert {"n": 0} in received
    assert {"n": 1} in received


def test_subscriptions(server: StreamServer) -> None:
    """Sent now and on every connection; the same key takes its place; unsubscribe ends it."""
    client = Client(server.url, **FAST)
    client.subscribe("early", key="a", unsubscribe="end early")
    client.subscribe("old", key="b")
    client.subscribe("new", key="b")
    with client:
        client.wait_ready(30)
        assert server.wait_received(2, 30) == ["early", "new"]
        client.subscribe({"now": 1})
        server.wait_received(3, 30)
        client.unsubscribe("a")
        client.unsubscribe("unknown")
        assert server.wait_received(4, 30)[-1] == "end early"
        server.abort()
        server.wait_connected(2, 30)
        assert server.wait_received(6, 30)[4:] == ["new", '{"now":1}']


# --- verbs ------------------------------------------------------------------------------------


def test_reconnect(server: StreamServer) -> None:
    """A new connection at once, the old one closed with 1000; nothing is lost."""
    ended = Seen[DisconnectEvent]()
    client = Client(server.url, min_reconnect_delay=60, max_reconnect_delay=60, proxy=None)
    client.on_disconnect(ended)
    with client:
        client.wait_ready(30)
        client.reconnect()
        server.wait_connected(2, 30)
        client.wait_ready(30)
        assert server.connections[0].close_code == 1000
        event = ended.wait()[0]
        assert (event.error, event.will_retry) == (None, True)
        server.refuse(503, times=1)
        server.abort()
        eventually(lambda: client.state is State.WAITING)
        client.reconnect()  # ends the wait of a minute
        eventually(lambda: client.state is State.WAITING and client.stats().attempts == 3)
        client.reconnect()
        server.wait_connected(3, 30)


def test_verbs_on_a_client_that_is_not_started() -> None:
    """They raise NotConnectedError that says how to start it."""
    client = Client("ws://127.0.0.1:9")
    verbs: list[Callable[[], Any]] = [
        client.reconnect,
        client.pause,
        client.resume,
        client.flush,
        lambda: client.request("x", lambda message: True),
        lambda: client.wait_ready(1),
    ]
    for verb in verbs:
        with pytest.raises(NotConnectedError, match="start"):
            verb()


def test_a_request_fails_at_once_on_a_drop(server: StreamServer) -> None:
    """Not after its own timeout of a minute."""
    failures = Seen[BaseException]()

    def ask() -> None:
        try:
            client.request("?", lambda message: False, timeout=60)
        except Exception as error:
            failures(error)

    with Client(server.url, **FAST) as client:
        client.wait_ready(30)
        asking = threading.Thread(target=ask)
        asking.start()
        server.wait_received(1, 30)
        begun = time.monotonic()
        server.abort()
        failures.wait()
        assert time.monotonic() - begun < 5
        asking.join(30)
        assert isinstance(failures.all[0], NotConnectedError)
        server.wait_connected(2, 30)
        client.wait_ready(30)
        with pytest.raises(TimeoutError):
            client.request("?", lambda message: False, timeout=0.1)


def test_a_match_that_raises_fails_its_own_request_only(server: StreamServer) -> None:
    """The error comes back to who asked; the connection lives on."""
    with Client(server.url, **FAST) as client:
        client.wait_ready(30)
        sender = threading.Timer(0.1, server.send, ["x"])
        sender.start()
        with pytest.raises(ZeroDivisionError):
            client.request("?", lambda message: 1 / 0, timeout=30)
        sender.join(30)
        assert client.stats().connections == 1


async def test_iteration(server: StreamServer) -> None:
    """async for yields messages across connections, and ends with the client."""
    seen: list[str | bytes] = []
    client = AsyncClient(server.url, inbox_size=5, **FAST)
    async with client:
        await client.wait_ready(30)
        server.send("0")
        messages = aiter(client)
        assert (await anext(messages)).data == "0"  # now there is somebody reading has to wait for
        await asyncio.to_thread(send_all, server, numbers(1, 50))
        async for message in messages:
            seen.append(message.data)
            if message.data == "50":
                server.abort()
                await asyncio.to_thread(server.wait_connected, 2, 30)
                await client.wait_ready(30)
                server.send("51")
            if message.data == "51":
                break
        assert seen == numbers(1, 51)
        del messages

        async def rest() -> list[str | bytes]:
            return [message.data async for message in client]

        reading = asyncio.create_task(rest())
        server.send("52")
        while client.stats().messages_received < 53:  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.005)
    assert await asyncio.wait_for(reading, 30) == ["52"]
    check_ledger(client.stats())


async def test_iteration_beside_handlers_is_refused() -> None:
    """Both would take each other's messages: ConfigurationError."""
    client = AsyncClient("ws://127.0.0.1:9")
    client.on_message(lambda message: None)
    with pytest.raises(ConfigurationError, match="on_message"):
        client.__aiter__()


async def test_iteration_raises_when_the_client_fails(server: StreamServer) -> None:
    """What is received is yielded first, then the loop raises why."""
    async with AsyncClient(server.url, **FAST) as client:
        await client.wait_ready(30)
        messages = aiter(client)
        server.send("last")
        server.close(4001, "go")
        assert (await anext(messages)).data == "last"
        await asyncio.to_thread(server.wait_connected, 2)
        await client.wait_ready(30)
        server.close(4001, "go")
        with pytest.raises(StreamClosedError, match="4001"):
            await anext(messages)


def test_deliver() -> None:
    """Through the handlers in the calling thread, raising what they raise."""
    client = Client("ws://127.0.0.1:9")
    seen = Seen[tuple[Any, str]]()
    client.on_message("a")(lambda m: seen((m.json(), threading.current_thread().name)))

    async def coroutine(message: Message) -> None:
        seen((message.json(), "coroutine"))

    client.on_message("a")(coroutine)
    client.on_message("bad")(lambda message: 1 / 0)
    client.deliver({"type": "a"})
    client.deliver('{"type":"a"}')
    name = threading.current_thread().name
    assert seen.all == [({"type": "a"}, name), ({"type": "a"}, "coroutine")] * 2
    with pytest.raises(ZeroDivisionError):
        client.deliver({"type": "bad"})
    client.deliver({"type": "bad"}, robust=True)


def test_capture_sent() -> None:
    """What handlers send is collected without a server, from plain and coroutine ones."""
    client = Client("ws://127.0.0.1:9")
    client.on_message(lambda message: client.send({"echo": message.json()}))

    async def coroutine(message: Message) -> None:
        await client.aio.send("from a coroutine")

    client.on_message(coroutine)
    with capture_sent(client) as sent:
        client.deliver({"n": 1})
    assert sent == [{"echo": {"n": 1}}, "from a coroutine"]


# --- the connection ---------------------------------------------------------------------------


def test_url_headers_origin_and_subprotocols() -> None:
    """What the server is asked for is what the options say, each time anew from callables."""
    paths = iter(["/one?x=1", "/two"])

    async def headers() -> dict[str, str]:
        return {"X-Token": " spaced "}

    with StreamServer(subprotocols=["v2.feed"]) as server:
        client = Client(
            lambda: server.url + next(paths),
            headers=headers,
            origin="https://example.com",
            subprotocols=["v2.feed"],
            compression=None,
            **FAST,
        )
        with client:
            client.wait_ready(30)
            server.abort()
            server.wait_connected(2, 30)
            client.wait_ready(30)
        first, second = server.connections
    assert (first.path, second.path) == ("/one?x=1", "/two")
    assert first.headers["X-Token"] == "spaced"
    assert first.headers["Origin"] == "https://example.com"
    assert first.headers["Sec-WebSocket-Protocol"] == "v2.feed"
    assert "Sec-WebSocket-Extensions" not in first.headers
    assert first.headers["User-Agent"].startswith("datastream-ws/")


def test_both_address_families_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose first address does not answer: the second one is used, without long waits."""
    real = socket.getaddrinfo
    with RawServer([Upgrade(), Stall()]) as server:

        def both(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "two-families.invalid":
                return real(host, port, *args, **kwargs)
            (found,) = real("127.0.0.1", port, type=socket.SOCK_STREAM)
            dead = (socket.AF_INET6, found[1], found[2], "", ("::1", 9, 0, 0))
            silent = (socket.AF_INET, found[1], found[2], "", ("192.0.2.1", port))
            return [dead, silent, found]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        client = Client(
            f"ws://two-families.invalid:{server.port}", close_timeout=0.2, open_timeout=30, **FAST
        )
        with client:
            client.wait_ready(30)
            assert client.stats().attempts == 1


@pytest.mark.fault("T6")
def test_messages_know_where_they_came_from(server: StreamServer) -> None:
    """stream, seq, connection, epoch, received_at, is_text, last_message."""
    seen = Seen[Message]()
    client = Client(server.url, name="prices", **FAST)
    client.on_message(seen)
    with client:
        client.wait_ready(30)
        server.send("text")
        server.send(b"binary")
        seen.wait(2)
        server.abort()
        server.wait_connected(2, 30)
        client.wait_ready(30)
        server.send("{}")
        one, two, three = seen.wait(3)
        assert client.last_message is not None
        assert client.last_message == three
    assert [message.seq for message in seen.all] == [1, 2, 3]
    assert [message.connection for message in seen.all] == [1, 1, 2]
    assert {message.stream for message in seen.all} == {"prices"}
    assert one.epoch == two.epoch == three.epoch
    assert abs(one.epoch / 1000 - time.time()) < 60
    assert abs(one.received_at - time.time()) < 60
    assert (one.is_text, two.is_text) == (True, False)
    assert three.json() is three.json()


def test_handlers_may_be_added_while_messages_come(server: StreamServer) -> None:
    """From the next message on they are called."""
    first, second = Seen[Message](), Seen[Message]()
    client = Client(server.url, **FAST)
    client.on_message(first)
    with client:
        client.wait_ready(30)
        server.send("1")
        first.wait()
        client.on_message(second)
        server.send("2")
        second.wait()
    assert [message.data for message in second.all] == ["2"]


def test_what_a_full_inbox_held_back_outlives_its_connection() -> None:
    """Read from the socket in one go, but not in the inbox yet when the connection ends."""
    burst = b"".join(Frame(TEXT, n).data for n in numbers(1, 20))
    held = Held()
    with RawServer([Upgrade(), Send(burst), Drain()], [Upgrade(), Drain()]) as server:
        client = Client(server.url, inbox_size=5, close_timeout=0.3, **FAST)
        client.on_message(held)
        with client:
            eventually(lambda: client.stats().blocked_seconds > 0)
            client.reconnect()
            server.wait_connections(2, 30)
            held.go.set()
            held.handled.wait(20)
    assert held.data == numbers(1, 20)


# --- where to ---------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    """A socket of the file system, without a proxy; the resource stands behind a colon."""
    path = str(tmp_path / "feed.sock")
    said: list[str] = []

    async def hello(connection: ServerConnection) -> None:
        assert connection.request is not None
        said.append(f"{connection.request.path} {connection.request.headers['Host']}")
        await connection.send("hello")
        await connection.wait_closed()

    async def listen() -> Message:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        async with unix_serve(hello, path), AsyncClient(f"ws+unix://{path}:/v1?x=1") as client:
            client.on_message(messages.put_nowait)
            return await asyncio.wait_for(messages.get(), 10)

    assert asyncio.run(listen()).data == "hello"
    assert said == ["/v1?x=1 localhost"]
