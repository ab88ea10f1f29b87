"""Where an attempt connects: URLs in ASCII, Unix sockets, lists in turn, and nothing that shows."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from datastream_ws import ConfigurationError
from datastream_ws.connection.endpoint import Endpoint, Endpoints, ascii_url

CANARY = "c4n4ry-s3cr3t"


async def call(function: Callable[[], Any]) -> Any:
    made = function()
    return await made if inspect.isawaitable(made) else made


class Given:
    """Options that are not checked: lists of URLs and the like."""

    def __init__(self, url: Any, headers: Any = (), subprotocols: Any = None) -> None:
        self.url = url
        self.headers = dict(headers) if isinstance(headers, tuple) else headers
        self.subprotocols = subprotocols


def endpoints(*args: Any) -> Endpoints:
    options: Any = Given(*args)
    return Endpoints(options, call)


def current(made: Endpoints) -> Endpoint:
    return asyncio.run(made.make(0))


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("ws://h/p?token=a%2Bb%20c", "ws://h/p?token=a%2Bb%20c"),
        ("ws://h/p?token=a%2Bb&city=Zürich", "ws://h/p?token=a%2Bb&city=Z%C3%BCrich"),
        ("ws://h/Zürich?x=a%2Bb", "ws://h/Z%C3%BCrich?x=a%2Bb"),
        ("wss://bücher.example:8443/", "wss://xn--bcher-kva.example:8443/"),
        ("wss://bücher.example", "wss://xn--bcher-kva.example"),
        ("ws://[::1]:80/?", "ws://[::1]:80/"),
        ('ws://h/p?x=[1]|{}"<>^`\\', "ws://h/p?x=[1]%7C%7B%7D%22%3C%3E%5E%60%5C"),
    ],
)
def test_only_what_needs_it_is_escaped(url: str, sent: str) -> None:
    assert ascii_url(url) == sent
    assert Endpoint(url).url == sent
    assert Endpoint(url).unix_path is None


@pytest.mark.parametrize(
    ("url", "path", "asked"),
    [
        ("ws+unix:///run/feed.sock:/v1?x=:/1", "/run/feed.sock", "ws://localhost/v1?x=:/1"),
        ("ws+unix:///run/a%20b.sock", "/run/a b.sock", "ws://localhost/"),
    ],
)
def test_unix_sockets(url: str, path: str, asked: str) -> None:
    endpoint = Endpoint(url)
    assert (endpoint.unix_path, endpoint.url) == (path, asked)
    assert endpoint.shown == url.partition("?")[0]


def test_what_callables_return() -> None:
    """Plain or not, made anew for each attempt."""

    async def headers() -> dict[str, str]:
        return {"A": " b "}

    made = endpoints(lambda: "ws://h/", headers, lambda: ["v1"])
    endpoint = current(made)
    assert (endpoint.url, endpoint.headers, endpoint.subprotocols) == (
        "ws://h/",
        {"A": "b"},
        ["v1"],
    )


@pytest.mark.parametrize("option", ["url", "headers", "subprotocols"])
def test_what_callables_must_not_return(option: str) -> None:
    given: dict[str, Any] = {"url": "ws://h/", option: lambda: f"{CANARY}\n"}
    with pytest.raises(ConfigurationError, match=option) as raised:
        current(endpoints(*map(given.get, ("url", "headers", "subprotocols"))))
    assert CANARY not in everything(raised.value)


def everything(error: BaseException) -> str:
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in told.stack if "connection" in frame.filename]
    assert ours
    return "".join(str(frame.locals) for frame in ours) + str(error)


def test_a_callable_that_raises_beside_secrets() -> None:
    """What the others returned is in none of our frames."""

    def fails() -> Any:
        raise LookupError

    made = endpoints(lambda: f"ws://h/?{CANARY}", lambda: {"A": CANARY}, fails)
    with pytest.raises(LookupError) as raised:
        current(made)
    assert CANARY not in everything(raised.value)


def test_nothing_shows() -> None:
    endpoint = Endpoint(f"ws://h/p?{CANARY}", {"Authorization": CANARY})
    assert repr(endpoint) == "<Endpoint ws://h/p, headers: Authorization>"
    assert not hasattr(endpoint, "__dict__")
    assert repr(Endpoint("ws://h/")) == "<Endpoint ws://h/, headers: none>"
    assert repr(Endpoint.__new__(Endpoint)) == "<Endpoint>"


def test_a_list_is_tried_in_turn() -> None:
    made = endpoints(["ws://a/", "ws://b/"])
    tried = [asyncio.run(made.make(number)).url for number in range(3)]
    assert tried == ["ws://a/", "ws://b/", "ws://a/"]
