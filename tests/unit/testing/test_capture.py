"""capture_sent collects what a client sends, on both faces, and puts everything back."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from datastream_ws import AsyncClient, Client, Message, NotConnectedError
from datastream_ws.testing import capture_sent


class Verbs:
    """Has the verbs of a client; each of them fails."""

    def send(self, obj: Any, wait: float = 0.0) -> None:
        raise AssertionError("sent for real")

    request = subscribe = unsubscribe = send


class Blocking(Verbs):
    def __init__(self) -> None:
        self.aio = Verbs()


def is_pong(message: Any) -> bool:
    return bool(message.json().get("type") == "pong")


def test_blocking_verbs() -> None:
    """Objects are collected as given, in order."""
    client: Any = Blocking()
    with capture_sent(client) as sent:
        client.send({"type": "a"})
        client.send("text", wait=1.0)
        client.subscribe(b"binary")
    assert sent == [{"type": "a"}, "text", b"binary"]


async def test_asynchronous_verbs_of_the_same_client() -> None:
    """client.aio is captured into the same list."""
    client: Any = Blocking()
    with capture_sent(client) as sent:
        await client.aio.send("one")
        client.send("two")
    assert sent == ["one", "two"]


async def test_asynchronous_client_alone() -> None:
    """An AsyncClient has coroutines for verbs, and keeps them."""
    client: Any = Verbs()
    with capture_sent(client, replies=[{"type": "pong"}]) as sent:
        await client.send("one")
        await client.request("two", is_pong)
    assert sent == ["one", "two"]


async def test_blocking_send_may_be_awaited() -> None:
    """As of the real one, what send returns can be awaited on an event loop."""
    client: Any = Blocking()
    with capture_sent(client) as sent:
        await client.send("awaited")
        client.send("not awaited")
    assert sent == ["awaited", "not awaited"]


def answering(client: Any) -> None:
    """Register a plain and a coroutine handler that send and ask."""

    def plain(message: Message) -> None:
        client.send("from a plain handler")

    async def coroutine(message: Message) -> None:
        await client.send("awaited")
        reply = await getattr(client, "aio", client).request("ping", is_pong)
        await client.send(reply.json()["type"])

    client.on_message("plain")(plain)
    client.on_message("coroutine")(coroutine)


def test_what_handlers_of_a_client_send() -> None:
    """Handlers of a Client, of both kinds, run against the captured verbs."""
    client = Client("ws://localhost")
    answering(client)
    with capture_sent(client, replies=[{"type": "pong"}]) as sent:
        client.deliver('{"type": "plain"}')
        client.deliver('{"type": "coroutine"}')
    assert sent == ["from a plain handler", "awaited", "ping", "pong"]


async def test_what_handlers_of_an_async_client_send() -> None:
    """Handlers of an AsyncClient run against the captured verbs."""
    client = AsyncClient("ws://localhost")
    answering(client)
    with capture_sent(client, replies=[{"type": "pong"}]) as sent:
        await client.deliver('{"type": "coroutine"}')
    assert sent == ["awaited", "ping", "pong"]


def test_replies_to_delivered_messages() -> None:
    """Each client's are its own; after the block there is nothing to reply over."""
    client, other = Client("ws://localhost", name="one"), Client("ws://localhost", name="two")
    for each in (client, other):
        each.on_message(lambda message: message.reply({"for": message.stream}))
    with capture_sent(client) as sent, capture_sent(other) as sent_by_other:
        client.deliver("x")
        other.deliver("x")
    assert (sent, sent_by_other) == ([{"for": "one"}], [{"for": "two"}])
    with pytest.raises(NotConnectedError):
        client.deliver("x")


def test_signatures_are_the_real_ones() -> None:
    """Whatever a real verb takes, the collecting one takes, by the same names."""
    client = Client("ws://localhost")
    with capture_sent(client):
        for target in (client, client.aio):
            for name in ("send", "request", "subscribe", "unsubscribe"):
                real = list(inspect.signature(getattr(type(target), name)).parameters)
                assert ["self", *inspect.signature(getattr(target, name)).parameters] == real


def test_request_takes_the_first_reply_that_matches() -> None:
    """Replies become messages; each answers once."""
    client: Any = Blocking()
    replies = ['{"type": "other"}', {"type": "pong", "n": 1}, b'{"type": "pong", "n": 2}']
    with capture_sent(client, replies=replies) as sent:
        assert client.request("ping", is_pong).json()["n"] == 1
        assert client.request("ping", match=is_pong, timeout=1).json()["n"] == 2
        with pytest.raises(LookupError, match=r"\(1 left\)"):
            client.request("ping", is_pong)
    assert sent == ["ping"] * 3


def test_reply_that_is_a_message_is_given_as_it_is() -> None:
    """Whatever has data is a message already."""
    client: Any = Blocking()
    reply = SimpleNamespace(data="x")
    with capture_sent(client, replies=[reply]):
        assert client.request("ping", lambda message: message.data == "x") is reply


def test_request_without_replies_says_what_to_do() -> None:
    """The error names the argument that is missing."""
    client: Any = Blocking()
    with capture_sent(client), pytest.raises(LookupError, match=r"replies=\[\.\.\.\]"):
        client.request("ping", is_pong)


def test_subscription_of_a_callable() -> None:
    """It is collected as given, and is its own key, as of the client."""
    client: Any = Blocking()

    def start() -> str:
        return "start"

    with capture_sent(client) as sent:
        assert client.subscribe(start, unsubscribe="stop") is start
        client.unsubscribe(start)
    assert sent == [start, "stop"]


def test_unsubscribe_sends_what_subscribe_was_given_for_it() -> None:
    """Only a subscription that has something to say at its end sends it."""
    client: Any = Blocking()
    with capture_sent(client) as sent:
        client.subscribe("start a", key="a", unsubscribe="stop a")
        client.subscribe("start b", key="b")
        client.unsubscribe("a")
        client.unsubscribe("b")
        client.unsubscribe("a")
        client.unsubscribe(client.subscribe({"start": "c"}, unsubscribe="stop c"))
    assert sent == ["start a", "start b", "stop a", {"start": "c"}, "stop c"]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    """After the block the verbs are the class's again, or what the instance had."""
    client: Any = Blocking()
    client.send = own = lambda obj: None
    try:
        with capture_sent(client):
            assert client.send is not own
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert client.send is own
    assert set(vars(client)) == {"aio", "send"}
    assert vars(client.aio) == {}
