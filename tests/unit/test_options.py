"""Every option, its default, and what is refused: naming the option, showing no value."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import ssl
import sys
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from datastream_ws import Client, ClientOptions, ConfigurationError, Handlers, Message
from datastream_ws.options import Options, StreamOptions

URL = "wss://api.example.com/stream"
SECRET = "hunter2"


def options_of(**options: Any) -> ClientOptions:
    """Make options of what mypy would refuse."""
    return ClientOptions(**({"url": URL} | options))


# The tables of the contract, section 1; `url` is required, `logger` and `codec` have tests below.
DEFAULTS: dict[str, Any] = {
    "headers": {},
    "message_handler": None,
    "connection_ready_handler": None,
    "max_reconnect_attempts": 10,
    "min_reconnect_delay": 1.0,
    "max_reconnect_delay": 30.0,
    "write_timeout": 10.0,
    "pong_timeout": 60.0,
    "ping_interval": 54.0,
    "name": "default",
    "handlers": None,
    "stable_after": 10.0,
    "fatal_delay": None,
    "retry": None,
    "open_timeout": 10.0,
    "ready_timeout": 30.0,
    "close_timeout": 10.0,
    "heartbeat": None,
    "heartbeat_interval": 30.0,
    "max_size": 2**20,
    "compression": "deflate",
    "proxy": True,
    "proxy_ssl": None,
    "ssl": None,
    "idle_timeout": None,
    "send_rate": None,
    "subprotocols": None,
    "origin": None,
    "lease": None,
    "lease_ttl": 15.0,
    "inbox_size": 1000,
    "inbox_bytes": 64 * 2**20,
    "overflow": "block",
    "spool": None,
    "spool_bytes": 256 * 2**20,
    "journal": False,
    "conflate": None,
    "concurrency": 1,
    "ordering_key": None,
    "handler_timeout": None,
    "retry_message": None,
    "route": "type",
}


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_default(name: str, default: Any) -> None:
    """Each option of the contract has the default written there."""
    assert getattr(ClientOptions(URL), name) == default


def test_these_are_all_options() -> None:
    """The contract's tables and the class name the same options."""
    assert set(ClientOptions.names()) == {"url", "logger", "codec", *DEFAULTS}


def test_default_logger() -> None:
    """Without a logger of their own, users configure the logger "datastream_ws"."""
    assert ClientOptions(URL).logger is logging.getLogger("datastream_ws")


def test_default_codec_reads_and_writes_json() -> None:
    """The codec is an object by the time anybody needs it."""
    codec: Any = ClientOptions(URL).codec
    assert codec.decode(codec.encode({"a": [1, "ü"]})) == {"a": [1, "ü"]}


# --- what is refused --------------------------------------------------------------------------


class HalfCodec:
    """Decodes, but cannot encode."""

    def decode(self, data: str | bytes) -> Any: ...


SECONDS = [
    "min_reconnect_delay",
    "max_reconnect_delay",
    "write_timeout",
    "stable_after",
    "close_timeout",
    "heartbeat_interval",
    "lease_ttl",
]
SECONDS_OR_NONE = [
    "pong_timeout",
    "ping_interval",
    "fatal_delay",
    "idle_timeout",
    "open_timeout",
    "ready_timeout",
    "handler_timeout",
]
NO_SECONDS = [0, 0.0, -1, -1.0, float("inf"), float("nan"), 10**400, True, SECRET, [5]]
COUNTS_OR_NONE = ["max_reconnect_attempts", "max_size", "inbox_size", "inbox_bytes", "spool_bytes"]
NO_COUNT = [0, -1, 1.5, True, "10", SECRET]
CALLABLES_OR_NONE = ["retry", "conflate", "ordering_key", "retry_message"]

