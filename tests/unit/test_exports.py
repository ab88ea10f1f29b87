"""The names users rely on: what the package exports, and that both clients have the same."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import datastream_ws
from datastream_ws import AsyncClient, Client, Handlers, Stats
from datastream_ws.handlers import HOOKS

# Contract, section 1.
NAMES = {
    *("Client", "AsyncClient", "ClientOptions", "Handlers", "Message", "State", "Stats"),
    *("HandlerStats", "Histogram", "RecentEvent"),
    *("MessageHandler", "ConnectionReadyHandler", "Logger", "Codec"),
    *("StateEvent", "DisconnectEvent", "GapEvent", "Postponed"),
    *("DataStreamError", "ConfigurationError", "NotConnectedError", "SendTimeoutError"),
    *("HandshakeError", "UnauthorizedError", "StreamClosedError", "ReconnectError"),
    *("DecodeError", "EncodeError"),
    "Handshake",
    *("HandlerError", "InboxOverflowError", "SpoolError", "LeaseError"),
    *("Fleet", "__version__"),
}
DECORATORS = {"on_message", "on_batch", "use", *HOOKS}
FACTS = {
    *("state", "is_connected", "is_ready", "error", "last_message", "stats", "errors"),
    "handshake",
}
VERBS = {
    *("start", "run", "wait_ready", "wait_closed", "send", "flush", "request", "receive"),
    "subscribe",
    *("unsubscribe", "reconnect", "pause", "resume", "close", "deliver"),
}
COROUTINES = {
    *("start", "run", "send", "flush", "request", "receive", "wait_ready", "wait_closed"),
    "close",
    *("reconnect", "pause", "resume", "subscribe", "unsubscribe", "deliver"),
}
MORE = {
    "key": "the key of a stream in a fleet, see 1.6",
    "name": "the option, for those who hold several clients",
    "options": "what the client was made of",
    "handlers": "the registry behind the decorators",
    "request_close": "for signal handlers and the rule at exit: does not wait",
}
BLOCKING_ONLY = {"aio": "the AsyncClient that does the work"}
STATS = {
    *("messages_received", "messages_handled", "messages_failed", "messages_unrouted"),
    *("messages_dropped", "messages_waiting", "messages_spooled", "messages_sent"),
    *("bytes_received", "bytes_sent", "connections", "reconnects", "attempts"),
    *("blocked_seconds", "round_trip_time", "connected_since", "last_message_at", "last_error"),
    *("reports_dropped", "oldest_waiting", "errors_dropped"),
}


def public(kind: Any) -> set[str]:
    """Return the public names of a client: the class's, and what __init__ gives it."""
    made = kind("ws://localhost")
    return {name for name in dir(made) if not name.startswith("_")}


def test_exports_are_sorted_and_exist() -> None:
    """`from datastream_ws import *` gives what `__all__` says."""
    assert datastream_ws.__all__ == sorted(datastream_ws.__all__)
    assert [name for name in datastream_ws.__all__ if not hasattr(datastream_ws, name)] == []


def test_exports_are_the_contracts() -> None:
    """No more and no less: whatever is exported is promised."""
    assert set(datastream_ws.__all__) >= NAMES
    assert set(datastream_ws.__all__) - NAMES == set()


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_exports_are_documented(name: str) -> None:
    """help() says what each is for."""
    assert inspect.getdoc(getattr(datastream_ws, name))


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_public_names_of_a_client(kind: type) -> None:
    """The contract's, and a few more with a reason; a helper that looks public gets used."""
    only = BLOCKING_ONLY if kind is Client else {}
    assert public(kind) == DECORATORS | FACTS | VERBS | {*MORE, *only}


def test_clients_have_the_same_names() -> None:
    """Who knows one knows the other."""
    assert public(Client) - {*BLOCKING_ONLY} == public(AsyncClient)


@pytest.mark.parametrize("verb", sorted(VERBS | {"stats", "errors"}))
def test_clients_take_the_same_arguments(verb: str) -> None:
    """By the same names, with the same defaults."""
    blocking = inspect.signature(getattr(Client, verb)).parameters
    asynchronous = inspect.signature(getattr(AsyncClient, verb)).parameters
    assert [(p.name, p.default, p.kind) for p in blocking.values()] == [
        (p.name, p.default, p.kind) for p in asynchronous.values()
    ]


def test_coroutines_of_the_async_client() -> None:
    """Exactly those of the contract; the rest are plain."""
    members = {name: inspect.getattr_static(AsyncClient, name) for name in dir(AsyncClient)}
    found = {
        name
        for name, member in members.items()
        if not name.startswith("_") and inspect.iscoroutinefunction(member)
    }
    assert found == COROUTINES


def test_no_coroutines_in_the_blocking_client() -> None:
    """Every call may come from any thread."""
    members = [member for name, member in vars(Client).items() if not name.startswith("_")]
    assert [member for member in members if inspect.iscoroutinefunction(member)] == []


def test_iteration() -> None:
    """`async for` and `async with` are the AsyncClient's, `with` is the Client's."""
    assert hasattr(AsyncClient, "__aiter__")
    assert hasattr(AsyncClient, "__aenter__")
    assert hasattr(Client, "__enter__")
    assert not hasattr(Client, "__aiter__")


def test_decorators_are_those_of_the_registry() -> None:
    """A registry made before any client has every decorator of a client."""
    assert {name for name in DECORATORS if not hasattr(Handlers, name)} == set()


def test_counters() -> None:
    """By the names of the contract; all zero or unknown before the first start."""
    stats = Client("ws://localhost").stats()
    assert {name for name in STATS if not hasattr(stats, name)} == set()
    assert stats == Stats()
    assert not any(getattr(stats, name) for name in STATS)
