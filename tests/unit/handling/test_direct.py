"""How handlers are called where each is only to be called."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from datastream_ws import Handlers, Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling import direct as module
from datastream_ws.handling.callers import Caller, InlineCaller, LoopCaller
from datastream_ws.handling.contexts import HandlerRun
from datastream_ws.handling.direct import DirectCalls
from datastream_ws.handling.timing import Notes, Timings
from datastream_ws.messages import Origin
from kit.rigs import Rig

ORIGIN = Origin("default", 1, 1, JsonCodec(), lambda message: str(message.data))


@dataclass
class Nothing:
    """What ``{}`` is decoded as."""


@pytest.fixture(params=["few", "many"])
def routes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were few routes, or more than functions are made for."""
    monkeypatch.setattr(module, "FEW_ROUTES", 50 if request.param == "few" else 0)


def message(route: str) -> Message:
    return Message(route, ORIGIN, 1, 0.0)


def calls_of(handlers: Handlers, caller: Caller | None = None) -> DirectCalls:
    run = HandlerRun(handlers, caller or InlineCaller(), Notes(Timings()))
    return DirectCalls(handlers, run, handlers.routing.match, handlers.routing)


def names(handlers: Sequence[Any] | None) -> list[str] | None:
    return None if handlers is None else [handler.function.__name__ for handler in handlers]


def broken(message: Message) -> None:
    raise ZeroDivisionError


def quiet(message: Message) -> None: ...


@pytest.mark.usefixtures("routes")
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


@pytest.mark.usefixtures("routes")
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


@pytest.mark.usefixtures("routes")
def test_a_route_that_cannot_be_found_leaves_nothing() -> None:
    handlers = Handlers()
    handlers.on_message("one")(quiet)
    calls = calls_of(handlers)
    calls.call(message("one"))
    origin = Origin("default", 1, 1, JsonCodec(), lambda message: message.json()["none"])
    with pytest.raises(KeyError):
        calls.call(Message("{}", origin, 1, 0.0))
    assert calls.rest is None


@pytest.mark.usefixtures("routes")
def test_each_call_is_counted_and_a_slow_one_is_its_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, decoded = 100.0, list[Nothing]()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow(message: Message) -> None:
        nonlocal now
        now += 3.0

    handlers = Handlers()
    handlers.on_message("one")(quiet)
    handlers.on_message("two")(slow)
    handlers.on_message("{}", decode_as=Nothing)(decoded.append)
    calls = calls_of(handlers)
    calls.timed(message("one"))
    for route in ("one", "two", "one", "{}", "two", "none"):
        calls.call(message(route))
    called = names(calls.notes.called)
    assert called == ["quiet", "quiet", "slow", "quiet", "append", "slow"]
    assert decoded == [Nothing()]
    slowest = [(handler.function, seconds) for handler, seconds in calls.notes.timed if seconds]
    assert slowest == [(slow, 3.0), (slow, 3.0)]


@pytest.mark.usefixtures("routes")
@pytest.mark.parametrize("per", ["call", "run"])
def test_contexts_are_entered(per: Literal["call", "run"]) -> None:
    entered: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    handlers = Handlers()
    handlers.on_message("one")(quiet)
    handlers.on_message("two")(quiet)
    handlers.use(context, per=per)
    calls = calls_of(handlers)
    for route in ("one", "two", "one"):
        calls.call(message(route))
    assert entered == (["in"] if per == "run" else ["in", "out"] * 3)


async def test_routes_that_the_server_makes_up_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[DirectCalls] = []
    begin = DirectCalls.__init__

    def noted(self: DirectCalls, *given: Any, **others: Any) -> None:
        begin(self, *given, **others)
        made.append(self)

    monkeypatch.setattr(DirectCalls, "__init__", noted)
    rig = Rig(is_gated=False)
    rig.handlers.on_message("ping", inline=True)(quiet)
    rig.take(*(f'{{"type": "{route}"}}' for route in ("ping", *range(50), "ping")))
    assert [list(each.entries) for each in made] == [["ping"]]
    assert rig.inbox.waiting == 50
    assert rig.inbox.counts().handled == 2