BAD_URLS = [
    "",
    "api.example.com",
    f"http://api.example.com/{SECRET}",
    f"https://api.example.com/?token={SECRET}",
    f"wss://{SECRET}:99999/",
    f"wss://{SECRET}:0/",
    f"wss://{SECRET}:port/",
    "wss://",
    "wss:///stream",
    f"wss://[::1/{SECRET}",
    f"wss://user:{SECRET}@api.example.com/",
    f"wss://{SECRET}@api.example.com/",
    f"wss://api.example.com/#{SECRET}",
    f"wss://api.example.com/?token={SECRET}\n",
    f"wss://api.example.com/\x00{SECRET}",
    f"wss://api.example.com/ {SECRET}",
    f"wss://api..example.com/{SECRET}",
    f"wss://{'a' * 64}.example.com/{SECRET}",
    "ws+unix://",
    "ws+unix:///",
    f"ws+unix://host/{SECRET}.sock:/",
    f"ws+unix:///run/{SECRET}.sock:resource",
    f"ws+unix:///run/{SECRET}.sock:/#fragment",
    [],
    (),
    [URL, f"http://{SECRET}"],
    [URL, None],
    [[URL]],
    {URL},
    None,
    5,
    URL.encode(),
]
BAD_HEADERS = [
    {"Authorization": f"Bearer {SECRET}\n"},
    {"Authorization": f"Bearer {SECRET}\r\nX-Other: 1"},
    {"Authorization": f"{SECRET}\0"},
    {"Authorization": f"{SECRET}€"},
    {"Authorization": SECRET.encode()},
    {"Authorization": None},
    {f"Bearer {SECRET}": "Authorization"},
    {"": SECRET},
    {5: SECRET},
    {"Connection": SECRET},
    {"Upgrade": "websocket"},
    {"Sec-WebSocket-Key": SECRET},
    {"sec-websocket-version": "13"},
    {"Sec-WebSocket-Extensions": "permessage-deflate"},
    [("Authorization", SECRET)],
    SECRET,
    None,
]
REFUSED: dict[str, list[Any]] = {
    "message_handler": [SECRET, object()],
    "connection_ready_handler": [SECRET, object()],
    "logger": [None, SECRET, object()],
    "name": ["", "two\nlines", None, 5],
    "handlers": [SECRET, object(), {}, Client(URL)],
    "compression": ["gzip", True, []],
    "proxy": [
        False,
        5,
        SECRET,
        f"ftp://{SECRET}",
        "http://",
        f"http://u:{SECRET}@h:99999",
        f"http://[{SECRET}",
    ],
    "proxy_ssl": [True, False, SECRET],
    "send_rate": [
        5,
        SECRET,
        (),
        (5,),
        (5, 1.0, 1),
        (0, 1.0),
        (-1, 1.0),
        (1.5, 1.0),
        (True, 1.0),
        (5, 0),
        (5, -1.0),
        (5, None),
        (None, 1.0),
        (5, float("inf")),
        (5, float("nan")),
        {5: 1.0},
    ],
    "ssl": [False, SECRET, "CERT_NONE"],
    "subprotocols": ["graphql-ws", [], [5], [f"{SECRET} two"], 5],
    "origin": ["", 5, f"{SECRET}\r\n"],
    "lease": [5, object()],
    "overflow": ["drop-oldest", "blok", "", None, []],
    "spool": ["", 5],
    "journal": [None, 1, "yes"],
    "codec": ["yaml", SECRET, None, 5, HalfCodec(), HalfCodec],
    "route": ["", None, 5],
}
BAD: list[tuple[str, Any]] = [
    *[("url", value) for value in BAD_URLS],
    *[("headers", value) for value in BAD_HEADERS],
    *[(name, value) for name in SECONDS + SECONDS_OR_NONE for value in NO_SECONDS],
    *[(name, None) for name in SECONDS],
    *[(name, value) for name in [*COUNTS_OR_NONE, "concurrency"] for value in NO_COUNT],
    ("concurrency", None),
    *[(name, value) for name in CALLABLES_OR_NONE for value in (SECRET, 5)],
    *[(name, value) for name, values in REFUSED.items() for value in values],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_option(name: str, value: Any) -> None:
    """Fault 100: one ConfigurationError that names the option and the type, not the value."""
    with pytest.raises(ConfigurationError) as caught:
        options_of(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert f"(given: {type(value).__name__})" in text
    assert SECRET not in text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"X-Key": f"{SECRET}\n"}, "^headers: contains a line break or NUL in 'X-Key'"),
        ({"Good": "1", "X-Bad": None}, "^headers: contains the header 'X-Bad', whose value must"),
    ],
)
def test_bad_header_is_named(value: Mapping[str, Any], place: str) -> None:
    """Among many headers the bad one is to be found."""
    with pytest.raises(ConfigurationError, match=place):
        ClientOptions(URL, headers=value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pong_timout", "pong_timeout"),
        ("PONG_TIMEOUT", "pong_timeout"),
        ("header", "headers"),
        ("max_reconnect_attempt", "max_reconnect_attempts"),
        ("subprotocol", "subprotocols"),
    ],
)
def test_unknown_option_suggests_the_nearest(name: str, nearest: str) -> None:
    """A slip of the pen is answered with the name that was meant, and without the value."""
    with pytest.raises(ConfigurationError, match=f"{name}: .*given: str.*'{nearest}'") as caught:
        options_of(**{name: SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["zzz", "engine", "loop"])
def test_unknown_option_like_no_other(name: str) -> None:
    """Nothing is suggested where nothing is near."""
    with pytest.raises(ConfigurationError) as caught:
        options_of(**{name: 1})
    assert str(caught.value) == f"{name}: is not an option (given: int)"


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("overflow", "drop-oldest", "drop_oldest"),
        ("overflow", "Block", "block"),
        ("codec", "or-json", "orjson"),
    ],
)
def test_unknown_choice_suggests_the_nearest(name: str, value: str, nearest: str) -> None:
    """So is a choice that is not quite one of those there are."""
    with pytest.raises(ConfigurationError, match=f"{name}: .*Did you mean '{nearest}'"):
        options_of(**{name: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_open", "@client.on_ready"),
        ("on_message", "@client.on_message"),
        ("on_error", "@client.on_error"),
        ("on_close", "@client.on_disconnect"),
        ("header", "headers"),
        ("extra_headers", "headers"),
        ("ping_timeout", "pong_timeout"),
        ("reconnect", "min_reconnect_delay"),
        ("sslopt", "ssl"),
    ],
)
def test_what_other_libraries_call_it_suggests_our_name(name: str, meant: str) -> None:
    """Whoever comes from websocket-client or websockets need not search."""
    with pytest.raises(ConfigurationError, match=rf"^{name}: .*Did you mean '{meant}'\?$"):
        options_of(**{name: SECRET})


