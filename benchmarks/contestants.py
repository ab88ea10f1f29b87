"""What is measured: ways to receive a stream, each a `run(url, count) -> seconds`.

Every contestant connects, handles exactly `count` messages and closes. The seconds are those from
the first message handled to the last, so neither imports nor handshakes count. To add one, write a
function and put `@contestant("name")` above it; what it needs is imported inside, so that each runs
without the others' packages.

    python -m benchmarks.contestants bare ws://127.0.0.1:9000/ 200000      # prints the seconds
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import datastream_ws

Run = Callable[[str, int], float]

CONTESTANTS: dict[str, Run] = {}
PATIENCE = 120.0  # seconds until a contestant that does not finish is given up


def contestant(name: str) -> Callable[[Run], Run]:
    """Enter a function under `name`. The first line of its docstring is what the table shows."""

    def enter(run: Run) -> Run:
        CONTESTANTS[name] = run
        return run

    return enter


class Stopwatch:
    """Counts messages and times them: `count` of them, from the first to the last."""

    __slots__ = ("_count", "_seen", "_started", "_stopped")

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError("a time from first to last needs at least 2 messages")
        self._count = count
        self._seen = 0
        self._started = self._stopped = 0.0

    def tick(self) -> bool:
        """Count a handled message; True when it was the last."""
        self._seen = seen = self._seen + 1
        if seen == 1:
            self._started = time.perf_counter()
        elif seen == self._count:
            self._stopped = time.perf_counter()
            return True
        return False

    @property
    def seconds(self) -> float:
        """The time measured. Raises `RuntimeError` unless exactly `count` messages came."""
        if self._seen != self._count:
            raise RuntimeError(f"{self._seen} messages handled, {self._count} expected")
        return self._stopped - self._started


# --- the bare library: what the others are compared with ------------------------------------------


@contestant("bare")
def bare(url: str, count: int) -> float:
    """websockets: async for, json.loads inline"""
    return asyncio.run(bare_loop(url, count))


async def bare_loop(url: str, count: int) -> float:
    from websockets.asyncio.client import connect

    watch = Stopwatch(count)
    async with connect(url) as connection:
        async for message in connection:
            json.loads(message)
            if watch.tick():
                break
    return watch.seconds


# --- ours -----------------------------------------------------------------------------------------


@contestant("ours-sync")
def ours_sync(url: str, count: int) -> float:
    """Client, sync handler: message.json()"""
    from datastream_ws import Client, Message

    watch, done = Stopwatch(count), threading.Event()
    client = Client(url)

    @client.on_message
    def handle(message: Message) -> None:
        message.json()
        if watch.tick():
            done.set()

    with client:
        check(client, done.wait(PATIENCE))
    return watch.seconds


@contestant("ours-async")
def ours_async(url: str, count: int) -> float:
    """AsyncClient, async handler: message.json()"""
    return asyncio.run(ours_async_loop(url, count))


async def ours_async_loop(url: str, count: int) -> float:
    from datastream_ws import AsyncClient, Message

    watch, done = Stopwatch(count), asyncio.Event()
    client = AsyncClient(url)

    @client.on_message
    async def handle(message: Message) -> None:
        message.json()
        if watch.tick():
            done.set()

    async with client:
        check(client, await finished(done))
    return watch.seconds


async def finished(done: asyncio.Event) -> bool:
    """Whether `done` was set in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await done.wait()
    except TimeoutError:
        return False


def check(client: datastream_ws.Client | datastream_ws.AsyncClient, in_time: bool) -> None:
    """Raise unless the run is one to be counted: all of it, over one connection, no failures."""
    stats = client.stats()
    if not in_time or stats.connections != 1 or stats.messages_failed:
        raise RuntimeError(f"not a clean run: {client.state}, {client.error!r}, {stats}")


# --- ceilings: what the blaster and the machine allow ---------------------------------------------


@contestant("drain")
def drain(url: str, count: int) -> float:
    """plain socket: bytes read and dropped"""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        with sock.makefile("rb", buffering=0) as reader:
            while reader.readline().strip():
                pass
            head = reader.read(10) or b""
        return drain_bytes(sock, frame_bytes(head) * count - len(head))


def frame_bytes(head: bytes) -> int:
    """Bytes of a whole frame, from its first ten. All frames of a blaster are of one size."""
    length = head[1]
    if length == 126:
        return 4 + int.from_bytes(head[2:4])
    return 10 + int.from_bytes(head[2:10]) if length == 127 else 2 + length


def drain_bytes(sock: socket.socket, left: int) -> float:
    buffer = bytearray(1024 * 1024)
    started = time.perf_counter()
    while left > 0:
        got = sock.recv_into(buffer)
        if not got:
            raise RuntimeError(f"the connection ended {left} bytes early")
        left -= got
    return time.perf_counter() - started


@contestant("picows-raw")
def picows_raw(url: str, count: int) -> float:
    """picows: frame callback, nothing decoded"""
    return asyncio.run(picows_loop(url, count))


async def picows_loop(url: str, count: int) -> float:
    from picows import WSFrame, WSListener, WSTransport, ws_connect

    watch = Stopwatch(count)

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if watch.tick():
                transport.disconnect()

    transport, _ = await ws_connect(Listener, url)
    await transport.wait_disconnected()
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.contestants")
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    words = parser.parse_args()
    print(CONTESTANTS[words.name](words.url, words.count))


if __name__ == "__main__":
    main()
