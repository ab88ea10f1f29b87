"""Measure the cost by the number of streams and handlers, the inbox size and conflation."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.blaster import Blaster, Load
from benchmarks.contestants import PATIENCE, Stopwatch, check
from benchmarks.fresh import fresh
from benchmarks.idle import cpu_share, resident
from benchmarks.pairs import rotated
from benchmarks.parts import Figures, Part, Scale, rows

if TYPE_CHECKING:
    from datastream_ws import Client, Message

__all__ = ["PARTS"]

SIZE = 139
COUNT = 100_000  # messages of a run, over all streams
STREAMS = [1, 10, 100, 1000]
HANDLERS = [1, 4, 16, 64]
DEPTHS = [1, 10, 100, 1000, 10_000, None]
RATIO = 100  # messages that arrive while a handler handles one
KEY = slice(22, 26)  # the position of "k017" in a message of the blaster
IDLE_SECONDS = 5.0


# --- streams, in their own process -----------------------------------------------------------


class Race:
    """Several streams whose time runs from the first message of any to the last of all."""

    def __init__(self, streams: int, count: int, finish: Callable[[], None]) -> None:
        self.watches = [Stopwatch(count) for _ in range(streams)]
        self._left = streams
        self._lock = threading.Lock()
        self._finish = finish

    def arrived(self) -> None:
        """Note that a stream has received its last message."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish()

    @property
    def seconds(self) -> float:
        return max(each.stopped for each in self.watches) - min(e.started for e in self.watches)


def ours_streams(url: str, streams: int, count: int) -> Figures:
    """Return the costs of several clients that receive *count* messages each."""
    from datastream_ws import Client

    done = threading.Event()
    race = Race(streams, count, done.set)
    before = resident()
    clients = [Client(url, name=f"s{n}") for n in range(streams)]
    for client, watch in zip(clients, race.watches, strict=True):
        count_down(client, watch, race.arrived)
        client.start()
    if not done.wait(PATIENCE):
        raise RuntimeError(f"not finished: {clients[0].stats()}")
    busy = threading.active_count()
    costs = after(race, before, busy)
    for client in clients:
        check(client, True)
        client.close()
    return costs


def count_down(client: Client, watch: Stopwatch, finish: Callable[[], None]) -> None:
    """Register a handler that decodes and counts messages."""

    @client.on_message
    def handle(message: Message) -> None:
        message.json()
        if watch.tick():
            finish()


def bare_streams(url: str, streams: int, count: int) -> Figures:
    """Return the costs of bare connections, with a task for each."""
    return asyncio.run(bare_loop(url, streams, count))


async def bare_loop(url: str, streams: int, count: int) -> Figures:
    done = asyncio.Event()
    race = Race(streams, count, done.set)
    before = resident()
    tasks = [asyncio.create_task(bare_stream(url, watch, race)) for watch in race.watches]
    await asyncio.wait_for(done.wait(), PATIENCE)
    costs = await asyncio.to_thread(after, race, before, threading.active_count())
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return costs


async def bare_stream(url: str, watch: Stopwatch, race: Race) -> None:
    from websockets.asyncio.client import connect

    async with connect(url) as connection:
        async for message in connection:
            json.loads(message)
            if watch.tick():
                race.arrived()


def after(race: Race, before: float, threads: int) -> Figures:
    """Return the costs after a race, while its connections are still open."""
    return {
        "seconds": race.seconds,
        "mib": (resident() - before) / 1024,
        "threads": threads,
        "cpu": cpu_share(IDLE_SECONDS),
    }


# --- one client, in its own process ----------------------------------------------------------


def one_client(url: str, count: int, prepare: Callable[[Client], None], **options: Any) -> float:
    """Return the messages per second of a client after *prepare*, with a handler that counts."""
    from datastream_ws import Client

    watch, done = Stopwatch(count), threading.Event()
    client = Client(url, **options)
    prepare(client)
    count_down(client, watch, done.set)
    with client:
        check(client, done.wait(PATIENCE))
    return count / watch.seconds


def many_handlers(url: str, count: int, handlers: int, routed: bool) -> float:
    """Measure several handlers, which get every message, or of which only one gets any."""

    def prepare(client: Client) -> None:
        for number in range(handlers - 1):

            def other(message: Message) -> None:
                message.json()

            client.on_message(f"other{number}")(other) if routed else client.on_message(other)

    return one_client(url, count, prepare)


def deep_inbox(url: str, count: int, depth: int | None) -> float:
    """Measure an inbox of this size."""
    return one_client(url, count, lambda client: None, inbox_size=depth)