def test_url_is_required() -> None:
    """Not a TypeError of dataclasses."""
    with pytest.raises(ConfigurationError, match="url: is required"):
        ClientOptions(name="prices")  # type: ignore[call-arg]


def test_clients_refuse_the_same() -> None:
    """A client is made of options: its errors are theirs."""
    with pytest.raises(ConfigurationError, match="pong_timeout"):
        Client(URL, pong_timout=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="url: is required"):
        Client()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_reconnect_delay": 31.0}, "min_reconnect_delay"),
        ({"min_reconnect_delay": 5, "max_reconnect_delay": 4}, "min_reconnect_delay"),
        ({"ping_interval": 60.0}, "ping_interval"),
        ({"ping_interval": 10, "pong_timeout": 5}, "ping_interval"),
        ({"journal": True}, "journal"),
        ({"conflate": str, "spool": "x.sqlite3"}, "conflate"),
        ({"url": "ws://localhost/", "ssl": ssl.create_default_context()}, "ssl"),
        ({"url": ["ws://a/", "ws+unix:///run/b.sock"], "ssl": True}, "ssl"),
    ],
)
def test_impossible_combination(options: dict[str, Any], named: str) -> None:
    """Options that are good one by one and cannot work together."""
    with pytest.raises(ConfigurationError, match=f"^{named}: "):
        options_of(**options)


# --- what is taken ----------------------------------------------------------------------------

