"""
Numbered messages, and checks that none was lost or duplicated.

::

    with NumberedServer(10_000, drop_every=500, ways=["abort", "drop", 1011]) as server:
        ...                                 # a client that sends {"resume": last} in on_ready
        server.wait_finished()
    check_numbers(handled, 10_000)
    check_ledger(client.stats())
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from datastream_ws.testing.connection import StreamConnection
from datastream_ws.testing.server import StreamServer

__all__ = ["NumberedServer", "check_ledger", "check_numbers"]

# The ways to end a connection are RST, FIN, a close code, and a function.
Way = Literal["abort", "drop"] | int | Callable[[StreamConnection], object]


class NumberedServer(StreamServer):
    """
    A server that sends ``{"type": "number", "n": i}`` for i = 1 … *count*, in order.

    With *resume*, a connection gets nothing until it sends ``{"resume": last}``. It then gets the
    numbers after *last*. 0 or null requests all of them. Without *resume* it is a live feed. The
    newest connection gets the next number, and numbers written to an ending connection are lost.

    Args:
        count: The last number.
        rate: Messages per second. ``None`` sends as fast as the client reads.
        resume: Whether connections request a number first.
        drop_every: The number of messages after which a connection is ended, unless it gets the
            last number. ``None`` ends none.
        ways: The ways to end connections, which are used in turn.
        options: Arguments of StreamServer.

    Attributes:
        highest: The highest number that was written.
        drops: The number of connections that were ended.

    """

    def __init__(
        self,
        count: int,
        *,
        rate: float | None = None,
        resume: bool = True,
        drop_every: int | None = None,
        ways: Sequence[Way] = ("abort",),
        **options: Any,
    ) -> None:
        super().__init__(on_connect=self._feed, on_message=self._listen_for_resume, **options)
        self.count = count
        self.highest = 0
        self.drops = 0
        self._rate = rate
        self._resume = resume
        self._drop_every = drop_every
        self._ways = itertools.cycle(ways)
        self._finished = threading.Event()
        self._newest = 0
        self._asked: dict[int, asyncio.Future[int]] = {}

    def end_soon(self, more: int = 50) -> None:
        """End with the number that comes after *more* others, and set ``count`` to it."""
        self.count = self.highest + more

    def wait_finished(self, timeout: float = 30.0) -> None:
        """Wait until the last number was written. TimeoutError shows the highest one."""
        if not self._finished.wait(timeout):
            raise TimeoutError(f"{self.highest} of {self.count} numbers sent in {timeout} s")

    async def _feed(self, connection: StreamConnection) -> None:
        self._newest = connection.number
        last = await self._last(connection.number) if self._resume else self.highest
        begun = asyncio.get_running_loop().time()
        for sent, n in enumerate(itertools.count(last + 1)):
            if n > self.count:
                break
            if sent and sent == self._drop_every:
                return self._drop(connection)
            await self._pace(begun, sent)
            if connection.number != self._newest and not self._resume:
                return None
            await connection.websocket.send(json.dumps({"type": "number", "n": n}))
            self.highest = max(self.highest, n)
        self._finished.set()
        return None

    async def _last(self, number: int) -> int:
        asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        return await asked

    async def _pace(self, begun: float, sent: int) -> None:
        if self._rate is not None:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, begun + sent / self._rate - now))
        elif sent % 50 == 0:  # sending alone never lets the loop read
            await asyncio.sleep(0)

    def _drop(self, connection: StreamConnection) -> None:
        self.drops += 1
        way = next(self._ways)
        if isinstance(way, int):
            connection.close(way)
        elif callable(way):
            way(connection)
        else:
            getattr(connection, way)()

    def _listen_for_resume(self, connection: StreamConnection, data: str | bytes) -> None:
        try:
            message = json.loads(data)
        except ValueError:
            return
        asked = self._asked.get(connection.number)
        if asked and not asked.done() and isinstance(message, dict) and "resume" in message:
            asked.set_result(message["resume"] or 0)


def check_ledger(stats: Any) -> None:
    """Assert that the ``stats()`` of a client account for all received messages."""
    parts = {
        "handled": stats.messages_handled,
        "failed": stats.messages_failed,
        **{f"dropped: {cause}": n for cause, n in stats.messages_dropped.items()},
        "waiting": stats.messages_waiting,
        "spooled": stats.messages_spooled,
    }
    received, accounted = stats.messages_received, sum(parts.values())
    assert received == accounted, f"{received} received, but {accounted} accounted for: {parts}"


def check_numbers(numbers: Iterable[int], count: int) -> None:
    """Assert that *numbers* are 1 … *count* in order, without gaps and duplicates."""
    given = list(numbers)
    expected = range(1, count + 1)
    times = Counter(given)
    lost = [n for n in expected if not times[n]]
    doubled = [n for n, seen in times.items() if seen > 1]
    alien = sorted(set(given) - set(expected))
    disorder = [n for before, n in itertools.pairwise(given) if n < before]
    wrong = {"lost": lost, "doubled": doubled, "unknown": alien, "out of order": disorder}
    summary = [f"{len(found)} {what} {found[:10]}" for what, found in wrong.items() if found]
    assert summary == []
