"""Handlers that are called the moment a message is received."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws import ClientOptions, DecodeError, HandlerError, Message
from datastream_ws.handling import inline
from datastream_ws.handling.budget import Budget
from datastream_ws.handling.inbox import Put
from kit.rigs import Rig, numbered


def log_of(rig: Rig, route: str | None = "ping") -> list[Any]:
    """Register an inline handler; return the list of what it is given."""
    log: list[Any] = []

    def ping(message: Message) -> None:
        log.append(message.data)

    rig.handlers.on_message(route, inline=True)(ping)
    return log


PING = '{"type": "ping"}'
DATA = '{"type": "data"}'


async def test_inline_handlers_are_called_before_what_waits() -> None:
    """And the message never enters the inbox, full as it is."""
    rig = Rig(inbox_size=2)
    log = log_of(rig)
    rig.handlers.on_message("data")(print)
    rig.take(DATA, DATA, DATA)
    rig.take(PING, DATA)
    assert log == [PING]
    counts = rig.inbox.counts()
    assert (counts.received, counts.handled, counts.waiting) == (3, 1, 2)
    assert [data for _, data in rig.handle()] == [DATA] * 4
    rig.take(PING)
    assert (rig.inbox.counts().handled, rig.inbox.waiting) == (6, 0)
    assert rig.inbox.last_message
    assert rig.inbox.last_message.seq == 6


async def test_a_read_that_is_all_inline() -> None:
    rig = Rig()
    log = log_of(rig, None)
    rig.take(PING, DATA)
    assert log == [PING, DATA]
    assert (rig.inbox.counts().handled, rig.woken) == (2, 0)


async def test_within_a_read_the_last_message_is_the_one_before() -> None:
    """They are counted together, at the end of the read."""
    rig, seen = Rig(), list[int | None]()

    def ping(message: Message) -> None:
        last = rig.inbox.last_message
        seen.append(last.seq if last else None)

    rig.handlers.on_message("ping", inline=True)(ping)
    rig.take(PING, PING, PING)
    assert seen == [None, 1, 2]
    assert (rig.inbox.counts().received, rig.inbox.counts().handled) == (3, 3)


async def test_other_handlers_are_given_the_message_through_the_inbox() -> None:
    rig = Rig()
    log = log_of(rig)
    rig.handlers.on_message("ping")(print)
    rig.take(PING)
    assert log == [PING]
    assert rig.inbox.counts().handled == 0
    assert rig.handle() == numbered(PING)


async def test_default_handlers_leave_it_alone() -> None:
    """An inline handler has taken it."""
    rig = Rig()
    log_of(rig)
    rig.handlers.on_message(default=True)(print)
    rig.take(PING, DATA)
    assert [data for _, data in rig.handle()] == [DATA]


async def test_inline_handler_that_raises() -> None:
    """Reported as any handler's error; the message failed, the next one is not its concern."""
    rig = Rig()

    def broken(message: Message) -> None:
        raise ZeroDivisionError

    rig.handlers.on_message("ping", inline=True)(broken)
    log = log_of(rig)
    rig.take(PING, PING)
    assert log == [PING, PING]
    [error, _] = rig.reported
    assert isinstance(error, HandlerError)
    assert error.handler is broken
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert (rig.inbox.counts().failed, rig.inbox.counts().handled) == (2, 0)


async def test_inline_failures_are_kept_off_the_loop() -> None:
    """Whoever keeps them may block."""
    rig = Rig()
    kept: list[HandlerError] = []
    rig.handlers.on_failure.append(kept.append)

    @rig.handlers.on_message(inline=True)
    def broken(message: Message) -> None:
        raise ZeroDivisionError

    rig.take(PING)
    assert kept == []
    async with asyncio.timeout(5):
        while not kept:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert kept == rig.reported