GOOD: list[tuple[str, Any]] = [
    ("url", "ws://localhost:8000"),
    ("url", "WSS://API.example.com/stream?token=x"),
    ("url", "ws://[::1]:8000/"),
    ("url", "wss://bücher.example/"),
    ("url", lambda: URL),
    ("url", "ws+unix:///run/feed.sock:/stream?token=x"),
    ("url", "ws+unix:///run/feed.sock"),
    ("url", ["ws://localhost", "ws+unix:///run/feed.sock", URL]),
    ("url", ("ws://localhost",)),
    ("headers", {"Host": "feed.example"}),
    ("idle_timeout", 5),
    ("send_rate", (5, 1.0)),
    ("proxy_ssl", ssl.create_default_context()),
    ("subprotocols", lambda: ["graphql-ws"]),
    ("headers", {"Authorization": "Bearer x", "X-Empty": "", "X-Latin": "café"}),
    ("headers", dict),
    ("message_handler", print),
    ("message_handler", SimpleNamespace(handle_message=print)),
    ("connection_ready_handler", SimpleNamespace(on_connection_ready=print)),
    ("logger", logging.getLogger("mine")),
    ("logger", logging.LoggerAdapter(logging.getLogger("mine"), {})),
    ("max_reconnect_attempts", None),
    ("min_reconnect_delay", 1),
    ("pong_timeout", None),
    ("ping_interval", None),
    ("handlers", Handlers()),
    ("proxy", None),
    ("proxy", "socks5h://user:password@localhost:1080"),
    ("ssl", ssl.create_default_context()),
    ("ssl", True),
    ("compression", None),
    ("subprotocols", ["graphql-transport-ws"]),
    ("route", lambda message: "one"),
    ("codec", SimpleNamespace(decode=str, encode=str)),
    ("inbox_size", None),
    ("fatal_delay", 300),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_option(name: str, value: Any) -> None:
    """What the contract allows is kept as it was given."""
    assert getattr(options_of(**{name: value}), name) == value


@pytest.mark.parametrize(("pong", "ping"), [(60, 54), (10.0, 9.0), (1, 0.9), (None, 54.0)])
def test_ping_interval_follows_pong_timeout(pong: float | None, ping: float) -> None:
    """Pings come at 90 % of pong_timeout unless told; without one, at the default's."""
    assert ClientOptions(URL, pong_timeout=pong).ping_interval == pytest.approx(ping)


def test_white_space_around_header_values_is_cut() -> None:
    """HTTP does not send it; a line break is refused instead, as it may hide a second header."""
    assert ClientOptions(URL, headers={"X-Key": " key\t"}).headers == {"X-Key": "key"}


def test_a_header_that_an_option_sets_names_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ClientOptions(URL, headers={"Sec-WebSocket-Protocol": "v1"})
    text = "the header 'Sec-WebSocket-Protocol', which the option subprotocols sets"
    assert text in str(caught.value)


def test_headers_are_copied() -> None:
    """What a caller does to its dictionary later does not change a client."""
    headers = {"X-Key": "key"}
    options = ClientOptions(URL, headers=headers)
    headers["X-Key"] = "other"
    assert options.headers == {"X-Key": "key"}


def test_options_are_frozen() -> None:
    """They are shared by clients and threads."""
    with pytest.raises(AttributeError):
        ClientOptions(URL).name = "other"  # type: ignore[misc]


# --- from_mapping and replace -----------------------------------------------------------------


def test_from_mapping() -> None:
    """Settings are upper case; they win over the defaults of a framework."""
    options = ClientOptions.from_mapping(
        {"URL": URL, "PONG_TIMEOUT": 30}, pong_timeout=5, max_reconnect_attempts=None
    )
    assert (options.url, options.pong_timeout) == (URL, 30)
    assert options.max_reconnect_attempts is None


@pytest.mark.parametrize(
    ("mapping", "match"),
    [
        ({"url": URL}, "'url': must be in upper case"),
        ({"URL": URL, "Pong_Timeout": 5}, "Pong_Timeout"),
        ({"URL": URL, 5: 5}, "5: must be in upper case"),
        ({"URL": URL, "PONG_TIMOUT": 5}, "Did you mean 'pong_timeout'"),
        ({}, "url: is required"),
        (None, "mapping.*NoneType"),
        (URL, "mapping.*str"),
    ],
)
def test_from_bad_mapping(mapping: Any, match: str) -> None:
    """Settings are checked as arguments are."""
    with pytest.raises(ConfigurationError, match=match):
        ClientOptions.from_mapping(mapping)


def test_replace_makes_a_checked_copy() -> None:
    """The original stays as it is."""
    options = ClientOptions(URL, codec="json", headers={"X-Key": "key"})
    changed = options.replace(name="prices", pong_timeout=None)
    assert (changed.name, changed.pong_timeout, changed.headers) == (
        "prices",
        None,
        {"X-Key": "key"},
    )
    assert (options.name, options.pong_timeout) == ("default", 60.0)
    assert changed.codec is options.codec


def test_replaced_pong_timeout_takes_the_ping_interval_along() -> None:
    """A ping interval nobody chose goes on following; one that was chosen stays."""
    assert ClientOptions(URL).replace(pong_timeout=10).ping_interval == 9.0
    assert ClientOptions(URL, ping_interval=5.0).replace(pong_timeout=10).ping_interval == 5.0
    assert ClientOptions(URL, ping_interval=None).replace(pong_timeout=10).ping_interval is None
    assert ClientOptions(URL).replace(pong_timeout=10, ping_interval=2).ping_interval == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pong_timout": 1}, "Did you mean 'pong_timeout'"),
        ({"concurrency": 0}, "concurrency"),
        ({"journal": True}, "journal"),
    ],
)
def test_replace_refuses(changes: dict[str, Any], match: str) -> None:
    """A change is checked as the original was, alone and with the rest."""
    with pytest.raises(ConfigurationError, match=match):
        ClientOptions(URL).replace(**changes)


