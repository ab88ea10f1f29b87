"""
Simulate the reconnects that a server gets after an outage, by the backoff of its clients.

::

    python -m benchmarks.storm                              # 1,000 clients, an outage of 30 s
    python -m benchmarks.storm --clients 1000000 --outage 300 --rate 20000
    python -m benchmarks.storm --curves ours --seed 7

All clients lose their connection at the same moment. After the outage, the server accepts *rate*
connections per second and refuses the others. The peaks are attempts in 100 ms, at any time and
after the outage. The simulation uses the backoff of datastream-ws, without a network or a clock.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.parts import Figures, Part, Scale, rows
from datastream_ws.lifecycle.retry import Backoff

__all__ = ["CURVES", "PARTS", "Result", "storm"]

FLEETS = (1_000, 10_000, 100_000, 1_000_000)  # clients
OUTAGE = 30.0  # seconds
SLICE = 0.1  # seconds, for the peaks and the rate

Delay = Callable[[int], float]


def ours(luck: random.Random) -> Delay:
    """Return the default backoff of datastream-ws."""
    return Backoff(uniform=luck.uniform).delay


def seed(luck: random.Random) -> Delay:
    """Return that of the Go client: 0 first, then 1, 2, 4 … 30 s, plus up to 1 s."""
    return lambda n: 0.0 if n == 1 else min(30.0, 2.0 ** min(n - 2, 64)) + luck.random()


def full_jitter(luck: random.Random) -> Delay:
    """Return a random delay between 0 and 1, 2, 4 … 30 s."""
    return lambda n: luck.uniform(0.0, min(30.0, 2.0 ** min(n - 1, 64)))


CURVES: dict[str, Callable[[random.Random], Delay]] = {
    "ours": ours,
    "seed": seed,
    "full-jitter": full_jitter,
}


@dataclass(frozen=True)
class Result:
    """
    The result of a simulation.

    Attributes:
        peak: The most attempts within 100 ms.
        peak_after: The most attempts within 100 ms after the outage.
        half: Seconds after the outage until half of the clients were connected.
        most: Seconds after the outage until 99 % were connected.
        attempts: Attempts per client.

    """

    peak: int
    peak_after: int
    half: float
    most: float
    attempts: float


def storm(curve: str, clients: int, outage: float, rate: float, luck: random.Random) -> Result:
    """Simulate *clients* that reconnect to a server that accepts *rate* connections per second."""
    delay = CURVES[curve](luck)
    slots: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    for _ in range(clients):
        at = delay(1)
        slots[int(at / SLICE)].append((at, 1))
    attempts: Counter[int] = Counter()
    back: list[float] = []
    slot = 0
    while slots:
        due = slots.pop(slot, [])
        heapq.heapify(due)  # small enough for the cache, unlike one heap of a million
        left = _share(slot, rate)
        while due:
            at, n = due[0]
            attempts[slot] += 1
            if at >= outage and left:
                left -= 1
                back.append(at - outage)
                heapq.heappop(due)
                continue
            again = at + delay(n + 1)
            if int(again / SLICE) == slot:
                heapq.heapreplace(due, (again, n + 1))
            else:
                heapq.heappop(due)
                slots[int(again / SLICE)].append((again, n + 1))
        slot += 1
    return _result(attempts, back, outage, clients)


def _share(slot: int, rate: float) -> int:
    """Return the connections that are accepted in a slice, a whole number around the average."""
    return int((slot + 1) * rate * SLICE) - int(slot * rate * SLICE)


def _result(attempts: Counter[int], back: list[float], outage: float, clients: int) -> Result:
    after = [number for slot, number in attempts.items() if slot * SLICE >= outage]
    return Result(
        peak=max(attempts.values()),
        peak_after=max(after),
        half=back[(clients - 1) // 2],
        most=back[(99 * clients - 1) // 100],
        attempts=sum(attempts.values()) / clients,
    )


def measure(scale: Scale) -> Figures:
    found = []
    for clients in scale.pick(FLEETS, FLEETS[:2]):
        for curve in CURVES:
            result = storm(curve, clients, OUTAGE, clients / 10, random.Random(1))
            found.append({"clients": clients, "curve": curve, **asdict(result)})
    return {"storms": found}


NAMES = {"ours": "datastream-ws"}


def show(figures: Figures) -> list[str]:
    body = [
        [
            f"{each['clients']:,} × {NAMES.get(each['curve'], each['curve'])}",
            f"{each['peak']:,}",
            f"{each['peak_after']:,}",
            f"{each['half']:.1f}",
            f"{each['most']:.1f}",
            f"{each['attempts']:.1f}",
        ]
        for each in figures["storms"]
    ]
    head = ["", "most attempts in 100 ms", "once back", "50 % back, s", "99 % back, s", "attempts"]
    text = (
        f"A simulation. All clients lose their connection at the same moment. The server is "
        f"unavailable for {OUTAGE:g} s, and then accepts a tenth of them per second. `seed` is the "
        "backoff of the Go client."
    )
    return [text, "", *rows([*head[:-1], "attempts each"], body)]


PARTS = [Part("storm", "Reconnect storms", measure, show)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--clients", type=int, default=1000)
    add("--outage", type=float, default=30.0, help="Seconds of the outage (default: 30)")
    add("--rate", type=float, default=100.0, help="Connections accepted per second (default: 100)")
    add("--seed", type=int, default=1, help="Seed of the random numbers (default: 1)")
    add("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    given = parser.parse_args(arguments)
    print(
        f"{given.clients:,} clients, away for {given.outage:g} s, {given.rate:g} accepted a second"
    )
    print("              attempts in 100 ms       seconds until back    attempts")
    print("                peak  once back         50 %         99 %  per client")
    for curve in given.curves:
        found = storm(curve, given.clients, given.outage, given.rate, random.Random(given.seed))
        print(
            f"{curve:12}{found.peak:8,}{found.peak_after:11,}{found.half:13.1f}{found.most:13.1f}"
            f"{found.attempts:12.1f}"
        )


if __name__ == "__main__":
    main()