def conflated(url: str, count: int, ratio: int) -> Figures:
    """Measure conflation with a handler that takes as long as *ratio* messages to arrive."""
    from datastream_ws import Client

    watch, done, turn = Stopwatch(count), threading.Event(), threading.Semaphore(0)

    def key(message: Message) -> str | bytes:
        if watch.tick():
            done.set()
        if watch.seen % ratio == 0:
            turn.release()
        return message.data[KEY]

    client = Client(url, conflate=key, inbox_size=None)

    @client.on_message
    def handle(message: Message) -> None:
        message.json()
        if not done.is_set():
            turn.acquire(timeout=1.0)

    with client:
        check(client, done.wait(PATIENCE))
        handled = client.stats().messages_handled
    return {"rate": count / watch.seconds, "per_handled": count / max(1, handled)}


# --- the parts ------------------------------------------------------------------------------------


def measure_streams(scale: Scale) -> Figures:
    found = []
    for streams in scale.pick(STREAMS, STREAMS[:2]):
        count = max(2, scale.count(COUNT) // streams)
        row: Figures = {"streams": streams}
        row["bare"] = race(streams, count, "bare_streams")
        row["ours"] = race(streams, count, "ours_streams")
        found.append(row)
    return {"streams": found}


def race(streams: int, count: int, function: str) -> Figures:
    """Run one race with a blaster that starts all streams at the same moment."""
    with Blaster(Load(SIZE, count, together=streams)) as blaster:
        costs: Figures = fresh("growth", function, url=blaster.url, streams=streams, count=count)
    return {**costs, "rate": streams * count / costs["seconds"]}


def show_streams(figures: Figures) -> list[str]:
    kinds = {"bare": "`bare`", "ours": "datastream-ws"}
    body = [
        [
            f"{row['streams']:,} × {kinds[kind]}",
            f"{row[kind]['rate']:,.0f}",
            f"{row[kind]['rate'] / row['bare']['rate']:.2f}",
            f"{row[kind]['mib']:,.1f}",
            f"{row[kind]['threads']:,}",
            f"{row[kind]['cpu']:.2f} %",
        ]
        for row in figures["streams"]
        for kind in kinds
    ]
    head = ["", "messages/s in sum", "ratio to bare", "MiB", "threads", "of a core, idle"]
    return rows(head, body)


def measure_client(scale: Scale) -> Figures:
    """Measure handlers, inbox sizes and conflation in turn, and return medians."""
    count, rounds = scale.count(COUNT), scale.rounds(5)
    ways: dict[str, tuple[str, Figures]] = {}
    for number in scale.pick(HANDLERS, HANDLERS[::3]):
        ways[f"handlers {number}"] = ("many_handlers", {"handlers": number, "routed": False})
        ways[f"routes {number}"] = ("many_handlers", {"handlers": number, "routed": True})
    for depth in scale.pick(DEPTHS, DEPTHS[::3]):
        ways[f"inbox {depth}"] = ("deep_inbox", {"depth": depth})
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with Blaster(Load(SIZE, count)) as blaster:
        words = {"url": blaster.url, "count": count}
        for number in range(rounds):
            for name in rotated(list(ways), number):
                function, extra = ways[name]
                rates[name].append(fresh("growth", function, **words, **extra))
        merged = [fresh("growth", "conflated", ratio=RATIO, **words) for _ in range(rounds)]
    return {
        "rates": {name: median(values) for name, values in rates.items()},
        "conflated": {key: median(each[key] for each in merged) for key in merged[0]},
    }


def show_client(figures: Figures) -> list[str]:
    rates, merged = figures["rates"], figures["conflated"]
    first = rates["handlers 1"]
    body = [
        [words_for(name), f"{rate:,.0f}", f"{rate / first:.2f}"] for name, rate in rates.items()
    ]
    label = f"conflation, one message handled of {merged['per_handled']:.0f} received"
    body.append([label, f"{merged['rate']:,.0f}", f"{merged['rate'] / first:.2f}"])
    return rows(["", "messages/s", "of one handler"], body)


def words_for(name: str) -> str:
    what, number = name.split()
    if what == "handlers":
        return f"{number} handlers, each takes every message"
    if what == "routes":
        return f"{number} handlers, one takes them, the others' routes never come"
    return f"`inbox_size={number}`"


PARTS = [
    Part("streams", "1 to 1,000 streams in a process", measure_streams, show_streams),
    Part("client", "Handlers, inbox, conflation", measure_client, show_client),
]
