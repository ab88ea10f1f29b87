"""From received frames to the inbox: numbers, back pressure, requests, inline handlers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws import ClientOptions, DecodeError, HandlerError, Handlers, Message
from datastream_ws.exceptions import InboxOverflowError, NotConnectedError
from datastream_ws.handling import inline, intake
from datastream_ws.handling.budget import Budget
from datastream_ws.handling.inbox import Inbox, Put
from datastream_ws.handling.intake import Intake
from datastream_ws.messages import Origin
from datastream_ws.stats import Traffic


class FakeConnection:
    """What an intake asks of a connection."""

    def __init__(self) -> None:
        self.reading = True
        self.errors: list[Exception] = []

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def fail(self, error: Exception) -> None:
        self.errors.append(error)


class Rig:
    """An intake between a connection and an inbox."""

    def __init__(self, budget: Budget | None = None, **options: Any) -> None:
        self.options = ClientOptions("ws://localhost", **options)
        self.inbox = Inbox(
            size=self.options.inbox_size,
            size_bytes=self.options.inbox_bytes,
            overflow=self.options.overflow,
            budget=budget,
        )
        self.traffic = Traffic()
        self.handlers = Handlers()
        self.reported: list[BaseException] = []
        self.warned: list[str] = []
        self.woken = 0
        self.open = True
        self.intake = Intake(
            self.inbox,
            self.traffic,
            self.options,
            self.handlers,
            wake=self.wake,
            report=self.reported.append,
            warn=self.warned.append,
            at_work=lambda: ["shop.slow"],
            is_open=lambda: self.open,
        )
        self.connection = FakeConnection()
        self.connect()

    def connect(self, ready: bool = True) -> None:
        codec: Any = self.options.codec
        origin = Origin("default", 1, 1, codec, self.options.route)
        self.intake.attach(self.connection, origin)
        if ready:
            self.intake.requests.ready()

    def wake(self) -> None:
        self.woken += 1

    def reads(self) -> bool:
        return self.connection.reading

    def take(self, *payloads: str | bytes) -> None:
        self.intake.take(list(payloads), sum(map(len, payloads)))

    def handle(self, most: int = 10**6) -> list[Any]:
        """As a worker does; return what was handled."""
        found: list[Any] = []
        while len(found) < most and (message := self.inbox.pop()) is not None:
            found.append((message.seq, message.data))
            if self.inbox.done(message):
                self.intake.on_room()
        return found


def numbered(*payloads: str | bytes, first: int = 1) -> list[Any]:
    return list(enumerate(payloads, first))


async def test_messages_are_numbered_and_counted() -> None:
    rig = Rig()
    rig.take("a", "bb")
    rig.take(b"ccc")
    assert rig.handle() == numbered("a", "bb", b"ccc")
    assert rig.traffic.bytes_received == 6
    assert rig.traffic.last_message_at == pytest.approx(time.time(), abs=5)
    assert rig.woken == 2


# --- back pressure ---


async def test_a_full_inbox_stops_reading_until_half() -> None:
    rig = Rig(inbox_size=4)
    rig.take(*"abcd")
    assert not rig.reads()
    assert rig.handle(1) == numbered("a")
    assert not rig.reads()
    rig.handle(1)
    assert rig.reads()
    assert rig.traffic.blocked_seconds > 0


async def test_what_is_read_already_waits_and_keeps_its_place() -> None:
    """More than fits came in one read, and another read after it."""
    rig = Rig(inbox_size=3)
    rig.take(*"abcde")
    rig.take(*"fg")
    assert (rig.inbox.waiting, rig.reads()) == (3, False)
    assert rig.handle() == numbered(*"abcdefg")
    assert rig.reads()
    rig.take("h")
    assert rig.handle() == numbered("h", first=8)


async def test_blocked_seconds_are_counted_while_it_lasts() -> None:
    rig = Rig(inbox_size=1)
    assert rig.intake.blocked_seconds == 0
    rig.take("a")
    first = rig.intake.blocked_seconds
    assert rig.intake.blocked_seconds >= first
    rig.handle()
    assert rig.intake.blocked_seconds == rig.traffic.blocked_seconds > 0


async def test_room_that_was_not_waited_for() -> None:
    rig = Rig()
    rig.intake.on_room()
    assert rig.reads()
    assert rig.traffic.blocked_seconds == 0


@pytest.mark.parametrize("end", ["detach", "stop"])
async def test_what_was_received_is_kept_at_the_end(end: str) -> None:
    """Whatever the limits: it is read, the server will not send it again."""
    rig = Rig(inbox_size=2)
    rig.take(*"abcde")
    rig.take("f")
    getattr(rig.intake, end)()
    assert rig.inbox.waiting == 6
    assert rig.handle() == numbered(*"abcdef")


async def test_nothing_is_taken_after_the_stop() -> None:
    rig = Rig()
    rig.intake.stop()
    rig.take("a")
    rig.intake.on_room()
    rig.intake.detach()
    assert rig.inbox.counts().received == 0
    assert not rig.reads()


async def test_stop_without_a_connection() -> None:
    rig = Rig()
    rig.intake.detach()
    rig.intake.stop()
    assert rig.reads()


async def test_room_without_a_connection() -> None:
    rig = Rig(inbox_size=1)
    rig.take("a", "b")
    rig.intake.detach()
    assert rig.handle() == numbered("a", "b")


async def test_disconnect() -> None:
    rig = Rig(inbox_size=2, overflow="disconnect")
    rig.take(*"abc")
    [error] = rig.connection.errors
    assert isinstance(error, InboxOverflowError)
    rig.intake.detach()
    rig.take("d")
    assert len(rig.connection.errors) == 1


async def test_drops_are_reported_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(inbox_size=1, overflow="drop_oldest")
    rig.take(*"abc")
    rig.take(*"de")
    assert [str(error) for error in rig.reported] == [
        "the inbox is full: 2 messages dropped, see overflow"
    ]
    monkeypatch.setattr(intake, "REPORT_SECONDS", 0.0)
    rig.take("f")
    assert "3 messages" in str(rig.reported[-1])


async def test_nobody_takes_messages() -> None:
    """One warning, which says what to do; reading never stops."""
    rig = Rig(inbox_size=2)
    rig.inbox.is_untaken = lambda: True
    rig.take(*"abc")
    rig.take(*"de")
    assert rig.reads()
    [text] = rig.warned
    assert "on_message" in text
    assert "async for" in text
    assert rig.inbox.counts().dropped == {"untaken": 3}


async def test_a_long_stop_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """With who is at work, what it means for the server's pings, and what to change."""
    monkeypatch.setattr(intake, "WARN_SECONDS", 0.01)
    rig = Rig(inbox_size=2)
    rig.take(*"abc")
    async with asyncio.timeout(5):
        while not rig.warned:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.03)
    [text] = rig.warned
    for words in ("0.01 s", "shop.slow", "pings", "concurrency", "overflow"):
        assert words in text


