"""A secret in a header, the query or the proxy URL is shown nowhere, whatever goes wrong."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import contextlib
import io
import json
import logging
import ssl
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import rich.console
import rich.traceback
import sentry_sdk
import trustme
from flask import Flask
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sentry_sdk.utils import event_from_exception

from datastream_ws import (
    AsyncClient,
    Client,
    ClientOptions,
    ConfigurationError,
    Fleet,
    Handlers,
    State,
    schematic,
)
from datastream_ws.connection.endpoint import Endpoint
from datastream_ws.embedding import embedded_options
from datastream_ws.fleet.source import compare
from datastream_ws.lease import RedisLease, lease_for
from datastream_ws.redaction import Hidden
from datastream_ws.testing import StreamServer
from datastream_ws_django.conf import StreamSettings
from datastream_ws_flask.settings import Settings as FlaskSettings
from kit.rawserver import (
    TEXT,
    Close,
    Frame,
    RawConnection,
    RawServer,
    Respond,
    Rst,
    Script,
    Send,
    Stall,
    Upgrade,
)
from kit.seen import Seen, eventually

CANARY = "c4n4ry-s3cr3t"
HEADERS = {"Authorization": f"Bearer {CANARY}", "X-Api-Key": CANARY}
QUERY = f"/v1/stream?token={CANARY}&x=1"
SHORT: dict[str, Any] = {
    "min_reconnect_delay": 0.02,
    "max_reconnect_delay": 0.05,
    "max_reconnect_attempts": 2,
    "close_timeout": 0.3,
    "open_timeout": 1.0,
    "max_size": 10_000,
}


@pytest.fixture
def shown(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Give a function that returns everything that was logged (at DEBUG) and printed."""
    caplog.set_level(logging.DEBUG)
    for name in ("datastream_ws", "websockets", "websockets.client", "asyncio"):
        caplog.set_level(logging.DEBUG, name)

    def everything() -> str:
        printed = capfd.readouterr()
        records = "\n".join(
            f"{logging.Formatter().format(record)} {vars(record)}" for record in caplog.records
        )
        return f"{caplog.text}\n{records}\n{printed.out}\n{printed.err}"

    return everything


def texts(error: BaseException) -> str:
    """Everything an error shows: text, repr, attributes, traceback with causes."""
    shown = [str(error), repr(error), repr(vars(error))]
    shown += traceback.format_exception(error)
    return "\n".join(shown)


def everything_of(client: Client, events: list[object], errors: list[BaseException]) -> str:
    parts = [repr(client), repr(client.aio), repr(client.options), str(client.options)]
    parts += [repr(client.stats()), repr(client.last_message), *map(repr, events)]
    parts += [texts(error) for error in errors]
    if client.error is not None:
        parts.append(texts(client.error))
    return "\n".join(parts)


@dataclass(frozen=True)
class Tunnel:
    """Answer the CONNECT of an HTTP proxy's client; the next request is the handshake."""

    def run(self, connection: RawConnection) -> None:
        connection.read_request()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.request = b""


ECHOED = f"no such token: {CANARY}"
DIRECT: dict[str, Script] = {
    "401": [Respond(401, [f"X-Echo: {CANARY}"], ECHOED.encode())],
    "404": [Respond(404, [f"X-Echo: {CANARY}"], ECHOED.encode())],
    "503": [Respond(503, body=ECHOED.encode())],
    "redirect to elsewhere": [Respond(302, [f"Location: ws://127.0.0.1:1/{QUERY}"])],
    "no upgrade": [Respond(200, body=ECHOED.encode())],
    "broken status line": [Send(f"HTTP/9.9 {CANARY}\r\n\r\n".encode()), Stall()],
    "broken header": [
        Send(b"HTTP/1.1 101 x\r\n" + CANARY.encode() + b"\r\n\r\n"),
        Stall(),
    ],
    "wrong accept": [Upgrade(accept=CANARY)],
    "unknown subprotocol": [Upgrade([f"Sec-WebSocket-Protocol: {CANARY}"])],
    "unknown extension": [Upgrade([f"Sec-WebSocket-Extensions: {CANARY}"])],
    "hang-up": [],
    "RST": [Rst()],
    "too big": [Upgrade(), Frame(TEXT, CANARY * 10_000)],
    "not UTF-8": [Upgrade(), Frame(TEXT, CANARY.encode() + b"\xff")],
    "not JSON": [Upgrade(), Frame(TEXT, '{"type": ' + CANARY), Rst()],
    "protocol error": [Upgrade(), Frame(TEXT, CANARY, masked=True)],
    "close": [Upgrade(), Frame(TEXT, CANARY), Close(1011, "bye")],
}


