"""Measure how fast messages are sent, until the server reports that it has them all."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.blaster import Blaster, Load
from benchmarks.contestants import PATIENCE
from benchmarks.fresh import fresh
from benchmarks.pairs import pairs, spread
from benchmarks.parts import Aim, Figures, Part, Scale, rows, times

if TYPE_CHECKING:
    from datastream_ws import Message

__all__ = ["PARTS", "bare", "threaded"]

COUNT = 64_000
THREADS = 16
OBJECT = {"type": "order", "key": "k001", "value": 123.45, "pad": "x" * 80}
TEXT = json.dumps(OBJECT)

AIM = Aim(f"{THREADS} threads sending / bare loop sending from one", 1.5)

# The kind of message, the number of threads, and the aim.
WAYS: list[tuple[str, int, Aim | None]] = [
    ("text", THREADS, AIM),
    ("text", 1, None),
    ("object", THREADS, None),
    ("object", 1, None),
]


# --- in its own process ----------------------------------------------------------------------


def bare(url: str, count: int, what: str) -> float:
    """Return the messages per second of sequential ``await websocket.send()``."""
    return asyncio.run(bare_loop(url, count, what))


async def bare_loop(url: str, count: int, what: str) -> float:
    from websockets.asyncio.client import connect

    async with connect(url) as connection:
        began = time.perf_counter()
        if what == "text":
            for _ in range(count):
                await connection.send(TEXT)
        else:
            for _ in range(count):
                await connection.send(json.dumps(OBJECT))
        await connection.recv()
        return count / (time.perf_counter() - began)


def threaded(url: str, count: int, what: str, threads: int) -> float:
    """Return the messages per second of ``client.send()`` in several threads."""
    from datastream_ws import Client

    client, done = Client(url), threading.Event()

    @client.on_message
    def handle(message: Message) -> None:
        done.set()

    obj: Any = TEXT if what == "text" else OBJECT

    def send() -> None:
        for _ in range(count // threads):
            client.send(obj)

    with client:
        client.wait_ready(PATIENCE)
        senders = [threading.Thread(target=send) for _ in range(threads)]
        began = time.perf_counter()
        for each in senders:
            each.start()
        if not done.wait(PATIENCE):
            raise RuntimeError(f"not all received: {client.stats()}")
        return count / (time.perf_counter() - began)


# --- the part -------------------------------------------------------------------------------------


def measure(scale: Scale) -> Figures:
    count = scale.count(COUNT)
    found, aims = [], []
    with Blaster(Load(count=0, sink=count)) as blaster:
        for what, threads, aim in scale.pick(WAYS, WAYS[:1]):
            words = {"url": blaster.url, "count": count, "what": what}
            own = partial(fresh, "sending", "threaded", threads=threads, **words)
            both = pairs(own, partial(fresh, "sending", "bare", **words), scale.rounds(7))
            ratios = [mine / other for mine, other in both]
            rates = {
                "rate": median(x for x, _ in both),
                "baseline_rate": median(y for _, y in both),
            }
            name = f"{what}, {threads} thread{'s' if threads > 1 else ''}"
            found.append({"name": name, "ratio": spread(ratios).json(), **rates})
            if aim is not None:
                aims.append(aim.json(ratios))
    return {"aims": aims, "ways": found}


def show(figures: Figures) -> list[str]:
    body = [
        [
            each["name"],
            times(each["ratio"]),
            f"{each['rate']:,.0f}",
            f"{each['baseline_rate']:,.0f}",
        ]
        for each in figures["ways"]
    ]
    text = (
        f"`client.send()` of {len(TEXT)} bytes, as text or as a dict that is encoded, until the "
        "server has all messages. The bare loop awaits each `send()`."
    )
    return [text, "", *rows(["", "ratio to one bare loop", "messages/s", "bare messages/s"], body)]


PARTS = [Part("sending", "Sending", measure, show)]
