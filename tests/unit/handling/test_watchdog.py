"""Handlers that run too long."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from datastream_ws import (
    HandlerError,
    Handlers,
    Message,
)
from datastream_ws.codecs import JsonCodec
from datastream_ws.handlers import Handler
from datastream_ws.handling.callers import InlineCaller
from datastream_ws.handling.contexts import HandlerRun
from datastream_ws.handling.inbox import Portion
from datastream_ws.handling.watchdog import WatchedRun
from datastream_ws.messages import Origin
from kit.rigs import stream, until

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")


def slow_handler(message: Message) -> None: ...


def other_handler(message: Message) -> None: ...


SLOW, OTHER = Handler(slow_handler, False), Handler(other_handler, False)


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


@pytest.mark.parametrize(
    "options", [{}, {"conflate": lambda message: None}], ids=["plain", "keyed"]
)
async def test_watchdog_names_each_slow_call_of_a_run_once(options: Any) -> None:
    """Whether messages are taken together or one by one."""
    async with stream(handler_timeout=0.05, **options) as s:
        releases = threading.Semaphore(0)

        @s.handlers.on_message
        def sleepy_handler(message: Message) -> None:
            releases.acquire(timeout=10)

        for number in (1, 2):
            s.put(str(number))
            await until(lambda: len(s.reported) == number)  # noqa: B023
            releases.release()
        counts = await s.drain()
        told = [each.messages for each in s.reported if isinstance(each, HandlerError)]
        assert [message.route for (message,) in told] == ["1", "2"]
        assert counts.handled == 2


def watched(*messages: str) -> WatchedRun:
    run = HandlerRun(Handlers(), InlineCaller())
    made = [Message(data, ORIGIN, seq, 0.0) for seq, data in enumerate(messages, 1)]
    run.portion = Portion(made)
    return WatchedRun(run, threading.get_ident(), None)


def begin(run: HandlerRun, handler: Handler) -> None:
    assert run.portion is not None
    run.portion.in_hand, run.handler = next(run.portion.taken()), handler


def test_a_call_is_slow_once_it_has_been_the_same_for_long() -> None:
    """It is told of once; the next message is another call."""
    run = watched("a", "b")
    begin(run.run, SLOW)
    assert [run.look(now, 5.0) for now in (10.0, 15.0)] == [None, None]
    call = run.look(15.1, 5.0)
    assert call is not None
    assert (call.handler, call.messages[0].data) == (SLOW, "a")
    assert run.look(99.0, 5.0) is None
    begin(run.run, SLOW)
    assert [run.look(now, 5.0) for now in (100.0, 104.0)] == [None, None]
    call = run.look(106.0, 5.0)
    assert call is not None
    assert call.messages[0].data == "b"


def test_each_handler_of_a_message_has_its_own_time() -> None:
    run = watched("a")
    begin(run.run, SLOW)
    assert run.look(10.0, 5.0) is None
    run.run.handler = OTHER
    assert [run.look(now, 5.0) for now in (14.0, 18.0)] == [None, None]
    call = run.look(20.0, 5.0)
    assert call is not None
    assert call.handler is OTHER


def test_nothing_is_slow_between_two_messages() -> None:
    run = watched("a")
    assert [run.look(now, 5.0) for now in (10.0, 99.0)] == [None, None]
    begin(run.run, SLOW)
    assert run.look(100.0, 5.0) is None
    assert run.run.portion is not None
    run.run.portion.in_hand = None
    assert run.look(200.0, 5.0) is None