def test_client_takes_options_and_changes_to_them() -> None:
    """One ClientOptions may serve several clients that differ a little."""
    options = ClientOptions(URL, pong_timeout=20)
    assert Client(options).options is options
    assert Client(options, name="prices").options.pong_timeout == 20


def test_defaults_of_an_adapter_leave_alone_what_was_chosen() -> None:
    """Also where what was chosen is the default: a user may want no spool."""
    options = ClientOptions(URL, spool=None).replace(fatal_delay=7)
    adapted = options.with_defaults(spool="x", fatal_delay=300, max_reconnect_attempts=None)
    assert (adapted.spool, adapted.fatal_delay, adapted.max_reconnect_attempts) == (None, 7, None)
    assert adapted.with_defaults(max_reconnect_attempts=3).max_reconnect_attempts == 3


def test_defaults_of_an_adapter_leave_alone_what_settings_say() -> None:
    """The defaults given to from_mapping() are nobody's choice."""
    options = ClientOptions.from_mapping({"URL": URL, "SPOOL": None}, fatal_delay=300)
    adapted = options.with_defaults(spool="x", fatal_delay=None)
    assert (adapted.spool, adapted.fatal_delay) == (None, None)


# --- plain data ---


def route_of(message: Message) -> str:
    return str(message.data)[:1]


COPIES: dict[str, Callable[[ClientOptions], ClientOptions]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda options: pickle.loads(pickle.dumps(options)),
    "replace": dataclasses.replace,
}


@pytest.mark.parametrize("codec", ["json", "orjson", "msgspec"])
@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
def test_copies_are_equal(how: Callable[[ClientOptions], ClientOptions], codec: Any) -> None:
    """With what was chosen: an adapter's defaults leave it alone in the copy, too."""
    if codec != "json":
        pytest.importorskip(codec, reason=f"{codec} is not installed")
    options = ClientOptions(
        [URL, "ws://localhost/"],
        pong_timeout=30,
        headers={"X-Key": "key"},
        heartbeat={"op": "ping"},
        spool=None,
        codec=codec,
        route=route_of,
        message_handler=print,
        send_rate=(5, 1.0),
    )
    copied = how(options)
    assert copied == options
    assert hash(copied) == hash(options)
    assert repr(copied) == repr(options)
    assert copied.chosen == options.chosen
    assert copied.codec is options.codec
    assert how(copied).replace(pong_timeout=10).ping_interval == 9.0


