"""The rate of connection attempts, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from datastream_ws.lifecycle.rate_limiter import RateLimiter
from kit.virtualtime import VirtualLoop


def play(scene: Callable[[], Awaitable[Any]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())  # type: ignore[arg-type]


def test_no_more_than_the_rate_in_any_window_and_first_come_first_served() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        rate_limiter, dialled = RateLimiter(50, 1.0), list[tuple[float, int]]()

        async def dial(number: int) -> None:
            await rate_limiter.acquire()
            dialled.append((loop.time(), number))

        await asyncio.gather(*map(dial, range(220)))
        times = [at for at, _ in dialled]
        assert [number for _, number in dialled] == list(range(220))
        assert all(later - at > 1.0 for at, later in zip(times, times[50:], strict=False))
        assert times[-1] - times[0] < 4.5
        assert rate_limiter.waiting == 0

    play(scene)


def test_one_that_gives_up_takes_no_turn() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        rate_limiter, began = RateLimiter(1, 1.0), loop.time()
        await rate_limiter.acquire()
        for _ in range(10):
            rate_limiter.acquire().cancel()
        await rate_limiter.acquire()
        assert loop.time() - began < 1.5

    play(scene)
