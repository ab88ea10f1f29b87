"""Whose turn it is to dial, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from datastream_ws.lifecycle.turns import Turns
from kit.virtualtime import VirtualLoop


def play(scene: Callable[[], Awaitable[Any]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())  # type: ignore[arg-type]


def test_no_more_than_the_rate_in_any_window_and_first_come_first_served() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        turns, dialled = Turns(50, 1.0), list[tuple[float, int]]()

        async def dial(number: int) -> None:
            await turns.next()
            dialled.append((loop.time(), number))

        await asyncio.gather(*map(dial, range(220)))
        times = [at for at, _ in dialled]
        assert [number for _, number in dialled] == list(range(220))
        assert all(later - at > 1.0 for at, later in zip(times, times[50:], strict=False))
        assert times[-1] - times[0] < 4.5
        assert turns.waiting == 0

    play(scene)


def test_one_that_gives_up_takes_no_turn() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        turns, began = Turns(1, 1.0), loop.time()
        await turns.next()
        for _ in range(10):
            turns.next().cancel()
        await turns.next()
        assert loop.time() - began < 1.5

    play(scene)
