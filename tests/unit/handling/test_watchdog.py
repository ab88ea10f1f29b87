"""Handlers that run too long."""

from __future__ import annotations

import asyncio
import threading
import time

from datastream_ws import (
    HandlerError,
    Message,
)
from kit.rigs import stream, until


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
