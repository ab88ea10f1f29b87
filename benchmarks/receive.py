"""Measure how fast messages are received and handled, as ratios to the bare `websockets` loop.

::

    python -m benchmarks.receive [NAME …] [--rounds 7] [--count 200000] [--size 139]
    python -m benchmarks.receive ours-raw-async --baseline picows-websockets-raw
    python -m benchmarks.receive bare                       # the noise, from bare against itself
    python -m benchmarks.contestants                        # list the contestants

In each round, every contestant runs right before or right after the baseline, each in a fresh
process with the same blaster. Other load on the machine slows both runs of a pair. Compare the
medians of the ratios.

The exit code is 1 if a run fails, and never because a run is slow.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.blaster import ROOT, Blaster, Load
from benchmarks.content import KINDS
from benchmarks.contestants import named
from benchmarks.fresh import RunError, fresh_in
from benchmarks.pairs import pairs, rotated, spread

__all__ = ["BASELINE", "ENDLESS", "Score", "play", "rate"]

BASELINE = "bare"
DEFAULT = ["ours-sync", "ours-async"]
ENDLESS = 10**9  # messages, of which each contestant requests a part


@dataclass
class Score:
    """
    The pairs of a contestant.

    Attributes:
        own, baseline: Messages per second of its runs, and of those of the baseline.
        work: The CPU time per message, relative to the baseline.

    """

    own: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """The speed relative to the baseline, for each pair. 2.0 is twice as fast."""
        return [own / base for own, base in zip(self.own, self.baseline, strict=True)]

    def json(self) -> dict[str, Any]:
        """Return the spreads of the ratio and the CPU time, and the messages per second."""
        found: dict[str, Any] = {"ratio": spread(self.ratios).json()}
        found |= {"rate": median(self.own), "baseline_rate": median(self.baseline)}
        return found | ({"work": spread(self.work).json()} if self.work else {})


def rate(name: str, url: str, count: int) -> float:
    """Return the messages per second of a contestant, in its own process."""
    return measured(name, url, count)[0]


def measured(name: str, url: str, count: int, tree: Path = ROOT) -> tuple[float, float]:
    """
    Return the messages per second and the CPU seconds per message, in a new process.

    Args:
        name: The name of the contestant.
        url: The URL of the blaster.
        count: The number of messages of the bare loop.
        tree: The checkout whose package is measured.

    """
    share = named(name).share(count)
    words = {"name": name, "url": f"{url}?count={share}", "count": share}
    found = fresh_in(tree, "contestants", "receive", **words)
    return share / found["seconds"], found["worked"] / share


def play(
    names: Sequence[str],
    load: Load,
    rounds: int,
    baseline: str = BASELINE,
    *,
    tls: bool = False,
) -> dict[str, Score]:
    """
    Run each contestant in pairs with the baseline.

    Args:
        names: The contestants.
        load: The messages. Its count is that of the bare loop.
        rounds: The number of pairs of each contestant.
        baseline: The contestant of all pairs.
        tls: Whether to use TLS, with a new certificate.

    Raises:
        RunError: If a run fails.

    """
    scores = {name: Score() for name in names}
    with Blaster(replace(load, count=ENDLESS), tls=tls) as blaster:
        for number in range(rounds):
            for name in rotated(names, number):
                add_pair(scores[name], name, baseline, blaster.url, load.count, number)
            latest = "  ".join(f"{n} {score.ratios[-1]:.2f}" for n, score in scores.items())
            print(f"  {latest}", file=sys.stderr, flush=True)
    return scores


def add_pair(score: Score, name: str, baseline: str, url: str, count: int, number: int) -> None:
    [(own, other)] = pairs(
        lambda: measured(name, url, count),
        lambda: measured(baseline, url, count),
        1,
        start=number,
    )
    score.own.append(own[0])
    score.baseline.append(other[0])
    if own[1] and other[1]:
        score.work.append(own[1] / other[1])


def table(scores: dict[str, Score]) -> list[str]:
    """Return the results as lines of text."""
    head = f"{'contestant':<26} {'ratio':>7} {'min':>7} {'max':>7} {'work':>7} {'messages/s':>12}"
    lines = [head]
    for name, score in scores.items():
        ratio = spread(score.ratios)
        figures = f"{ratio.median:7.2f} {ratio.low:7.2f} {ratio.high:7.2f}"
        figures += f" {median(score.work):7.2f}" if score.work else "       –"
        lines.append(f"{name:<26} {figures} {median(score.own):12,.0f}   {named(name).about}")
    return lines


def heading(load: Load, rounds: int) -> str:
    kind = "binary" if load.binary else "text"
    packed = ", compressed" if load.compress else ""
    size = f"of {load.size} bytes" if load.kind is None else f"({load.kind})"
    return (
        f"{load.count:,} {kind} messages {size}{packed} a run, {rounds} rounds; "
        f"Python {platform.python_version()}, websockets {version('websockets')}"
    )


def parse() -> tuple[Load, argparse.Namespace]:
    """Return the load and the other arguments of the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.receive", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("names", nargs="*", default=DEFAULT, metavar="NAME")
    add("--baseline", default=BASELINE, metavar="NAME")
    add("--rounds", type=int, default=7)
    add("--count", type=int, default=200_000, help="Messages per run of `bare` (default: 200000)")
    add("--size", type=int, default=139, help="Payload bytes per message (default: 139)")
    add("--binary", action="store_true", help="Send binary frames")
    add("--compress", action="store_true", help="Compress with permessage-deflate")
    add("--kind", choices=KINDS, help="Send varied messages of this kind")
    add("--tls", action="store_true", help="Use TLS")
    words = parser.parse_args()
    if words.rounds < 1 or words.count < 2:
        parser.error("at least 1 round of 2 messages")
    try:
        for name in [*words.names, words.baseline]:
            named(name)
        load = Load(
            words.size, words.count, binary=words.binary, compress=words.compress, kind=words.kind
        )
    except (KeyError, ValueError) as error:
        parser.error(error.args[0])
    return load, words


def main() -> int:
    load, words = parse()
    print(heading(load, words.rounds), flush=True)
    try:
        scores = play(
            *(list(dict.fromkeys(words.names)), load, words.rounds, words.baseline), tls=words.tls
        )
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(table(scores)))
    print(f"ratio: messages per second, relative to {words.baseline}; median of the rounds")
    print("work: CPU time per message, relative to the same; less is better")
    return 0


if __name__ == "__main__":
    sys.exit(main())
