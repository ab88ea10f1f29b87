"""The workers that empty an inbox: runs, contexts, retries, batches, watchdog, wake-ups."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any

import pytest

from datastream_ws import (
    ClientOptions,
    DecodeError,
    HandlerError,
    Handlers,
    Message,
    Postponed,
)
from datastream_ws.handling.current import handling
from datastream_ws.handling.dispatcher import Dispatcher
from datastream_ws.handling.inbox import Inbox
from datastream_ws.messages import Origin
from datastream_ws.process.handler_threads import HandlerThreads
from datastream_ws.stats import Counts


class Stream:
    """A dispatcher with an inbox before it, and nothing behind."""

    def __init__(self, **options: Any) -> None:
        self.options = ClientOptions("ws://localhost", **options)
        self.handlers = Handlers()
        self.inbox = Inbox(size=self.options.inbox_size, ordering_key=self.options.ordering_key)
        self.reported: list[BaseException] = []
        self.log: list[Any] = []
        self.open = True
        self.rooms = 0
        self.seq = 0
        self.dispatcher = Dispatcher(
            owner=self,
            inbox=self.inbox,
            handlers=self.handlers,
            options=self.options,
            loop=asyncio.get_running_loop(),
            spawn=HandlerThreads().call,
            report=self.reported.append,
            on_room=self.note_room,
            on_death=self.reported.append,
            gate=lambda: self.open,
        )

    def note_room(self) -> None:
        self.rooms += 1

    def put(self, *routes: str, wake: bool = True) -> None:
        """Receive messages of these routes."""
        codec: Any = self.options.codec
        origin = Origin("default", 1, 1, codec, self.options.route)
        made = []
        for route in routes:
            self.seq += 1
            made.append(Message(json.dumps({"type": route}), origin, self.seq, 0.0))
        self.inbox.put(made)
        if wake:
            self.dispatcher.wake()

    async def drain(self) -> Counts:
        async with asyncio.timeout(10):
            await self.dispatcher.drain()
        return self.inbox.counts()

    def handler(self, *, name: str = "handler", is_async: bool = False, **when: Any) -> None:
        """Register a handler that writes the routes it is given into the log."""

        def plain(message: Message) -> None:
            self.log.append(message.route)

        async def coroutine(message: Message) -> None:
            await asyncio.sleep(0)
            self.log.append(message.route)

        function = coroutine if is_async else plain
        function.__qualname__ = name
        register: Any = self.handlers.on_message
        register(**when)(function)

    @property
    def errors(self) -> list[str]:
        """The causes of what was reported, by type."""
        return [type(error.__cause__).__name__ for error in self.reported]


@asynccontextmanager
async def stream(**options: Any) -> AsyncIterator[Stream]:
    made = Stream(**options)
    try:
        yield made
    finally:
        await made.dispatcher.stop()


async def until(fact: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110 - facts of other threads
            await asyncio.sleep(0.001)


BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# --- runs -------------------------------------------------------------------------------------


@BOTH
async def test_handled_in_order(is_async: bool) -> None:
    """Five hundred messages, more than a run takes, in order of arrival."""
    async with stream() as s:
        s.handler(is_async=is_async)
        routes = [str(n) for n in range(500)]
        s.put(*routes)
        counts = await s.drain()
        assert s.log == routes
        assert (counts.handled, counts.unrouted, counts.waiting) == (500, 0, 0)


@BOTH
async def test_place_of_handlers(is_async: bool) -> None:
    """Plain ones run on a thread, coroutine functions on the loop; both know whose they are."""
    async with stream() as s:
        here = threading.get_ident()

        def plain(message: Message) -> None:
            s.log.append((threading.get_ident() == here, handling.get() is s))

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a")
        await s.drain()
        assert s.log == [(is_async, True)]
        assert handling.get() is None


async def test_both_kinds_in_order() -> None:
    """A plain and a coroutine handler of one stream: for each message in order of registration."""
    async with stream() as s:
        s.handler(name="a")
        s.handler(name="b", is_async=True)
        s.put("1", "2", "3")
        await s.drain()
        assert s.log == ["1", "1", "2", "2", "3", "3"]


async def test_unrouted() -> None:
    """What no handler takes is handled, and counted as unrouted."""
    async with stream() as s:
        s.handler(route="a")
        s.put("a", "b", "c")
        counts = await s.drain()
        assert (counts.handled, counts.unrouted, counts.failed) == (3, 2, 0)


async def test_no_handlers_at_all() -> None:
    """Nothing waits for ever."""
    async with stream() as s:
        s.put("a", "b")
        counts = await s.drain()
        assert (counts.handled, counts.unrouted) == (2, 2)


async def test_room_is_told() -> None:
    """Reading resumes while a full inbox is emptied."""
    async with stream(inbox_size=4) as s:
        s.handler()
        s.open = False
        s.put("a", "b", "c", "d")
        s.open = True
        s.dispatcher.wake()
        await s.drain()
        assert s.rooms == 1


async def test_gate_holds_back() -> None:
    """What it does not let through waits, until a wake-up finds it open."""
    async with stream() as s:
        s.handler()
        s.open = False
        s.put("a")
        await asyncio.sleep(0.02)
        assert (s.log, s.inbox.waiting) == ([], 1)
        s.open = True
        s.dispatcher.wake()
        await s.drain()
        assert s.log == ["a"]


async def test_gate_that_closes_during_a_run() -> None:
    """It is looked at before each message."""
    async with stream() as s:

        def close_gate(message: Message) -> None:
            s.log.append(message.route)
            s.open = message.route != "b"

        s.handlers.on_message(close_gate)
        s.put("a", "b", "c")
        await until(lambda: len(s.log) == 2)
        await asyncio.sleep(0.02)
        assert (s.log, s.inbox.waiting) == (["a", "b"], 1)


async def test_stop_in_a_portion() -> None:
    """What the inbox drops is not handled, and what is at work is counted once it is done."""
    async with stream() as s:
        release, started = threading.Event(), threading.Event()

        @s.handlers.on_message
        def slow(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "5":
                started.set()
                release.wait(10)

        s.put(*map(str, range(20)))
        await asyncio.to_thread(started.wait, 5)
        counts = s.inbox.counts()
        assert (counts.handled, counts.waiting) == (5, 15)
        assert s.inbox.close() == 14
        release.set()
        await until(lambda: not s.inbox.waiting)
        assert s.log == list(map(str, range(6)))
        assert s.inbox.counts().handled == 6
        await asyncio.get_running_loop().shutdown_default_executor()


@BOTH
async def test_a_run_ends_after_a_while(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its contexts are left; what it had taken is the next one's, in order."""
    monkeypatch.setattr("datastream_ws.handling.runs.RUN_SECONDS", 0.002)
    async with stream() as s:
        runs: list[int] = []

        @contextmanager
        def run() -> Iterator[None]:
            runs.append(len(s.log))
            yield

        s.handlers.use(run, per="run")

        def plain(message: Message) -> None:
            time.sleep(0.001)
            s.log.append(message.route)

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        routes = [str(n) for n in range(20)]
        s.put(*routes)
        counts = await s.drain()
        assert s.log == routes
        assert counts.handled == 20
        assert len(runs) >= 4