def run_and_fail(client: Client) -> str:
    """Run *client* until it has failed, with a handler that raises; return all it showed."""
    events: Seen[Any] = Seen()
    errors = Seen[BaseException]()
    for hook in (client.on_state, client.on_disconnect, client.on_gap):
        hook(events)
    client.on_error(errors)

    def handle(message: Any) -> None:
        events(message)
        message.json()

    client.on_message(handle)
    with contextlib.suppress(Exception):
        client.run()
    assert client.state is State.FAILED
    return everything_of(client, events.all, errors.all)


@pytest.mark.fault("G23")
@pytest.mark.parametrize("failure", DIRECT)
def test_failures_without_a_proxy(failure: str, shown: Callable[..., str]) -> None:
    """Headers, query, the server's own text and payloads are in no log, error or repr."""
    with RawServer(DIRECT[failure]) as server:
        client = Client(server.url + QUERY, headers=HEADERS, proxy=None, **SHORT)
        told = run_and_fail(client)
        first = server.connections[0]
        if first.request:  # and yet they were sent
            assert CANARY in first.request.decode()
    everything = told + shown()
    assert "stream default" in everything
    assert CANARY not in everything


HIDDEN = "h1dd3n-s3cr3t"  # in headers alone: the peer's text and the URL are local variables, too


