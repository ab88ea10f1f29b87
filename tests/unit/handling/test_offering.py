"""One message to one handler: failures, and what is tried again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws import (
    ClientOptions,
    DecodeError,
    HandlerError,
    Message,
    Postponed,
)
from datastream_ws.messages import Origin
from kit.rigs import BOTH, Lost, Stream, stream, until

# --- handlers that raise ---

RAISED: list[BaseException] = [
    ValueError("secret"),
    KeyError("secret"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    type("Own", (BaseException,), {})(),
]


@BOTH
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_a_handler_that_raises(is_async: bool, error: BaseException) -> None:
    """Whatever it is: reported with message, handler and cause; the stream goes on."""
    async with stream() as s:

        def plain(message: Message) -> None:
            if message.route == "bad":
                raise error
            s.log.append(message.route)

        async def coroutine(message: Message) -> None:
            plain(message)

        function = coroutine if is_async else plain
        s.handlers.on_message(function)
        s.put("a", "bad", "b")
        counts = await s.drain()
        assert s.log == ["a", "b"]
        assert (counts.handled, counts.failed, counts.waiting) == (2, 1, 0)
        [reported] = s.reported
        assert isinstance(reported, HandlerError)
        assert reported.handler is function
        assert reported.message
        assert reported.message.route == "bad"
        assert reported.__cause__ is error
        assert function.__qualname__ in str(reported)
        assert "secret" not in str(reported)


@BOTH
async def test_stop_iteration(is_async: bool) -> None:
    """`next()` of an empty iterator: coroutines turn it into a RuntimeError, no more happens."""
    async with stream() as s:

        def plain(message: Message) -> None:
            next(iter([]))

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a", "b")
        counts = await s.drain()
        assert counts.failed == 2
        assert set(s.errors) <= {"StopIteration", "RuntimeError"}


async def test_the_other_handlers_are_called_all_the_same() -> None:
    """One that raises is no reason to leave out the next; the message counts as failed once."""
    async with stream() as s:
        s.handler(name="before")
        s.handlers.on_message(lambda message: 1 / 0)
        s.handler(name="after")
        s.put("a")
        counts = await s.drain()
        assert s.log == ["a", "a"]
        assert (counts.failed, counts.handled, s.errors) == (1, 0, ["ZeroDivisionError"])


async def test_conditions_that_raise() -> None:
    """`when` is the user's code, too."""
    async with stream() as s:
        s.handler(when=lambda message: message.json()["key"])
        s.put("a")
        counts = await s.drain()
        assert (counts.failed, s.errors) == (1, ["KeyError"])


async def test_when_that_raises_fails_that_handler_only() -> None:
    """The others are called; the message counts as failed, once."""
    async with stream() as s:

        def broken(message: Message) -> bool:
            return bool(message.json()["key"])

        def never_called(message: Message) -> None:
            s.log.append("called")

        s.handlers.on_message(when=broken)(never_called)
        s.handler(name="route", route="a")
        s.handler(name="when", when=lambda message: True)
        s.handler(name="default", default=True)
        s.put("a")
        counts = await s.drain()
        assert s.log == ["a", "a"]
        assert (counts.failed, counts.handled, s.errors) == (1, 0, ["KeyError"])
        [error] = s.reported
        assert isinstance(error, HandlerError)
        assert "never_called" in str(error)


async def test_route_that_raises() -> None:
    """Nobody can tell whose the message is: it failed, and no handler is called."""
    async with stream(route=lambda message: message.json()["none"]) as s:
        s.handler(route="a")
        s.handler(name="bare")
        s.put("a", "b")
        counts = await s.drain()
        assert (counts.failed, s.errors, s.log) == (2, ["KeyError"] * 2, [])


EXITS = pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])


@EXITS
@pytest.mark.parametrize("where", ["when", "route", "retry_message"])
async def test_what_exits_beside_a_handler_fails_one_message(
    kind: type[BaseException], where: str
) -> None:
    """As in a handler. SystemExit failed the client, and CancelledError lost message and worker."""

    def exits(_: object) -> bool:
        raise kind

    async with stream(**({} if where == "when" else {where: exits})) as s:
        if where == "when":
            s.handlers.on_message(when=exits)(lambda message: None)
        else:
            s.handlers.on_message("a")(lambda message: 1 / 0)
        s.put("a", "a")
        counts = await s.drain()
        assert (counts.failed, counts.waiting) == (2, 0)


