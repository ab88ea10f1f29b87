"""The clients of a fleet's streams: what is counted while one ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from datastream_ws.events import State
from datastream_ws.fleet.source import Changes, Row
from datastream_ws.fleet.streams import Streams
from datastream_ws.stats import Stats
from kit.rigs import until


class FakeClient:
    """A client that has received 10 messages and closes when the test says so."""

    def __init__(self) -> None:
        self.state = State.READY
        self._finished: Future[None] = Future()

    def start(self) -> None: ...
    def request_close(self) -> None: ...

    def stats(self) -> Stats:
        return Stats(messages_received=10)

    def end(self) -> None:
        self.state = State.CLOSED
        self._finished.set_result(None)


def ended(key: str) -> None: ...


async def test_a_stream_that_ends_is_counted_once_at_every_moment() -> None:
    """A sum that falls looks to Prometheus like a restart, and one that jumps like traffic."""
    client: Any = FakeClient()
    place: Any = object()
    streams = Streams(lambda row, place: client, lambda row: place, ended, lambda key, error: None)
    streams.apply({"a": Row("a", {})}, Changes(added=("a",)))
    sums: list[int] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            past, running = streams.stats()
            sums.append(past.messages_received + sum(s.messages_received for s in running.values()))

    class Slow(dict[str, Any]):
        """Gives another thread time while a snapshot of it is taken."""

        def items(self) -> Any:
            found = list(super().items())
            is_read.set()
            threading.Event().wait(0.05)
            return found

    is_read = threading.Event()
    streams.running = Slow(streams.running)
    reader = threading.Thread(target=read)
    reader.start()
    await asyncio.to_thread(is_read.wait)
    streams.apply({}, Changes(gone=("a",)))
    client.end()
    await until(lambda: not streams.running)
    is_over.set()
    await asyncio.to_thread(reader.join)
    assert set(sums) == {10}