def test_copies_of_what_cannot_be_copied_share_it() -> None:
    """A registry, a logger, a TLS context, a function."""
    mine: dict[str, Any] = {
        "handlers": Handlers(),
        "logger": logging.LoggerAdapter(logging.getLogger("mine"), {}),
        "ssl": ssl.create_default_context(),
        "headers": lambda: {},
    }
    options = ClientOptions(URL, heartbeat={"op": ["ping"]}, **mine)
    copied = copy.deepcopy(options)
    assert {name: getattr(copied, name) for name in mine} == mine
    copied.heartbeat["op"].append("changed")
    assert options.heartbeat == {"op": ["ping"]}


def test_dataclasses_replace_counts_the_changes_as_chosen() -> None:
    """And nothing else, though it hands on every field."""
    options = ClientOptions(URL, pong_timeout=30)
    assert dataclasses.replace(options, name="y").chosen == {"pong_timeout", "name"}
    assert dataclasses.replace(options, pong_timeout=10).ping_interval == 9.0
    own = dataclasses.replace(options, ping_interval=5.0)
    assert dataclasses.replace(own, pong_timeout=10).ping_interval == 5.0
    with pytest.raises(ConfigurationError, match=r"^concurrency"):
        dataclasses.replace(options, concurrency=0)


def test_options_that_differ_are_not_equal() -> None:
    assert ClientOptions(URL) == ClientOptions(URL, name="default")
    assert ClientOptions(URL) != ClientOptions(URL, name="other")
    assert ClientOptions(URL) != URL


def test_options_may_go() -> None:
    """They hold no circle: what they hold is free at once."""
    gone = weakref.ref(ClientOptions(URL))
    assert gone() is None


def test_options_are_small() -> None:
    """Each idle client has its own: without slots they take 1.6 KiB."""
    options = ClientOptions(URL)
    assert not hasattr(options, "__dict__")
    assert sys.getsizeof(options) < 512


def test_the_typed_options_are_the_options() -> None:
    """What type checkers know of ``Client(**options)``; names and types, held in two places."""
    fields = get_type_hints(ClientOptions)
    assert get_type_hints(Options) == {name: fields[name] for name in ClientOptions.names()}
    assert set(get_type_hints(StreamOptions)) == set(ClientOptions.names()) - {"url"}
    assert not Options.__required_keys__


def test_clients_that_share_handlers_have_message_handlers_of_their_own() -> None:
    """What is registered later with the shared ones, or with one client, reaches the same."""
    shared, seen = Handlers(), []
    one = Client("ws://a", handlers=shared, message_handler=lambda message: seen.append("one"))
    two = Client("ws://b", handlers=shared, message_handler=lambda message: seen.append("two"))
    three = Client("ws://c", handlers=shared)
    shared.on_message(lambda message: seen.append("shared"))
    one.deliver("x")
    assert seen == ["one", "shared"]
    two.deliver("x")
    three.deliver("x")
    assert seen == ["one", "shared", "two", "shared", "shared"]


# --- what is shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str], ids=["repr", "str"])
def test_repr_hides_secrets(show: Callable[[object], str]) -> None:
    """Options end up in logs and tracebacks; what is secret in them does not."""
    options = ClientOptions(
        f"wss://api.example.com:8443/stream?token={SECRET}",
        headers={"Authorization": SECRET},
        proxy=f"http://user:{SECRET}@proxy",
        heartbeat={"key": SECRET},
    )
    assert show(options) == "<ClientOptions default: wss://api.example.com:8443/stream>"


def test_repr_of_a_callable_url() -> None:
    """It is not called for being shown."""
    assert repr(ClientOptions(lambda: 1 / 0)) == "<ClientOptions default: (callable)>"  # type: ignore[arg-type,return-value]