def with_locals(error: BaseException) -> str:
    """As tools that collect errors show it: each frame of each cause with its variables."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(told.format())


@pytest.mark.parametrize("kind", ["mapping", "callable"])
@pytest.mark.parametrize("failure", ["401", "wrong accept", "hang-up", "RST", "away"])
def test_local_variables_hide_headers(failure: str, kind: str) -> None:
    """The names of the headers are told, so it is seen that one is there."""
    errors = Seen[BaseException]()
    headers = {"Authorization": HIDDEN}
    with RawServer(DIRECT.get(failure, [])) as server:
        client = Client(
            server.url if failure != "away" else "ws://127.0.0.1:9",
            headers=headers if kind == "mapping" else lambda: headers,
            proxy=None,
            **SHORT,
        )
        client.on_error(errors)
        client.start()
        eventually(lambda: client.state is State.FAILED)
        client.close()
    told = "".join(map(with_locals, errors.all))
    assert "Authorization" in told
    assert HIDDEN not in told


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[object] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events.append(envelope.get_event())


def collected(errors: list[BaseException]) -> str:
    """What the real sentry-sdk, by its defaults, sends of *errors*."""
    kept = Kept()
    collector = sentry_sdk.Client(
        "http://key@127.0.0.1/1", transport=kept, default_integrations=False
    )
    for error in errors:
        event, hint = event_from_exception(error, client_options=collector.options)
        assert collector.capture_event(event, hint)
    collector.close(0)
    assert len(kept.events) == len(errors)
    return json.dumps(kept.events)


def as_rich_shows(errors: list[BaseException]) -> str:
    console = rich.console.Console(file=io.StringIO(), width=200, record=True)
    for error in errors:
        told = rich.traceback.Traceback.from_exception(
            type(error), error, error.__traceback__, show_locals=True, locals_max_string=10_000
        )
        console.print(told)
    return console.export_text()


UNREACHED = {
    "away": "ws://127.0.0.1:9",
    "no host": "ws://no-such-host.invalid",
    "a proxy that is away": "http",
    "a SOCKS proxy that is away": "socks5",
}


@pytest.mark.parametrize("kind", ["mapping", "callable"])
@pytest.mark.parametrize("failure", ["401", "wrong accept", "hang-up", "RST", *UNREACHED])
def test_error_collectors_find_nothing(failure: str, kind: str) -> None:
    """They walk mappings, sequences and dataclasses in the frames of an error and its causes."""
    errors = Seen[BaseException]()
    headers, query = {"X-Schematic-Api-Key": HIDDEN}, f"/?token={HIDDEN}"
    with RawServer(DIRECT.get(failure, [])) as server:
        where = UNREACHED.get(failure, server.url)
        proxy = None
        if not where.startswith("ws:"):
            proxy, where = f"{where}://user:{HIDDEN}@127.0.0.1:9", "ws://feed.invalid"
        client = Client(
            where + query if kind == "mapping" else lambda: where + query,
            headers=headers if kind == "mapping" else lambda: headers,
            proxy=proxy,
            **SHORT,
        )
        client.on_error(errors)
        client.start()
        eventually(lambda: client.state is State.FAILED)
        client.close()
    assert errors.all
    told = collected(errors.all) + as_rich_shows(errors.all)
    assert "websockets_engine" in told
    assert HIDDEN not in told


@pytest.mark.parametrize("option", ["url", "headers"])
def test_error_collectors_find_nothing_of_what_is_wrong(option: str) -> None:
    """A secret read with its newline, returned by a callable."""
    errors = Seen[BaseException]()
    wrong = f"{HIDDEN}\n"
    given: dict[str, Any] = {"url": f"ws://127.0.0.1:9/?{HIDDEN}", "headers": {"A": HIDDEN}}
    given[option] = lambda: f"ws://h/?{wrong}" if option == "url" else {"A": wrong}
    client = Client(**given, proxy=None, **SHORT)
    client.on_error(errors)
    client.start()
    eventually(lambda: client.state is State.FAILED)
    client.close()
    assert isinstance(client.error, ConfigurationError)
    assert HIDDEN not in collected(errors.all) + as_rich_shows(errors.all)


def raised(make: Callable[[], object]) -> Exception:
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("it was taken")


def secret(text: str = "") -> str:
    """A secret that no local variable of the test holds."""
    return HIDDEN + text


loose: Any = Client  # whose wrong calls no type checker sees
# Each is wrong somewhere; the secret need not be what is wrong.
WRONG: dict[str, Callable[[], object]] = {
    "url": lambda: Client(f"wss://x/?t={secret()}#f"),
    "urls": lambda: Client(["ws://x", f"wss://x/?t={secret()}#f"]),
    "header": lambda: Client("ws://x", headers={"A": secret("\n")}),
    "proxy": lambda: Client("ws://x", proxy=f"ftp://u:{secret()}@h"),
    "lease": lambda: Client("ws://x", lease=f"zoo://:{secret()}@h"),
    "lease's port": lambda: lease_for(f"redis://:{secret()}@h:bad/0", "n"),
    "no option": lambda: loose("ws://x", headers={"A": secret()}, nope=1),
    "another option": lambda: Client("ws://x", headers={"A": secret()}, inbox_size=0),
    "two options": lambda: AsyncClient("ws://x", headers={"A": secret()}, min_reconnect_delay=99),
    "wrong call": lambda: loose("ws://x", 1, headers={"A": secret()}),
    "options": lambda: ClientOptions("ws://x", headers={"A": secret()}, min_reconnect_delay=99),
    "handlers": lambda: loose("ws://x", headers={"A": secret()}, message_handler=lambda: None),
    "a fleet": lambda: Fleet(dict, headers={"A": secret()}, refresh=0),
    "a fleet's option": lambda: Fleet(dict, headers={"A": secret()}, inbox_size=0),
    "a fleet's rows": lambda: compare({}, [{"headers": {"A": secret()}}], repr),
    "replace": lambda: ClientOptions("ws://x", headers={"A": secret()}).replace(inbox_size=0),
    "defaults": lambda: ClientOptions("ws://x", headers={"A": secret()}).with_defaults(nope=0),
    "settings": lambda: ClientOptions.from_mapping({"URL": f"ws://x?{secret()}", "NOPE": 1}),
    "adapter": lambda: embedded_options({"URL": f"ws://x?{secret()}", "INBOX_SIZE": 0}),
    "Flask": lambda: FlaskSettings(flask_app(), "default").options(Handlers()),
    "Django": lambda: StreamSettings.read("a", {"URL": f"ws://x?{secret()}", "NOPE": 1}),
    "Django's client": lambda: StreamSettings(
        "a", {"URL": f"ws://x?{secret()}", "HEADERS": {"A": secret()}, "INBOX_SIZE": 0}
    ).client_options(),
    "key": lambda: schematic.Client(secret("\n")),
    "key's url": lambda: schematic.AsyncClient(secret(), f"ftp://x/?{secret()}"),
}


def flask_app() -> Flask:
    app = Flask("shop")
    app.config.update(DATASTREAM_URL=f"ws://x?{secret()}", DATASTREAM_INBOX_SIZE=0)
    return app


@pytest.mark.parametrize("what", WRONG)
def test_error_collectors_find_nothing_of_what_a_constructor_was_given(what: str) -> None:
    """Whatever was wrong, no frame of ours that the error came through holds a secret."""
    error = raised(WRONG[what])
    told = collected([error]) + as_rich_shows([error]) + with_locals(error)
    assert type(error).__name__ in told
    assert HIDDEN not in told


ROW = {"url": "ws://127.0.0.1:9", "headers": {"A": HIDDEN}}
SOURCES: dict[str, Any] = {
    "no mapping": [ROW],
    "a key twice": {1: ROW, "1": ROW},
    "a wrong row": {1: {**ROW, "nope": 1}},
    "no row": {1: [ROW]},
}


@pytest.mark.parametrize("what", SOURCES)
def test_error_collectors_find_nothing_of_a_fleets_source(
    what: str, shown: Callable[..., str]
) -> None:
    """What is wrong with a source is reported, and neither a row nor its neighbors are shown."""
    errors = Seen[BaseException]()
    fleet = Fleet(lambda: SOURCES[what], **SHORT)
    fleet.on_error(errors)
    with fleet:
        text = "two keys have the text" if what == "a key twice" else "not "
        told = eventually(lambda: [line for line in shown().splitlines() if text in line])
        if "row" not in what:
            errors.wait()
    everything = "".join(told) + shown() + repr(fleet)
    assert HIDDEN not in everything + collected(errors.all) + as_rich_shows(errors.all)


@pytest.mark.parametrize("kind", ["key", "both"])
async def test_error_collectors_find_nothing_of_a_schematic_key(kind: str) -> None:
    """A callable, asynchronous even, returned one that cannot be sent."""

    async def key() -> str:
        return secret("\n")

    given: Any = key if kind == "both" else lambda: secret("\n")
    more: Any = {"headers": lambda: {"B": secret()}} if kind == "both" else {}
    client = schematic.AsyncClient(given, "ws://127.0.0.1:9", proxy=None, **SHORT, **more)
    with pytest.raises(ConfigurationError):
        await client.run()
    assert client.error is not None
    told = collected([client.error]) + as_rich_shows([client.error]) + with_locals(client.error)
    assert HIDDEN not in told


@pytest.mark.parametrize("store", ["redis://:{}@127.0.0.1:9/0", "redis://127.0.0.1:9?password={}"])
def test_error_collectors_find_nothing_of_a_lease(store: str) -> None:
    errors = Seen[BaseException]()
    client = Client("ws://127.0.0.1:9", lease=store.format(HIDDEN), proxy=None, **SHORT)
    client.on_error(errors)
    with client:
        errors.wait()
    told = collected(errors.all) + as_rich_shows(errors.all)
    assert "lease" in told
    assert HIDDEN not in told


@pytest.mark.parametrize(
    "kind",
    [
        *(Client, AsyncClient, ClientOptions, RedisLease, StreamSettings, schematic.Client),
        *(schematic.AsyncClient, Endpoint, Hidden),
    ],
)
def test_what_is_half_made_has_a_repr(kind: type[Any]) -> None:
    """Python 3.11 shows no error at all when a local variable of its frames cannot be shown."""
    half_made = object.__new__(kind)
    assert HIDDEN not in repr(half_made)


@pytest.mark.parametrize("value", [None, 7, ["ws://x", 7], [f"ws://x?{HIDDEN}"], b"\xff"])
def test_wrong_options_have_a_repr(value: Any) -> None:
    options = object.__new__(ClientOptions)
    options._set("url", value)
    options._set("name", value)
    assert HIDDEN not in repr(options)


PROXIED: dict[str, Script] = {
    "refused": [Respond(407, [f"Proxy-Authenticate: Basic realm={CANARY}"])],
    "forbidden": [Respond(403, body=CANARY.encode())],
    "garbage": [Send(f"{CANARY}\r\n\r\n".encode()), Stall()],
    "hang-up": [],
    "RST": [Rst()],
    "401 behind it": [Tunnel(), Respond(401, [f"X-Echo: {CANARY}"])],
    "close behind it": [Tunnel(), Upgrade(), Close(1011)],
}


@pytest.mark.parametrize("failure", PROXIED)
def test_failures_with_a_proxy(failure: str, shown: Callable[..., str]) -> None:
    """Nor are the user and the password of the proxy."""
    with RawServer(PROXIED[failure]) as proxy:
        client = Client(
            f"ws://stream.invalid{QUERY}",
            headers=HEADERS,
            proxy=f"http://{CANARY}:{CANARY}@127.0.0.1:{proxy.port}",
            **SHORT,
        )
        told = run_and_fail(client)
        assert proxy.connections
    everything = told + shown()
    assert "stream default" in everything
    assert CANARY not in everything


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_is_away(scheme: str, shown: Callable[..., str]) -> None:
    """The text of a refused connection names no credentials."""
    client = Client(
        f"ws://stream.invalid{QUERY}",
        headers=HEADERS,
        proxy=f"{scheme}://{CANARY}:{CANARY}@127.0.0.1:9",
        **SHORT,
    )
    assert CANARY not in run_and_fail(client) + shown()


@pytest.mark.parametrize(
    "lease", [f"redis://:{CANARY}@127.0.0.1:9/0", f"rediss://{CANARY}@127.0.0.1:9"]
)
def test_a_lease_whose_store_is_away(lease: str, shown: Callable[..., str]) -> None:
    """Nor is the password of the store that a lease is kept in."""
    pytest.importorskip("redis")
    errors = Seen[BaseException]()
    client = Client("ws://127.0.0.1:9", lease=lease, proxy=None, **SHORT)
    client.on_error(errors)
    with client:
        errors.wait()
        told = everything_of(client, [], errors.all)
    told += shown()
    assert "stream default" in told
    assert CANARY not in told


def test_network_failures(shown: Callable[..., str]) -> None:
    """A refused port, a name that does not exist, a certificate nobody vouches for."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with StreamServer(ssl=context) as server:
        for url in ("ws://127.0.0.1:9", "ws://no-such-host.invalid", server.url):
            client = Client(url + QUERY, headers=HEADERS, proxy=None, **SHORT)
            assert CANARY not in run_and_fail(client) + shown()