@pytest.mark.parametrize("end", ["handle", "detach", "stop"])
async def test_a_short_stop_is_no_matter(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WARN_SECONDS", 0.01)
    rig = Rig(inbox_size=1)
    rig.take("a")
    rig.handle() if end == "handle" else getattr(rig.intake, end)()
    await asyncio.sleep(0.03)
    assert rig.warned == []


# --- requests ---


async def first(rig: Rig, data: str, sends: bool = True) -> asyncio.Task[Message]:
    send = (lambda: None) if sends else None
    waiting = rig.intake.requests.first(lambda message: message.data == data, send)
    task = asyncio.create_task(waiting)
    await asyncio.sleep(0)
    return task


async def test_a_reply_is_read_behind_a_full_inbox() -> None:
    """The handler that asks is the one that would make room."""
    rig = Rig(inbox_size=2)
    rig.take(*"abcd")
    assert not rig.reads()
    reply = await first(rig, "reply")
    assert rig.reads()
    for _ in range(50):
        rig.take("data")
        assert rig.reads()
    rig.take("reply")
    assert (await reply).data == "reply"
    rig.take("data")
    assert not rig.reads(), "nobody waits any more"
    handled = rig.handle()
    assert handled == numbered(*"abcd", *["data"] * 50, "reply", "data")


async def test_reading_for_a_reply_ends_at_inbox_bytes() -> None:
    rig = Rig(inbox_size=2, inbox_bytes=3200)
    rig.take(*"abc")
    await first(rig, "reply")
    for _ in range(10):
        assert rig.reads()
        rig.take("x" * 100)
    assert not rig.reads()
    await first(rig, "another")
    assert not rig.reads()
    rig.intake.detach()
    assert rig.inbox.waiting == 13


async def test_without_a_limit_of_bytes_a_reply_is_read_in_any_case() -> None:
    rig = Rig(inbox_size=1, inbox_bytes=None)
    rig.take("a")
    await first(rig, "reply")
    rig.take("b")
    assert rig.reads()
    rig.intake.stop()


@pytest.mark.parametrize("end", ["detach", "stop"])
async def test_requests_end_with_the_connection(end: str) -> None:
    rig = Rig()
    waiting = await first(rig, "never")
    getattr(rig.intake, end)()
    with pytest.raises(NotConnectedError):
        await waiting


async def test_a_hook_finds_the_first_message() -> None:
    """It came before the hook had asked."""
    rig = Rig()
    rig.connect(ready=False)
    rig.take("hello", "data")
    assert (await (await first(rig, "hello", sends=False))).data == "hello"
    assert rig.handle() == numbered("hello", "data")


# --- inline handlers ---


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
    assert seen == ["Parcel"]