async def test_a_run_takes_what_comes_meanwhile() -> None:
    """It ends when nothing waits, not with what it had found first."""
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")

        @s.handlers.on_message
        def handle(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "a":
                s.put("b", "c")

        s.put("a")
        await s.drain()
        assert s.log == ["+run", "a", "b", "c", "-run"]


async def test_a_run_with_contexts_has_at_most_a_hundred_messages() -> None:
    """As the documentation of use() says."""
    async with stream(inbox_size=None) as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handler()
        s.put(*map(str, range(250)))
        await s.drain()
        bounds = [index for index, entry in enumerate(s.log) if entry == "-run"]
        assert max(after - before for before, after in pairwise([-1, *bounds])) <= 102
        assert len(s.log) == 250 + 2 * len(bounds)


async def test_who_is_at_work() -> None:
    """By name, for those who say why nothing goes on."""
    async with stream() as s:
        release, started = threading.Event(), threading.Event()
        assert s.dispatcher.at_work == []

        def slow_handler(message: Message) -> None:
            started.set()
            release.wait(10)

        s.handlers.on_message("a")(slow_handler)
        s.put("a")
        await asyncio.to_thread(started.wait, 5)
        [name] = s.dispatcher.at_work
        assert "slow_handler" in name
        release.set()
        await s.drain()
        await until(lambda: s.dispatcher.at_work == [])
        await asyncio.get_running_loop().shutdown_default_executor()


# --- handlers that raise ----------------------------------------------------------------------

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
    monkeypatch.setattr("datastream_ws.handling.offering.REPORT_SECONDS", 0.0)
    async with stream() as s:
        kept: list[HandlerError] = []
        s.handlers.on_failure.append(kept.append)
        s.handler(route="a")
        put_raw(s, GZIP)
        await s.drain()
        monkeypatch.setattr("datastream_ws.handling.offering.REPORT_SECONDS", 3600.0)
        put_raw(s, GZIP, GZIP)
        await s.drain()
        monkeypatch.setattr("datastream_ws.handling.offering.REPORT_SECONDS", 0.0)
        put_raw(s, GZIP)
        await s.drain()
        assert [str(error).split(" no route")[0] for error in s.reported] == [
            "a message has",
            "3 messages have",
        ]
        assert len(kept) == 4


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


# --- Postponed and retry_message --------------------------------------------------------------


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


class Lost(Exception):
    """A lost database connection."""


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


# --- contexts ---------------------------------------------------------------------------------


def noted(log: list[Any], name: str) -> Callable[[], Any]:
    """Return the factory of a context that writes into the log."""

    @contextmanager
    def context() -> Iterator[None]:
        log.append(f"+{name}")
        try:
            yield
        except BaseException as error:
            log.append(f"!{name} {type(error).__name__}")
            raise
        finally:
            log.append(f"-{name}")

    return context


async def test_contexts_around_calls_and_runs() -> None:
    """Entered in order of use(); per call anew each time, per run once."""
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(noted(s.log, "outer"))
        s.handlers.use(noted(s.log, "inner"))
        s.handler()
        s.open = False
        s.put("a", "b")
        s.open = True
        s.dispatcher.wake()
        await s.drain()
        calls = [["+outer", "+inner", route, "-inner", "-outer"] for route in ("a", "b")]
        assert s.log == ["+run", *calls[0], *calls[1], "-run"]


async def test_contexts_see_what_the_handler_raised() -> None:
    """Those per call; a transaction rolls back."""
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(noted(s.log, "call"))
        s.handlers.on_message(lambda message: 1 / 0)
        s.put("a")
        await s.drain()
        assert s.log == ["+run", "+call", "!call ZeroDivisionError", "-call", "-run"]


@pytest.mark.parametrize("why", ["retry", "postponed"])
async def test_again_means_contexts_anew(why: str) -> None:
    """A retried message runs on a fresh connection and outside a rolled-back transaction."""
    async with stream(retry_message=lambda error: isinstance(error, Lost)) as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(noted(s.log, "call"))
        error = Lost() if why == "retry" else Postponed(0)

        @s.handlers.on_message
        def handle(message: Message) -> None:
            s.log.append("called")
            if s.log.count("called") == 1:
                raise error

        s.put("a")
        await s.drain()
        failed = ["+run", "+call", "called", f"!call {type(error).__name__}", "-call", "-run"]
        assert s.log == [*failed, "+run", "+call", "called", "-call", "-run"]


@pytest.mark.parametrize("per", ["call", "run"])
@BOTH
async def test_context_that_cannot_be_entered(per: Any, is_async: bool) -> None:
    """The message failed, with that error; the stream goes on."""
    async with stream() as s:
        s.handlers.use(lambda: 1 / 0, per=per)  # type: ignore[type-var]
        s.handler(is_async=is_async)
        s.put("a", "b")
        counts = await s.drain()
        assert (counts.failed, s.log) == (2, [])
        assert s.errors == ["ZeroDivisionError"] * 2


@pytest.mark.parametrize("per", ["call", "run"])
@BOTH
async def test_what_is_no_context(per: Any, is_async: bool) -> None:
    """A factory of something else is an error; else nothing of it would ever run."""
    async with stream() as s:
        s.handlers.use(lambda: iter([]), per=per)  # type: ignore[type-var]
        s.handler(is_async=is_async)
        s.put("a")
        counts = await s.drain()
        assert (counts.failed, s.log, s.errors) == (1, [], ["TypeError"])


async def test_context_of_a_run_that_cannot_be_left() -> None:
    """Reported; the messages were handled."""
    async with stream() as s:

        @contextmanager
        def broken() -> Iterator[None]:
            yield
            raise Lost

        s.handlers.use(broken, per="run")
        s.handler()
        s.put("a")
        counts = await s.drain()
        await until(lambda: s.reported)
        assert (counts.handled, s.log, s.errors) == (1, ["a"], ["Lost"])


async def test_asynchronous_contexts() -> None:
    """Around coroutine handlers only."""
    async with stream() as s:

        @asynccontextmanager
        async def context() -> AsyncIterator[None]:
            s.log.append("+")
            yield
            s.log.append("-")

        s.handlers.use(context)
        s.handler(route="plain")
        s.handler(route="async", is_async=True)
        s.put("plain", "async")
        await s.drain()
        assert s.log == ["plain", "+", "async", "-"]


# --- batches ----------------------------------------------------------------------------------


def batches(s: Stream, **arguments: Any) -> None:
    """Register a batch handler that logs the routes it is given."""
    s.handlers.on_batch(**arguments)(
        lambda given: s.log.append([message.route for message in given])
    )


async def test_batches_by_size() -> None:
    """As soon as one is full; the rest with the drain."""
    async with stream() as s:
        batches(s, max_size=3, max_wait=3600)
        s.put(*"abcdefgh")
        await until(lambda: len(s.log) == 2)
        assert s.log == [["a", "b", "c"], ["d", "e", "f"]]
        assert s.inbox.waiting == 2
        counts = await s.drain()
        assert s.log[2:] == [["g", "h"]]
        assert (counts.handled, counts.waiting) == (8, 0)


async def test_batches_by_time() -> None:
    """The first one waits no longer than max_wait."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=0.05)
        started = time.monotonic()
        s.put("a", "b")
        await until(lambda: s.log)
        assert s.log == [["a", "b"]]
        assert time.monotonic() - started >= 0.05
        s.put("c")
        await until(lambda: len(s.log) == 2)
        assert s.inbox.counts().handled == 3


async def test_batches_without_a_wait() -> None:
    """max_wait=0: each at once."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=0)
        s.put("a", "b")
        await until(lambda: len(s.log) == 2)
        assert s.log == [["a"], ["b"]]


@BOTH
async def test_batch_that_fails(is_async: bool) -> None:
    """All of its messages failed; one report, with all of them."""
    async with stream() as s:

        async def coroutine(given: list[Message]) -> None:
            raise Lost

        def plain(given: list[Message]) -> None:
            raise Lost

        s.handlers.on_batch(2, 3600)(coroutine if is_async else plain)
        s.put("a", "b", "c")
        counts = await s.drain()
        assert (counts.failed, counts.handled) == (3, 0)
        sizes = [len(e.messages) for e in s.reported if isinstance(e, HandlerError)]
        assert sizes == [2, 1]


async def test_message_in_two_batches_and_a_handler() -> None:
    """Done once it has left them all, failed if any of them failed."""
    async with stream() as s:
        batches(s, max_size=2, max_wait=3600)
        s.handlers.on_batch(3, 3600)(lambda given: 1 / 0)
        s.handler(route="a")
        s.put("a", "b")
        await until(lambda: len(s.log) == 2)
        assert s.inbox.waiting == 2
        counts = await s.drain()
        assert s.log == ["a", ["a", "b"]]
        assert (counts.failed, counts.waiting) == (2, 0)


async def test_postponed_batch() -> None:
    """The same list again."""
    async with stream() as s:

        @s.handlers.on_batch(2, 3600)
        def handle(given: list[Message]) -> None:
            s.log.append(len(given))
            if len(s.log) == 1:
                raise Postponed(0)

        s.put("a", "b")
        counts = await s.drain()
        assert (s.log, counts.handled) == ([2, 2], 2)


async def test_batches_given_up() -> None:
    """At the end without a drain: dropped, and counted."""
    async with stream() as s:
        batches(s, max_size=100, max_wait=3600)
        s.put("a", "b")
        await until(lambda: not s.inbox.ready)
        await asyncio.sleep(0.02)
        await s.dispatcher.stop()
        assert s.inbox.counts().dropped == {"shutdown": 2}
        assert s.log == []


async def test_batch_waits_no_longer_because_of_another_worker() -> None:
    """With a free worker a batch goes in time, however long the others take."""
    async with stream(concurrency=2) as s:
        release = threading.Event()
        batches(s, max_size=100, max_wait=0.05, route="batch")
        s.handlers.on_message("slow")(lambda message: release.wait(10))
        # What the one worker takes next.
        s.handlers.on_message("batch")(lambda message: s.put("slow", wake=False))
        s.put("batch")
        try:
            await until(lambda: s.log)
        finally:
            release.set()
        assert s.log == [["batch"]]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_timer_does_not_spin_while_workers_are_busy(concurrency: int) -> None:
    """A batch that is due and cannot go yet is no reason to keep the loop busy."""
    async with stream(concurrency=concurrency) as s:
        release, started = threading.Event(), threading.Event()

        @s.handlers.on_batch(100, 0.01)
        def slow(given: list[Message]) -> None:
            s.log.append(len(given))
            started.set()
            release.wait(10)

        @s.handlers.on_message("slow")
        def slow_too(message: Message) -> None:
            started.set()
            release.wait(10)

        s.put("a")
        if concurrency == 1:
            await until(lambda: not s.inbox.ready)
            s.put("slow")
        await asyncio.to_thread(started.wait, 5)
        s.put("b")
        timers = 0
        start_timer = s.dispatcher._batches._start_timer

        def counted(due: float) -> None:
            nonlocal timers
            timers += 1
            start_timer(due)

        s.dispatcher._batches._start_timer = counted  # type: ignore[method-assign]
        await asyncio.sleep(0.2)
        release.set()
        assert timers <= 5
        counts = await s.drain()
        assert counts.waiting == 0
        await asyncio.get_running_loop().shutdown_default_executor()


# --- watchdog ---------------------------------------------------------------------------------


async def test_watchdog_names_a_slow_handler() -> None:
    """By name, with the line it is at; once; and lets it go on."""
    async with stream(handler_timeout=0.05) as s:
        release = threading.Event()

        @s.handlers.on_message
        def sleepy_handler(message: Message) -> None:
            release.wait(10)

        s.put("a")
        await until(lambda: s.reported)
        await asyncio.sleep(0.1)
        release.set()
        counts = await s.drain()
        [error] = s.reported
        assert isinstance(error, HandlerError)
        assert "sleepy_handler is slow" in str(error)
        assert error.still_running
        assert isinstance(error.__cause__, TimeoutError)
        assert "release.wait(10)" in str(error.__cause__)
        assert error.message
        assert error.message.route == "a"
        assert (counts.handled, counts.failed) == (1, 0)


async def test_watchdog_shows_where_a_coroutine_waits() -> None:
    """Not where the loop is."""
    async with stream(handler_timeout=0.05) as s:
        release = asyncio.Event()

        @s.handlers.on_message
        async def sleepy_coroutine(message: Message) -> None:
            await release.wait()

        s.put("a")
        await until(lambda: s.reported)
        release.set()
        await s.drain()
        assert "sleepy_coroutine is slow" in str(s.reported[0])
        assert "in sleepy_coroutine" in str(s.reported[0].__cause__)


async def test_watchdog_leaves_quick_handlers_alone() -> None:
    """Also when all of them together take longer."""
    async with stream(handler_timeout=0.5) as s:
        s.handlers.on_message(lambda message: time.sleep(0.01))
        s.put(*["a"] * 60)
        await s.drain()
        assert s.reported == []


# --- concurrency ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_as_many_at_once_as_said(concurrency: int, is_async: bool) -> None:
    """Never more; and as many, when there is work for them."""
    async with stream(concurrency=concurrency) as s:
        lock, now, most = threading.Lock(), 0, 0

        def enter(step: int) -> None:
            nonlocal now, most
            with lock:
                now += step
                most = max(most, now)

        def plain(message: Message) -> None:
            enter(1)
            time.sleep(0.01)
            enter(-1)

        async def coroutine(message: Message) -> None:
            enter(1)
            await asyncio.sleep(0.01)
            enter(-1)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put(*["a"] * 12)
        counts = await s.drain()
        assert (most, counts.handled) == (concurrency, 12)


async def test_order_per_key() -> None:
    """Four workers; the messages of one key stay in order, and never meet."""
    async with stream(concurrency=4, ordering_key=lambda message: message.seq % 5) as s:
        seen: dict[int, list[int]] = {n: [] for n in range(5)}
        busy = [False] * 5
        met = []

        @s.handlers.on_message
        def handle(message: Message) -> None:
            key = message.seq % 5
            if busy[key]:
                met.append(message)
            busy[key] = True
            time.sleep(0.0002)
            seen[key].append(message.seq)
            busy[key] = False

        s.put(*["a"] * 500)
        await s.drain()
        assert met == []
        assert all(order == sorted(order) and len(order) == 100 for order in seen.values())


# --- wake-ups ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_no_wake_up_is_lost(is_async: bool, concurrency: int) -> None:
    """Messages that come just as a worker leaves: 4 threads put 500 each, without a drain."""
    async with stream(concurrency=concurrency, inbox_size=None) as s:
        s.handler(is_async=is_async)

        def receive() -> None:
            for n in range(500):
                s.put("a")
                if n % 7 == 0:
                    time.sleep(0.0001)

        threads = [threading.Thread(target=receive) for _ in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: len(s.log) == 2000)
        for thread in threads:
            thread.join()
        await until(lambda: not s.inbox.waiting)
        assert s.inbox.counts().handled == 2000


async def test_no_wake_up_is_lost_with_batches() -> None:
    """The last batch goes by its timer, whatever came between."""
    async with stream(concurrency=2, inbox_size=None) as s:
        batches(s, max_size=7, max_wait=0.003)
        for n in range(300):
            s.put("a")
            if n % 5 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: sum(map(len, s.log)) == 300)
        await until(lambda: not s.inbox.waiting)
        assert all(0 < len(batch) <= 7 for batch in s.log)


async def test_handlers_that_come_later() -> None:
    """What comes after a registration is theirs."""
    async with stream() as s:
        s.handler(route="a")
        s.put("b")
        await until(lambda: not s.inbox.waiting)
        s.handler(name="b", route="b")
        s.put("b")
        await s.drain()
        assert s.log == ["b"]


async def test_stopped_dispatcher_takes_nothing() -> None:
    """Whoever wakes it."""
    async with stream() as s:
        s.handler()
        await s.dispatcher.stop()
        s.put("a")
        await asyncio.sleep(0.02)
        assert (s.log, s.inbox.waiting) == ([], 1)


async def test_stop_cancels_coroutine_handlers() -> None:
    """Those on the loop and those a thread waits for; their messages are counted as dropped."""
    async with stream() as s:

        @s.handlers.on_message
        async def hang(message: Message) -> None:
            s.log.append("called")
            await asyncio.sleep(3600)

        s.put("a")
        await until(lambda: s.log)
        await s.dispatcher.stop()
        await until(lambda: not s.inbox.waiting)
        assert s.inbox.counts().dropped == {"shutdown": 1}


# --- what a failure is told to before it is reported ------------------------------------------


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