@pytest.mark.fault("G23")
def test_a_good_connection(shown: Callable[..., str]) -> None:
    """Nor when all goes well: messages of both directions, pings, drops, a failing handler."""
    events: Seen[Any] = Seen()
    errors = Seen[BaseException]()
    with StreamServer() as server:
        client = Client(
            lambda: server.url + QUERY,
            headers=lambda: HEADERS,
            proxy=None,
            ping_interval=0.05,
            **SHORT | {"max_reconnect_attempts": None},
        )
        client.on_message(lambda message: {}[message.data[:0] + "key"])
        client.on_error(errors)
        client.on_state(events)
        client.on_gap(events)
        with client:
            client.wait_ready(30)
            client.send({"password": CANARY})
            client.send(CANARY.encode())
            client.subscribe({"token": CANARY})
            server.send({"type": CANARY})
            eventually(lambda: client.stats().round_trip_time)
            errors.wait()
            told = everything_of(client, events.all, errors.all)
            server.abort()
            server.wait_connected(2, 30)
            client.wait_ready(30)
            told += everything_of(client, events.all, errors.all)
        assert CANARY in server.connections[0].path
        assert server.connections[0].headers["X-Api-Key"] == CANARY
    everything = told + shown()
    assert "stream default" in everything
    assert CANARY not in everything