@EXITS
@BOTH
async def test_what_exits_behind_a_handler_is_reported(
    kind: type[BaseException], is_async: bool
) -> None:
    """At the end of a run's context, and where failures are stored."""

    @contextmanager
    def exits() -> Iterator[None]:
        yield
        raise kind

    def keep(failure: HandlerError) -> None:
        raise kind

    def fails(message: Message) -> None:
        raise LookupError

    async def fails_on_loop(message: Message) -> None:
        raise LookupError

    async with stream() as s:
        s.handlers.use(exits, per="run")
        s.handlers.on_failure.append(keep)
        s.handler(is_async=is_async, route="a")
        fail = fails_on_loop if is_async else fails
        s.handlers.on_message("b")(fail)
        s.put("a", "b")
        counts = await s.drain()
        assert (s.log, counts.handled, counts.failed) == (["a"], 1, 1)
        await until(lambda: kind.__name__ in s.errors)
        assert kind in map(type, s.reported)


@EXITS
async def test_what_ends_a_worker_beside_all_that_is_reported(kind: type[BaseException]) -> None:
    """A CancelledError ended the thread of the pool instead, without a word."""

    async def dies(worker: object) -> bool:
        raise kind

    async with stream() as s:
        s.handler()
        runs: Any = s.dispatcher._runs
        runs.run = dies
        s.put("a")
        await until(lambda: s.reported)
        assert [type(death) for death in s.reported] == [kind]


GZIP = b"\x1f\x8b\x08\x00binary"


def put_raw(s: Stream, *payloads: str | bytes) -> None:
    codec: Any = s.options.codec
    origin = Origin("default", 1, 1, codec, s.options.route)
    s.inbox.put([Message(data, origin, seq, 0.0) for seq, data in enumerate(payloads, 1)])
    s.dispatcher.wake()


@pytest.mark.parametrize("options", [{}, {"handler_timeout": 60.0}], ids=["direct", "watched"])
async def test_messages_without_a_route_that_can_be_read(options: Any) -> None:
    """A hundred compressed messages where routes are waited for: failed, and told once."""
    async with stream(**options) as s:
        s.handler(route="a")
        put_raw(s, *[GZIP] * 100)
        counts = await s.drain()
        assert (counts.failed, counts.handled, counts.unrouted) == (100, 0, 0)
        await until(lambda: s.reported)
        [error] = s.reported
        assert isinstance(error, HandlerError)
        assert isinstance(error.__cause__, DecodeError)
        assert (error.handler, error.message.data if error.message else None) == (None, GZIP)
        assert "option codec" in str(error)
        assert "x1f" not in f"{error} {error.__cause__}"


async def test_undecodable_messages_are_told_again_a_second_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With how many there were; and whoever keeps failures is given each."""
    monkeypatch.setattr("datastream_ws.handling.throttle.REPORT_SECONDS", 0.0)
    async with stream() as s:
        kept: list[HandlerError] = []
        s.handlers.on_failure.append(kept.append)
        s.handler(route="a")
        put_raw(s, GZIP)
        await s.drain()
        await until(lambda: len(s.reported) == 1)
        monkeypatch.setattr("datastream_ws.handling.throttle.REPORT_SECONDS", 3600.0)
        put_raw(s, GZIP, GZIP)
        await until(lambda: not s.inbox.waiting)
        await asyncio.sleep(0)  # the worker has counted them on the loop
        monkeypatch.setattr("datastream_ws.handling.throttle.REPORT_SECONDS", 0.0)
        put_raw(s, GZIP)
        await s.drain()
        await until(lambda: len(s.reported) == 2)
        assert [str(error).split(" no readable route")[0] for error in s.reported] == [
            "a message has",
            "3 messages have",
        ]
        assert len(kept) == 4
        assert not any(str(failure)[0].isdigit() for failure in kept)  # each of one message


@BOTH
async def test_the_last_undecodable_messages_of_a_burst_are_reported_too(
    monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """None follows that would bring the next report."""
    monkeypatch.setattr("datastream_ws.handling.throttle.REPORT_SECONDS", 0.05)
    async with stream() as s:
        s.handler(route="a", is_async=is_async)
        put_raw(s, *[GZIP] * 3)
        await s.drain()
        await until(lambda: len(s.reported) == 2)
        assert str(s.reported[-1]).startswith("2 messages have no readable route")
        await asyncio.sleep(0.1)
        assert len(s.reported) == 2


async def test_the_last_undecodable_messages_before_the_end_are_reported() -> None:
    async with stream() as s:
        s.handler(route="a")
        put_raw(s, *[GZIP] * 2)
        await s.drain()
    assert [str(error)[:15] for error in s.reported] == ["a message has n"] * 2


@pytest.mark.parametrize(
    ("handlers", "handled"),
    [
        ({"route": "a"}, 0),
        ({}, 1),
        ({"default": True}, 1),
        ({"when": lambda message: message.is_text}, 1),
        ({"when": lambda message: not message.is_text}, 1),
    ],
    ids=["route", "bare", "default", "when not", "when"],
)
async def test_undecodable_is_a_failure_only_where_a_route_is_missed(
    handlers: Any, handled: int
) -> None:
    """Not where nobody looks for one, nor where a handler takes it all the same."""
    async with stream() as s:
        s.handler(**handlers)
        put_raw(s, GZIP)
        counts = await s.drain()
        assert (counts.handled, counts.failed) == (handled, 1 - handled)


async def test_undecodable_beside_a_handler_that_takes_it() -> None:
    """The bare handler has it; nothing failed."""
    async with stream() as s:
        s.handler(route="a")
        s.handlers.on_message(lambda message: s.log.append(message.data))
        put_raw(s, GZIP)
        counts = await s.drain()
        assert (s.log, counts.handled, s.reported) == ([GZIP], 1, [])


async def test_undecodable_for_a_typed_handler() -> None:
    """DecodeError, as that handler's error."""
    async with stream() as s:
        typed = ClientOptions  # any dataclass that needs a field
        s.handlers.on_message(decode_as=typed)(print)
        s.put("a")
        counts = await s.drain()
        assert (counts.failed, s.errors) == (1, ["DecodeError"])


