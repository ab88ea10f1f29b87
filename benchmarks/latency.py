"""Measure the time from the moment a message is due at the server until its handler runs.

The blaster writes that moment into each message, so the latency includes the time that a message
waits for a slow client.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.blaster import Blaster, Load
from benchmarks.contestants import PATIENCE
from benchmarks.fresh import fresh
from benchmarks.pairs import pairs, spread
from benchmarks.parts import Aim, Figures, Part, Scale, rows, times
from benchmarks.receive import ENDLESS, rate

if TYPE_CHECKING:
    from datastream_ws import Message

__all__ = ["PARTS", "percentile", "receive"]

SIZE = 139
SLOW = 1_000  # messages per second of a busy feed
SECONDS = 2.0  # of each run
WARM_UP = 0.1  # share of the first messages, which do not count

KEYS = ("pace", "p50", "p99")  # messages per second, and microseconds

# The contestant, its baseline, and the aim for the ratio of the medians.
PAIRS = [
    ("ours-async", "bare", Aim("latency p50, async handler / bare loop", 1.05, at_least=False)),
    ("ours-inline", "bare", Aim("latency p50, inline handler / bare loop", 1.15, at_least=False)),
    ("ours-sync", "bare", Aim("latency p50, sync handler / bare loop", 1.5, at_least=False)),
]
BURST, EACH = 500, 0.1  # messages at once, and seconds from one burst to the next
BURSTS = [
    (
        "ours-async",
        "bare",
        Aim("p50 within bursts, async handler / bare loop", 1.0, at_least=False),
    ),
    ("ours-sync", "bare", Aim("p50 within bursts, sync handler / bare loop", 1.0, at_least=False)),
]
# The aims at half of the maximal rate. At the bare loop's rate, its p99 is the baseline. At the
# contestant's own rate, its own p50 is.
SAME_RATE = [
    (
        name,
        Aim(
            f"p99 at half of the bare loop's maximal rate, {kind} handler / bare loop",
            1.0,
            at_least=False,
        ),
    )
    for name, kind in [("ours-sync", "sync"), ("ours-async", "async")]
]
OWN_RATE = [
    ("ours-sync", Aim("p99 / p50 at half its own maximal rate, sync handler", 5, at_least=False)),
    ("ours-async", Aim("p99 / p50 at half its own maximal rate, async handler", 5, at_least=False)),
    ("bare", Aim("for comparison: p99 / p50 of the bare loop", None, at_least=False)),
]


# --- in its own process ----------------------------------------------------------------------

Late = list[int]
"""The delay of each message in nanoseconds."""


def receive(name: str, url: str, count: int) -> dict[str, float]:
    """Return p50 and p99 of a contestant in microseconds, without the first messages."""
    late: Late = []
    note = partial(noted, late)
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: asyncio.run(in_a_loop(url, count, note)),
        "ours-sync": lambda: in_a_client(url, count, late),
        "ours-inline": lambda: in_a_client(url, count, late, inline=True),
        "ours-async": lambda: asyncio.run(in_an_async_client(url, count, late)),
    }
    ways[name]()
    late = sorted(late[int(count * WARM_UP) :])
    return {"p50": percentile(late, 0.50) / 1e3, "p99": percentile(late, 0.99) / 1e3}


def noted(late: Late, obj: Any) -> int:
    """Append the delay of a message, and return the number of messages."""
    late.append(time.monotonic_ns() - obj["sent"])
    return len(late)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def in_a_loop(url: str, count: int, note: Callable[[Any], int]) -> None:
    from websockets.asyncio.client import connect

    async with connect(url) as connection:
        async for message in connection:
            if note(json.loads(message)) == count:
                break


def in_a_client(url: str, count: int, late: Late, *, inline: bool = False) -> None:
    from datastream_ws import Client

    client, done = Client(url), threading.Event()

    @client.on_message(inline=inline)
    def handle(message: Message) -> None:
        if noted(late, message.json()) == count:
            done.set()

    with client:
        if not done.wait(PATIENCE):
            raise RuntimeError(f"{len(late)} of {count} messages: {client.stats()}")


async def in_an_async_client(url: str, count: int, late: Late) -> None:
    from datastream_ws import AsyncClient

    client, done = AsyncClient(url), asyncio.Event()

    @client.on_message
    async def handle(message: Message) -> None:
        if noted(late, message.json()) == count:
            done.set()

    async with client:
        await asyncio.wait_for(done.wait(), PATIENCE)


# --- the part -------------------------------------------------------------------------------------


def measure(scale: Scale) -> Figures:
    return measure_pairs(scale, PAIRS, partial(at_pace))


def measure_bursts(scale: Scale) -> Figures:
    return measure_pairs(scale, BURSTS, partial(at_pace, pace=BURST / EACH, burst=BURST))


def measure_pairs(
    scale: Scale,
    wanted: Sequence[tuple[str, str, Aim]],
    run: Callable[[str], dict[str, float]],
) -> Figures:
    rounds = scale.rounds(5)
    found, aims = [], []
    for name, baseline, aim in wanted:
        both = pairs(partial(run, name), partial(run, baseline), rounds)
        ratios = [own["p50"] / other["p50"] for own, other in both]
        found.append(
            {"name": name, "baseline": baseline, "ratio": spread(ratios).json(), **of(both)}
        )
        aims.append(aim.json(ratios))
    return {"aims": aims, "pairs": found}


def of(both: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Figures:
    """Return the medians of both contestants over the rounds."""
    own, other = zip(*both, strict=True)
    return {
        "own": {key: median(each[key] for each in own) for key in own[0]},
        "other": {key: median(each[key] for each in other) for key in other[0]},
    }


def at_pace(name: str, pace: float = SLOW, burst: int = 1) -> dict[str, float]:
    count = int(pace * SECONDS)
    with Blaster(Load(SIZE, count, rate=pace, burst=burst)) as blaster:
        found: dict[str, float] = fresh(
            "latency", "receive", name=name, url=blaster.url, count=count
        )
    return found


def measure_half(scale: Scale) -> Figures:
    rounds = scale.rounds(5)
    aims, found = [], []
    for name, aim in SAME_RATE:
        both = [at_same_rate(name) for _ in range(rounds)]
        ratios = [own["p99"] / other["p99"] for own, other in both]
        found.append({"name": name, "ratio": spread(ratios).json(), **of(both)})
        aims.append(aim.json(ratios))
    own_rate = []
    for name, aim in OWN_RATE:
        runs = [at_half(name) for _ in range(rounds)]
        aims.append(aim.json([run["p99"] / run["p50"] for run in runs]))
        own_rate.append({"name": name, **{key: median(run[key] for run in runs) for key in KEYS}})
    return {"aims": aims, "same": found, "half": own_rate}


def half_of(name: str) -> float:
    """Return half of the maximal rate of a contestant, in messages per second."""
    with Blaster(Load(SIZE, ENDLESS)) as blaster:
        return float(rate(name, blaster.url, 100_000) / 2)


def at_half(name: str) -> dict[str, float]:
    """Return the latency at half of the maximal rate of this contestant."""
    pace = half_of(name)
    return {"pace": pace, **at_pace(name, pace)}


def at_same_rate(name: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the latency of a contestant and of the bare loop at half of the bare loop's rate."""
    pace = half_of("bare")
    own, other = ({"pace": pace, **at_pace(each, pace)} for each in (name, "bare"))
    return own, other


