"""Measure the memory and CPU time of a thousand idle clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.blaster import Blaster, Load
from benchmarks.contestants import PATIENCE
from benchmarks.fresh import fresh
from benchmarks.pairs import pairs, spread
from benchmarks.parts import Aim, Figures, Part, Scale, rows, times

if TYPE_CHECKING:
    from datastream_ws import Client

__all__ = ["PARTS", "bare", "cpu_share", "ours", "resident"]

CLIENTS = 1000
GREETINGS = 5  # messages to each client first, so that all lazy objects exist
WINDOW = 54.0  # seconds of a keepalive interval, in which each client sends one ping

MEMORY = Aim("KiB per idle client / bare connection, default compression", 1.2, at_least=False)
PLAIN = Aim("the same, nothing compressed", 1.8, at_least=False)
CPU = Aim(f"CPU of {CLIENTS:,} idle clients, share of a core", 1.0, at_least=False, unit=" %")


# --- in its own process ----------------------------------------------------------------------


def resident() -> float:
    """Return the resident memory of this process in KiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


def cpu_share(seconds: float) -> float:
    """Return the CPU share of this process over some seconds, in percent of a core."""
    began, used = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    return 100 * (time.process_time() - used) / (time.perf_counter() - began)


def facts(before: float, clients: int, window: float) -> Figures:
    """Return the costs of the clients since the memory was *before* KiB."""
    kib = (resident() - before) / clients
    threads = threading.active_count()
    return {"kib": kib, "threads": threads, "cpu": cpu_share(window) if window else 0.0}


def ours(url: str, clients: int, window: float, **options: Any) -> Figures:
    """Return the costs of clients with a handler each."""
    with running(url, 1, **options):  # so that objects of the process exist
        before = resident()
        with running(url, clients, **options):
            return facts(before, clients, window)


@contextlib.contextmanager
def running(url: str, clients: int, **options: Any) -> Iterator[None]:
    """Run clients that have received their first messages."""
    from datastream_ws import Client

    with contextlib.ExitStack() as stack:
        every = [Client(url, name=f"c{number}", **options) for number in range(clients)]
        for client in every:
            client.on_message(lambda message: message.json())
            stack.enter_context(client)
        until_greeted(every)
        yield


def until_greeted(every: list[Client]) -> None:
    deadline = time.monotonic() + PATIENCE
    while late := [each for each in every if each.stats().messages_handled < GREETINGS]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(late)} not greeted; {late[0].error!r}, {late[0].stats()}")
        time.sleep(0.05)


def bare(url: str, clients: int, window: float, **options: Any) -> Figures:
    """Return the costs of bare connections with a task each."""
    return asyncio.run(bare_loop(url, clients, window, options))


async def bare_loop(url: str, clients: int, window: float, options: dict[str, Any]) -> Figures:
    async with reading(url, 1, options):
        before = resident()
        async with reading(url, clients, options):
            # In a thread, because it sleeps.
            return await asyncio.to_thread(facts, before, clients, window)


@contextlib.asynccontextmanager
async def reading(url: str, clients: int, options: dict[str, Any]) -> AsyncIterator[None]:
    """Run bare connections that have received their first messages, with a task each."""
    every = [Greeted(url, options) for _ in range(clients)]
    tasks = [asyncio.create_task(each.read()) for each in every]
    await asyncio.wait_for(asyncio.gather(*(each.done.wait() for each in every)), PATIENCE)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class Greeted:
    """A bare connection that reads until it is canceled."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = options
        self.done = asyncio.Event()

    async def read(self) -> None:
        from websockets.asyncio.client import connect

        greetings = 0
        async with connect(self._url, **self._options) as connection:
            async for message in connection:
                json.loads(message)
                greetings += 1
                if greetings == GREETINGS:
                    self.done.set()


# --- the part -------------------------------------------------------------------------------------

KIB = ("kib", "bare_kib")


def greeter(*, compress: bool = True) -> Blaster:
    return Blaster(Load(count=GREETINGS, compress=compress))


def measure_memory(scale: Scale) -> Figures:
    clients, rounds = scale.count(CLIENTS), scale.rounds(5)
    packed, plain = (memory(clients, rounds, compress=compress) for compress in (True, False))
    aims = [MEMORY.json(packed.pop("ratios")), PLAIN.json(plain.pop("ratios"))]
    return {"aims": aims, "clients": clients, **packed, "plain": plain}


def memory(clients: int, rounds: int, *, compress: bool) -> Figures:
    with greeter(compress=compress) as blaster:
        compression = "deflate" if compress else None
        words = {"url": blaster.url, "clients": clients, "window": 0, "compression": compression}
        ours, bare = partial(kib, "ours", **words), partial(kib, "bare", **words)
        both = pairs(ours, bare, rounds)
    own, other = (median(each) for each in zip(*both, strict=True))
    ratios = [own / other for own, other in both]
    return {"ratio": spread(ratios).json(), "ratios": ratios, "kib": own, "bare_kib": other}


def kib(function: str, **words: Any) -> float:
    return float(fresh("idle", function, **words)["kib"])


def show_memory(figures: Figures) -> list[str]:
    kinds = {"compression agreed on": figures, "nothing compressed": figures.get("plain")}
    body = [
        [kind, times(found["ratio"]), *(f"{found[key]:,.0f}" for key in KIB)]
        for kind, found in kinds.items()
        if found is not None
    ]
    text = f"{figures['clients']:,} clients in one process, {GREETINGS} messages received by each."
    return [text, "", *rows(["", "ratio to bare connections", "KiB each", "bare KiB each"], body)]


def measure_cpu(scale: Scale) -> Figures:
    clients, window = scale.count(CLIENTS), 5.0 if scale.quick else WINDOW
    with greeter() as blaster:
        words = {"url": blaster.url, "clients": clients, "window": window}
        found = {kind: fresh("idle", kind, **words) for kind in ("ours", "bare")}
    aims = [CPU.json([found["ours"]["cpu"]])]
    return {"aims": aims, "clients": clients, "window": window, **found}


def show_cpu(figures: Figures) -> list[str]:
    names = {"ours": "datastream-ws", "bare": "bare connections"}
    body = [
        [name, f"{figures[each]['cpu']:.2f} %", f"{figures[each]['threads']:,}"]
        for each, name in names.items()
    ]
    text = (
        f"{figures['clients']:,} idle clients for {figures['window']:g} s. datastream-ws "
        "sends a ping every 54 s, and a bare connection every 20 s."
    )
    return [text, "", *rows(["", "share of a core", "threads"], body)]


PARTS = [
    Part("memory", "Memory of idle clients", measure_memory, show_memory),
    Part("cpu", "CPU share of idle clients", measure_cpu, show_cpu),
]