# --- Postponed and retry_message ---


@BOTH
async def test_postponed(is_async: bool) -> None:
    """The same message again, before any other, and not the handlers before that one."""
    async with stream() as s:
        tries = iter([Postponed(0.01), Postponed(0.0), None])

        def plain(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "a" and (error := next(tries)):
                raise error

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handler(name="first", route="a", is_async=is_async)
        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a", "b")
        counts = await s.drain()
        assert s.log == ["a", "a", "a", "a", "b"]
        assert (counts.handled, counts.failed, s.reported) == (2, 0, [])


@BOTH
async def test_postponed_at_the_end(is_async: bool) -> None:
    """stop() does not wait for it: the message is dropped, and counted."""
    async with stream() as s:

        def plain(message: Message) -> None:
            s.log.append("called")
            raise Postponed(3600)

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a")
        await until(lambda: s.log)
        await s.dispatcher.stop()
        await until(lambda: not s.inbox.waiting)
        assert s.inbox.counts().dropped == {"shutdown": 1}


@BOTH
@pytest.mark.parametrize(("failures", "handled", "calls"), [(1, 1, 2), (2, 0, 2), (0, 1, 1)])
async def test_retry_message(is_async: bool, failures: int, handled: int, calls: int) -> None:
    """Once more for errors it says so of, and reported only when that fails, too."""
    async with stream(retry_message=lambda error: isinstance(error, Lost)) as s:

        def plain(message: Message) -> None:
            s.log.append(message.seq)
            if len(s.log) <= failures:
                raise Lost

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a")
        counts = await s.drain()
        assert s.log == [1] * calls
        assert (counts.handled, counts.failed) == (handled, 1 - handled)
        assert s.errors == ["Lost"] * (1 - handled)


async def test_retry_message_says_no() -> None:
    """Or is itself wrong: then that is reported, too."""
    async with stream(retry_message=lambda error: {}[error]) as s:
        s.handlers.on_message(lambda message: 1 / 0)
        s.put("a")
        counts = await s.drain()
        assert counts.failed == 1
        assert isinstance(s.reported[0], KeyError)
        assert s.errors[1:] == ["ZeroDivisionError"]


# --- what a failure is told to before it is reported ---


@BOTH
async def test_on_failure_is_called_where_the_handler_failed(is_async: bool) -> None:
    """Before the report and before the next message; never on the loop, which it may not block."""
    async with stream() as s:

        def keep(failure: HandlerError) -> None:
            time.sleep(0.001)  # as a database
            on_loop = threading.current_thread() is loop_thread
            s.log.append((failure.messages[0].seq, len(s.reported), on_loop))

        def fail(message: Message) -> None:
            s.log.append(message.seq)
            raise ValueError

        async def fail_on_the_loop(message: Message) -> None:
            fail(message)

        loop_thread = threading.current_thread()
        s.handlers.on_failure.append(keep)
        s.handlers.on_message(fail_on_the_loop if is_async else fail)
        s.put("a", "b")
        await s.drain()
        assert s.log == [1, (1, 0, False), 2, (2, 1, False)]


async def test_an_on_failure_that_fails_hides_nothing() -> None:
    """Its error and the handler's are both reported, and the message is counted."""
    async with stream() as s:

        def keep(failure: HandlerError) -> None:
            raise OSError

        @s.handlers.on_message
        def fail(message: Message) -> None:
            raise ValueError

        s.handlers.on_failure.append(keep)
        s.put("a")
        assert (await s.drain()).failed == 1
        assert [type(error) for error in s.reported] == [OSError, HandlerError]