async def test_inline_handler_of_a_type_that_cannot_be_decoded() -> None:
    rig = Rig()

    @rig.handlers.on_message("ping", inline=True, decode_as=ClientOptions)
    def never(options: ClientOptions) -> None:
        raise AssertionError

    rig.take(PING)
    assert [type(error.__cause__) for error in rig.reported] == [DecodeError]


async def test_slow_inline_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported, at most once a second, and told from a failure."""
    monkeypatch.setattr(inline, "SLOW_SECONDS", 0.001)
    rig = Rig()

    @rig.handlers.on_message(inline=True)
    def slow(message: Message) -> None:
        time.sleep(0.002)

    rig.take(PING, PING)
    [error] = rig.reported
    assert isinstance(error, HandlerError)
    assert error.still_running
    assert "inline handler took" in str(error.__cause__)
    assert rig.inbox.counts().handled == 2


async def test_quick_inline_handler() -> None:
    rig = Rig()
    log_of(rig)
    rig.take(PING)
    assert rig.reported == []


async def test_inline_handlers_are_held_back_by_the_gate() -> None:
    """The lease is lost: the message may be somebody else's."""
    rig = Rig()
    log = log_of(rig)
    rig.open = False
    rig.take(PING)
    assert (log, rig.inbox.waiting) == ([], 1)


async def test_inline_messages_are_of_the_budget() -> None:
    told: list[int] = []
    rig = Rig(budget=Budget(2, lambda: told.append(1)))
    log_of(rig)
    rig.take(PING, PING)
    assert told == [1]


async def test_contexts_are_entered_around_inline_handlers() -> None:
    """Those of a run around all of one read."""
    rig = Rig()
    log = log_of(rig)

    def noted(name: str) -> Callable[[], Any]:
        @contextmanager
        def context() -> Iterator[None]:
            log.append(f"+{name}")
            yield
            log.append(f"-{name}")

        return context

    rig.handlers.use(noted("run"), per="run")
    rig.handlers.use(noted("call"))
    rig.take(PING, PING)
    assert log == ["+run", "+call", PING, "-call", "+call", PING, "-call", "-run"]


async def test_context_of_a_read_that_cannot_be_left() -> None:
    rig = Rig()
    log_of(rig)

    @contextmanager
    def broken() -> Iterator[None]:
        yield
        raise ZeroDivisionError

    rig.handlers.use(broken, per="run")
    rig.take(PING)
    assert [type(error.__cause__) for error in rig.reported] == [ZeroDivisionError]
    assert rig.inbox.counts().handled == 1


async def test_a_route_that_raises_is_for_the_workers() -> None:
    rig = Rig(route=lambda message: message.json()["none"])
    log = log_of(rig)
    rig.take(PING)
    assert (log, rig.inbox.waiting, rig.reported) == ([], 1, [])


async def test_a_route_that_exits_is_for_the_workers() -> None:
    """SystemExit came out of the socket's callback, and ended the user's loop."""

    def exits(message: Message) -> str:
        raise SystemExit

    rig = Rig(route=exits)
    log = log_of(rig)
    rig.take(PING)
    assert (log, rig.inbox.waiting, rig.reported) == ([], 1, [])


async def test_a_context_that_exits_is_reported() -> None:
    rig = Rig()
    log = log_of(rig)

    @contextmanager
    def exits() -> Iterator[None]:
        yield
        raise SystemExit

    rig.handlers.use(exits, per="run")
    rig.take(PING)
    assert len(log) == 1
    assert [type(error.__cause__) for error in rig.reported] == [SystemExit]


