"""How handlers are called where each is only to be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from datastream_ws import Handlers, Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.callers import InlineCaller
from datastream_ws.handling.contexts import HandlerRun
from datastream_ws.handling.direct import ByRoute, DirectCalls
from datastream_ws.handling.timing import Notes, Timings
from datastream_ws.messages import Origin
from kit.rigs import Rig

ORIGIN = Origin("default", 1, 1, JsonCodec(), lambda message: str(message.data))


def message(route: str) -> Message:
    return Message(route, ORIGIN, 1, 0.0)


def calls_of(handlers: Handlers) -> DirectCalls:
    run = HandlerRun(handlers, InlineCaller(), Notes(Timings()))
    return DirectCalls(handlers, run, handlers.routing.match, handlers.routing)


def names(handlers: Sequence[Any] | None) -> list[str] | None:
    return None if handlers is None else [handler.function.__name__ for handler in handlers]


def broken(message: Message) -> None:
    raise ZeroDivisionError


def quiet(message: Message) -> None: ...


def test_a_call_returns_the_handlers_that_were_called() -> None:
    handlers = Handlers()
    handlers.on_message("one")(quiet)
    handlers.on_message("two")(quiet)
    handlers.on_message("two")(print)
    calls = calls_of(handlers)
    for call in (calls.timed, calls.call, calls.call):
        assert names(call(message("one"))) == ["quiet"]
        assert names(call(message("two"))) == ["quiet", "print"]
        assert names(call(message("none"))) == []


def test_what_is_left_after_a_failure_is_of_that_message() -> None:
    """Also where the same function has been among other handlers before."""
    handlers = Handlers()
    handlers.on_message(broken)
    handlers.on_message("one")(broken)  # the same call, so it is only made once
    handlers.on_message("two")(quiet)
    calls = calls_of(handlers)
    for route, left in [("one", ["broken"]), ("two", ["broken", "quiet"]), ("one", ["broken"])]:
        with pytest.raises(ZeroDivisionError):
            calls.call(message(route))
        assert names(calls.rest) == left


def test_a_route_that_cannot_be_found_leaves_nothing() -> None:
    handlers = Handlers()
    handlers.on_message("one")(quiet)
    calls = calls_of(handlers)
    calls.call(message("one"))
    origin = Origin("default", 1, 1, JsonCodec(), lambda message: message.json()["none"])
    with pytest.raises(KeyError):
        calls.call(Message("{}", origin, 1, 0.0))
    assert calls.rest is None


async def test_routes_that_the_server_makes_up_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[ByRoute] = []
    begin = ByRoute.__init__

    def noted(self: ByRoute, *given: Any) -> None:
        begin(self, *given)
        made.append(self)

    monkeypatch.setattr(ByRoute, "__init__", noted)
    rig = Rig(is_gated=False)
    rig.handlers.on_message("ping", inline=True)(quiet)
    rig.take(*(f'{{"type": "{route}"}}' for route in ("ping", *range(50), "ping")))
    assert [list(each) for each in made] == [["ping"]]
    assert rig.inbox.waiting == 50
    assert rig.inbox.counts().handled == 2
