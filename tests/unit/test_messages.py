"""One received message: what it carries, decoded once, shown without its payload."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from datastream_ws import DecodeError, HandlerError, Message, NotConnectedError
from datastream_ws.codecs import JsonCodec, codec_for
from datastream_ws.messages import Origin


def message(
    data: str | bytes,
    *,
    route: str | Callable[[Message], str | None] = "type",
    codec: Any = None,
    stream: str = "prices",
) -> Message:
    """Make a message of the third connection."""
    origin = Origin(stream, 3, 77, codec or JsonCodec(), route)
    return Message(data, origin, 12, 1700000000.5)


def test_facts() -> None:
    """What users may rely on, by name."""
    given = message("{}")
    assert (given.data, given.stream, given.connection, given.epoch) == ("{}", "prices", 3, 77)
    assert (given.seq, given.received_at) == (12, 1700000000.5)


def test_equality() -> None:
    """The same message may come as two objects, as ``last_message`` and in a handler."""
    assert message("x") == message("x")
    assert len({message("x"), message("x"), message("y"), message("x", stream="other")}) == 3
    assert message("x") != "x"


@pytest.mark.parametrize(
    ("data", "is_text"), [("", True), ("x", True), (b"", False), (b"x", False)]
)
def test_is_text(data: str | bytes, is_text: bool) -> None:
    """A text frame is a str, a binary one bytes."""
    assert message(data).is_text is is_text


@pytest.mark.parametrize("data", ['{"a": 1}', b'{"a": 1}'])
def test_json(data: str | bytes) -> None:
    """Text and binary frames alike."""
    assert message(data).json() == {"a": 1}


@pytest.mark.parametrize("payload", ["{}", "null"])
def test_json_is_decoded_once(payload: str) -> None:
    """The same object at every call, `None` included; the route uses it, too."""
    calls: list[str | bytes] = []

    def decode(data: str | bytes) -> Any:
        calls.append(data)
        return JsonCodec().decode(data)

    given = message(payload, codec=SimpleNamespace(decode=decode, encode=str))
    first = given.json()
    assert given.json() is first
    assert given.route is None
    assert calls == [payload]


@pytest.mark.fault("P17")
def test_json_of_something_else() -> None:
    """DecodeError at every call, naming no payload."""
    given = message("secret")
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            given.json()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "route"),
    [
        ('{"type": "tick"}', "tick"),
        (b'{"type": "tick"}', "tick"),
        ('{"type": ""}', ""),
        ('{"type": 5}', 5),
        ('{"type": -5}', -5),
        ('{"type": 5.0}', None),
        ('{"type": true}', None),
        ('{"type": null}', None),
        ('{"type": ["tick"]}', None),
        ('{"Type": "tick"}', None),
        ("{}", None),
        ('["type"]', None),
        ('"type"', None),
        ("5", None),
        ("no JSON", None),
        (b"\xff\xfe", None),
        ("[" * 100_000, None),
        ("", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_route(data: str | bytes, route: str | int | None) -> None:
    """String or whole number in the field `type` of an object; everything else has no route."""
    assert message(data).route == route
    assert message(data).find_route() == route


@pytest.mark.parametrize(
    "data",
    ['{"type": "a", "type": "tick"}', '{"n": {"type": "a"}, "type": "tick"}', '{"t": 1, "type"'],
)
@pytest.mark.parametrize("codec", ["json", "orjson", "msgspec"])
def test_route_found_without_the_rest(data: str, codec: str) -> None:
    """It is the one of the decoded payload."""
    pytest.importorskip("msgspec", reason="not installed")
    pytest.importorskip(codec, reason="not installed")
    given = message(data, codec=codec_for(codec))
    assert given.find_route() == message(data, codec=codec_for(codec)).route


def test_route_is_found_where_only_the_codec_reads_the_rest() -> None:
    """The standard library reads NaN, msgspec does not."""
    assert message('{"x": NaN, "type": "tick"}').find_route() == "tick"


def test_route_by_another_field() -> None:
    """The option `route` names it."""
    assert message('{"type": "a", "event": "b"}', route="event").route == "b"


def test_route_by_a_callable() -> None:
    """Called once, given the message."""
    calls: list[Message] = []

    def route(given: Message) -> str:
        calls.append(given)
        return str(given.data).split(":")[0]

    given = message("tick:5", route=route)
    assert (given.route, given.route) == ("tick", "tick")
    assert calls == [given]


def test_route_callable_that_raises() -> None:
    """Its error comes through: the message is then one that failed."""
    with pytest.raises(ZeroDivisionError):
        _ = message("x", route=lambda given: str(1 / 0)).route


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("secret", "<Message prices #12, 6 characters>"),
        (b"secret!", "<Message prices #12, 7 bytes>"),
    ],
)
def test_repr_shows_no_payload(data: str | bytes, shown: str) -> None:
    """Messages end up in logs, by way of errors and locals."""
    assert repr(message(data)) == shown


def test_repr_is_one_line() -> None:
    """Whatever the stream is called."""
    assert repr(message("", stream="a\nb")) == r"<Message a\nb #12, 0 characters>"


def test_messages_are_small() -> None:
    """A thousand of them wait in a default inbox: no dictionary each."""
    with pytest.raises(AttributeError):
        _ = message("").__dict__


# --- replies ----------------------------------------------------------------------------------


def test_reply_goes_where_the_message_came_from() -> None:
    sent: list[Any] = []
    origin = Origin("prices", 3, 77, JsonCodec(), "type", sent.append)
    given = Message("{}", origin, 12, 0.0)
    given.reply({"pong": 1})
    copy.copy(given).reply("again")
    assert sent == [{"pong": 1}, "again"]


def test_nothing_to_reply_over() -> None:
    """Neither for a message that was made up nor for a pickled one."""
    origin = Origin("prices", 3, 77, JsonCodec(), "type", lambda obj: None)
    for given in (message("{}"), pickled(Message("{}", origin, 12, 0.0))):
        with pytest.raises(NotConnectedError, match="prices"):
            given.reply("x")


# --- copies -----------------------------------------------------------------------------------


class Upper:
    """A codec of a user's."""

    def decode(self, data: str | bytes) -> Any:
        return str(data).upper()

    def encode(self, obj: Any) -> str:
        return str(obj)


def pickled(given: Message) -> Message:
    copied = pickle.loads(pickle.dumps(given))
    assert isinstance(copied, Message)
    return copied


@pytest.mark.parametrize("how", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("data", ['{"type": "tick"}', b'{"type": 5}', "no JSON"])
def test_copies_are_equal(how: Callable[[Message], Message], data: str | bytes) -> None:
    """For a process pool, a queue, a cache; before and after somebody has looked at it."""
    given = message(data)
    copied = how(given)
    assert copied == given
    assert hash(copied) == hash(given)
    assert (copied.seq, copied.received_at, copied.route) == (12, 1700000000.5, given.route)
    assert how(given).route == given.route
    if data != "no JSON":
        assert copied.json() == given.json()


def test_a_callable_route_is_pickled_with_what_it_found() -> None:
    copied = pickled(message("tick:5", route=lambda given: str(given.data).split(":")[0]))
    assert copied.route == "tick"


def test_a_codec_of_the_users_is_pickled_as_it_is() -> None:
    assert pickled(message("x", codec=Upper())).json() == "X"


def test_an_error_with_a_message_is_pickled() -> None:
    error = HandlerError("failed", handler=print, messages=(message("{}"),))
    copied = pickle.loads(pickle.dumps(error))
    assert copied.messages == error.messages
