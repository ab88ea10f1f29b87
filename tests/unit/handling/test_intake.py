"""From received frames to the inbox: numbers, back pressure, requests."""

from __future__ import annotations

import asyncio
import time

import pytest

from datastream_ws import Message
from datastream_ws.exceptions import InboxOverflowError, NotConnectedError
from datastream_ws.handling import intake, throttle
from kit.rigs import Rig, numbered, until


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


async def test_blocked_seconds_may_be_read_while_reading_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """stats() of another thread, in the moment in which the inbox has room again."""
    rig = Rig(inbox_size=1)
    rig.take("a")

    def resumes() -> float:
        rig.intake._blocked_at = None
        return 0.0

    monkeypatch.setattr("datastream_ws.handling.intake.time.monotonic", resumes)
    assert rig.intake.blocked_seconds <= 0


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
        "the inbox is full; 2 messages were dropped. Make the handlers faster, or set "
        "another overflow or a spool."
    ]
    monkeypatch.setattr(throttle, "REPORT_SECONDS", 0.0)
    rig.take("f")
    assert "3 messages" in str(rig.reported[-1])
    rig.take("g")
    assert "; 1 message was dropped. " in str(rig.reported[-1])


async def test_the_last_drops_of_a_burst_are_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """None follows that would bring the next report."""
    monkeypatch.setattr(throttle, "REPORT_SECONDS", 0.05)
    rig = Rig(inbox_size=1, overflow="drop_oldest")
    rig.take(*"ab")
    rig.take(*"cd")
    rig.take("e")
    assert len(rig.reported) == 1
    await until(lambda: len(rig.reported) == 2)
    assert "; 3 messages were dropped. " in str(rig.reported[-1])
    await asyncio.sleep(0.1)
    assert len(rig.reported) == 2


async def test_the_last_drops_before_the_end_are_reported() -> None:
    rig = Rig(inbox_size=1, overflow="drop_oldest")
    rig.take(*"ab")
    rig.take("c")
    rig.intake.stop()
    assert "; 1 message was dropped. " in str(rig.reported[-1])
    assert len(rig.reported) == 2


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
    for words in ("0.01 s", "shop.slow", "Pings", "concurrency", "overflow"):
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


@pytest.mark.parametrize("kind", ["on_connect", "on_ready"])
async def test_a_hook_finds_the_first_message(kind: str) -> None:
    """It came before the hook had asked."""
    rig = Rig()
    getattr(rig.handlers, kind)(lambda: None)
    rig.connect(ready=False)
    rig.take("hello", "data")
    assert (await (await first(rig, "hello", sends=False))).data == "hello"
    assert rig.handle() == numbered("hello", "data")


async def test_without_a_hook_no_message_is_kept_for_one() -> None:
    """Kept messages are decoded objects in memory, just when a flood of them arrives."""
    rig = Rig()
    rig.connect(ready=False)
    assert not rig.intake.requests.want_messages