# --- coroutine functions, of which a route has one or several -------------------------------------


async def aquiet(message: Message) -> None: ...


async def abroken(message: Message) -> None:
    raise ZeroDivisionError


def loop_calls(*registered: tuple[str | None, Any]) -> DirectCalls:
    handlers = Handlers()
    for route, function in registered:
        (handlers.on_message if route is None else handlers.on_message(route))(function)
    return calls_of(handlers, LoopCaller(asyncio.Event()))


class Clock:
    """Stands still but while a handler is awaited that takes three seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    async def slow(self, message: Message) -> None:
        self.now += 3.0

    async def slow_and_broken(self, message: Message) -> None:
        self.now += 3.0
        raise ZeroDivisionError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def slow_calls(calls: DirectCalls) -> list[tuple[str, float]]:
    return [(each.function.__name__, seconds) for each, seconds in calls.notes.timed if seconds]


async def test_a_slow_coroutine_is_noted_when_the_next_message_comes(clock: Clock) -> None:
    calls = loop_calls(("one", aquiet), ("two", clock.slow), ("two", aquiet), ("three", clock.slow))
    await calls.timed(message("one"))
    for route in ("one", "three", "one", "two", "none", "three", "two"):
        await calls.call(message(route))
    called = names(calls.notes.called)
    assert called is not None
    assert " ".join(called) == "aquiet aquiet slow aquiet slow aquiet slow slow aquiet"
    assert slow_calls(calls) == [("slow", 3.0)] * 4


async def test_a_slow_coroutine_is_noted_where_a_portion_ends(clock: Clock) -> None:
    """And what lies between two portions is no handler's time."""
    calls = loop_calls(("one", aquiet), ("two", clock.slow))
    await calls.timed(message("one"))
    await calls.call(message("two"))
    calls.note(2)
    assert slow_calls(calls) == [("slow", 3.0)]
    clock.now += 7.0
    await calls.timed(message("two"))
    calls.note(1)
    assert slow_calls(calls) == [("slow", 3.0)] * 2


async def test_a_slow_coroutine_is_noted_before_a_call_that_is_timed(clock: Clock) -> None:
    calls = loop_calls(("one", aquiet), ("two", clock.slow))
    await calls.call(message("two"))
    await calls.timed(message("one"))
    assert slow_calls(calls) == [("slow", 3.0)]
    assert len(calls.notes.timed) == 2


@pytest.mark.parametrize("timed", [False, True])
async def test_a_slow_coroutine_that_raises(clock: Clock, timed: bool) -> None:
    calls = loop_calls(("one", clock.slow_and_broken), ("two", aquiet))
    with pytest.raises(ZeroDivisionError):
        await (calls.timed if timed else calls.call)(message("one"))
    assert names(calls.rest) == ["slow_and_broken"]
    calls.note(1)
    assert slow_calls(calls) == [("slow_and_broken", 3.0)]


async def test_coroutines_left_after_a_failure_are_of_that_message() -> None:
    calls = loop_calls((None, abroken), ("one", abroken), ("two", aquiet))
    for route, left in [("one", ["abroken"]), ("two", ["abroken", "aquiet"]), ("one", ["abroken"])]:
        with pytest.raises(ZeroDivisionError):
            await calls.call(message(route))
        assert names(calls.rest) == left


async def test_a_coroutine_is_given_what_it_decodes_as() -> None:
    decoded: list[Any] = []

    async def take(obj: Nothing) -> None:
        decoded.append(obj)

    handlers = Handlers()
    handlers.on_message("{}", decode_as=Nothing)(take)
    handlers.on_message("one")(aquiet)
    calls = calls_of(handlers, LoopCaller(asyncio.Event()))
    await calls.timed(message("{}"))
    await calls.call(message("{}"))
    assert decoded == [Nothing(), Nothing()]