async def test_nothing_is_made_without_inline_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read goes into the inbox as it came."""
    rig = Rig()
    seen: list[str] = []
    put = rig.inbox.put

    def noted(messages: Sequence[Message], *, force: bool = False) -> Put:
        seen.append(type(messages).__name__)
        return put(messages, force=force)

    monkeypatch.setattr(rig.inbox, "put", noted)
    rig.take("a", "b")
    assert seen == ["LazyMessages"]


GATED = pytest.mark.parametrize("is_gated", [False, True])


@GATED
async def test_handlers_after_one_that_raises_are_called_once(is_gated: bool) -> None:
    """Whatever the message before had, and however it was found."""
    rig = Rig(is_gated=is_gated)
    log: list[tuple[str, Any]] = []

    def handler(name: str, **when: Any) -> None:
        def function(message: Message) -> None:
            log.append((name, message.route))
            raise ZeroDivisionError(name)

        register: Any = rig.handlers.on_message
        register(inline=True, **when)(function)

    handler("a", route="a")
    handler("all", when=lambda message: message.route != "a")
    handler("b", route="b")
    handler("b too", route="b")
    rig.take(*(f'{{"type": "{route}"}}' for route in ("b", "a", "b", "c", "a")))
    b = [("all", "b"), ("b", "b"), ("b too", "b")]
    assert log == [*b, ("a", "a"), *b, ("all", "c"), ("a", "a")]
    assert [str(error.__cause__) for error in rig.reported] == [name for name, _ in log]
    assert (rig.inbox.counts().failed, rig.inbox.counts().handled) == (5, 0)


@GATED
async def test_handlers_of_a_route_each_that_raise_in_turn(is_gated: bool) -> None:
    rig = Rig(is_gated=is_gated)
    for route in "ab":

        @rig.handlers.on_message(route, inline=True)
        def broken(message: Message) -> None:
            raise ZeroDivisionError(message.route)

    rig.take(*(f'{{"type": "{route}"}}' for route in "abab"))
    assert [str(error.__cause__) for error in rig.reported] == list("abab")
    assert (rig.inbox.counts().failed, rig.inbox.waiting) == (4, 0)


@GATED
async def test_each_inline_handler_has_its_calls_and_times(is_gated: bool) -> None:
    """A slow one is not taken for the one that is called before or after it."""
    rig = Rig(is_gated=is_gated)

    @rig.handlers.on_message("quick", inline=True)
    def quick(message: Message) -> None: ...

    @rig.handlers.on_message("slow", inline=True)
    def slow(message: Message) -> None:
        if message.seq == 50:
            time.sleep(0.02)

    kinds = ["quick", "slow"] * 50
    rig.take(*(f'{{"type": "{kind}"}}' for kind in kinds))
    found = {name.rpartition(".")[2]: each for name, each in rig.timings.stats().items()}
    assert (found["quick"].calls, found["slow"].calls) == (50, 50)
    assert found["slow"].max is not None
    assert found["slow"].max >= 0.02
    assert found["quick"].max is not None
    assert found["quick"].max < 0.02


async def test_what_others_conditions_take_is_no_time_of_an_inline_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inline, "SLOW_SECONDS", 0.015)
    rig = Rig()
    log_of(rig)
    rig.handlers.on_message(when=lambda message: time.sleep(0.02))(print)
    rig.take(PING, PING)
    assert rig.reported == []


async def test_what_is_done_about_a_failure_is_no_time_of_an_inline_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inline, "SLOW_SECONDS", 0.015)
    rig = Rig(is_gated=False)

    @rig.handlers.on_message(inline=True)
    def broken(message: Message) -> None:
        raise ZeroDivisionError

    def report(error: BaseException) -> None:
        time.sleep(0.02)
        rig.reported.append(error)

    monkeypatch.setattr(rig.intake._inline, "_report", report)
    rig.take(PING, PING)
    assert [type(error.__cause__) for error in rig.reported] == [ZeroDivisionError] * 2


async def test_a_route_that_raises_for_others_only() -> None:
    """The inline handler has every message; what the workers cannot tell is theirs to report."""
    rig = Rig(route=lambda message: message.json()["none"])
    log = log_of(rig, None)
    rig.handlers.on_message("data")(print)
    rig.take(PING)
    assert (log, rig.inbox.waiting, rig.reported) == ([PING], 1, [])