def show(figures: Figures) -> list[str]:
    return [f"At {SLOW:,} messages a second.", "", *show_pairs(figures)]


def show_bursts(figures: Figures) -> list[str]:
    text = f"{BURST} messages at once, each {EACH * 1000:.0f} ms: how late those of a burst are."
    return [text, "", *show_pairs(figures)]


def show_pairs(figures: Figures) -> list[str]:
    body = [
        [
            f"`{each['name']}` / `{each['baseline']}`",
            times(each["ratio"]),
            *(f"{each['own'][key]:,.0f}" for key in ("p50", "p99")),
            *(f"{each['other'][key]:,.0f}" for key in ("p50", "p99")),
        ]
        for each in figures["pairs"]
    ]
    head = ["", "ratio of p50", "p50 µs", "p99 µs", "baseline p50 µs", "p99 µs"]
    return rows(head, body)


def show_half(figures: Figures) -> list[str]:
    same = [
        [
            f"`{each['name']}` / `bare`",
            times(each["ratio"]),
            f"{each['own']['pace']:,.0f}",
            *(f"{each['own'][key]:,.0f}" for key in ("p50", "p99")),
            *(f"{each['other'][key]:,.0f}" for key in ("p50", "p99")),
        ]
        for each in figures["same"]
    ]
    own = [
        [f"`{each['name']}`", *(f"{each[key]:,.0f}" for key in KEYS)] for each in figures["half"]
    ]
    head = ["", "ratio of p99", "messages/s", "p50 µs", "p99 µs", "baseline p50 µs", "p99 µs"]
    return [
        "At half of the bare loop's maximal rate:",
        "",
        *rows(head, same),
        "",
        "Each at half of its own maximal rate:",
        "",
        *rows(["", "messages/s", "p50 µs", "p99 µs"], own),
    ]


PARTS = [
    Part("latency", "Latency", measure, show),
    Part("bursts", "Bursts", measure_bursts, show_bursts),
    Part("half", "Latency at half the maximal rate", measure_half, show_half),
]