@pytest.mark.fault("30")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("url", f"ws://user:{CANARY}@example.com/"),
        ("url", f"ws://example.com/#{CANARY}"),
        ("url", f"ws://example.com/\n{CANARY}"),
        ("url", f"http://example.com/{CANARY}"),
        ("url", f"ws://[{CANARY}/"),
        ("headers", {"Authorization": f"{CANARY}\n"}),
        ("headers", {"Authorization": f"{CANARY}\0"}),
        ("headers", {"Authorization": f"{CANARY}\u20ac"}),
        ("headers", {"X": CANARY.encode()}),
        ("headers", [CANARY]),
        ("proxy", f"ftp://{CANARY}@example.com"),
        ("proxy", f"http://{CANARY}@"),
        ("proxy", f"{CANARY}"),
    ],
)
def test_bad_options_name_the_option_not_the_value(option: str, value: Any) -> None:
    """ConfigurationError, from the constructor and from callables alike."""
    options: dict[str, Any] = {"url": "ws://example.com"} | {option: value}
    with pytest.raises(ConfigurationError) as raised:
        ClientOptions(**options)
    assert option in str(raised.value)
    assert CANARY not in texts(raised.value)
    if option != "proxy":
        client = Client(**SHORT | {"url": "ws://127.0.0.1:9", option: lambda: value})
        told = run_and_fail(client)
        assert isinstance(client.error, ConfigurationError)
        assert option in str(client.error)
        assert CANARY not in told
