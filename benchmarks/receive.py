"""How fast messages are received and handled, as ratios to the bare `websockets` loop.

    python -m benchmarks.receive [--rounds 7] [--count 200000] [--size 139]

In each round every contestant is measured right beside a run of the bare loop, in turn before and
after it, each in a fresh process against the same blaster. A ratio is taken within such a pair, so
whatever else the machine is doing slows both; the median over the rounds is the figure that
counts. `--contestants bare` pairs the bare loop with itself and shows how far to trust the rest.

Exit code 1 if a run fails, never because one is slow.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median

from benchmarks.blaster import ROOT, Blaster, Load
from benchmarks.contestants import CONTESTANTS, PATIENCE

BASELINE = "bare"
DEFAULT = ["ours-sync", "ours-async"]


class RunError(Exception):
    """A contestant's process failed; the message is what it said last."""


@dataclass
class Score:
    """One contestant's pairs: seconds of its own runs and of the baseline's beside them."""

    seconds: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Speed in terms of the baseline's, pair by pair: 2.0 is twice as fast."""
        return [base / own for own, base in zip(self.seconds, self.baseline, strict=True)]


def measure(name: str, url: str, count: int) -> float:
    """Seconds one contestant takes for `count` messages, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.contestants", name, url, str(count)]
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE + 60
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"{name}: no result within {PATIENCE + 60:.0f} s") from None
    if done.returncode:
        raise RunError(f"{name}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return float(done.stdout.split()[-1])


def rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def play(names: list[str], url: str, count: int, rounds: int) -> Iterator[dict[str, Score]]:
    """The scores so far, after each round."""
    scores = {name: Score() for name in names}
    for number in range(rounds):
        for name in rotated(names, number):
            add_pair(scores[name], name, url, count, baseline_first=number % 2 == 0)
        yield scores


def add_pair(score: Score, name: str, url: str, count: int, *, baseline_first: bool) -> None:
    """Run a contestant and the baseline, one right after the other."""
    if baseline_first:
        score.baseline.append(measure(BASELINE, url, count))
    score.seconds.append(measure(name, url, count))
    if not baseline_first:
        score.baseline.append(measure(BASELINE, url, count))


def table(scores: dict[str, Score], count: int) -> list[str]:
    """The results as text, a line each."""
    lines = [f"{'contestant':<12} {'ratio':>7} {'min':>7} {'max':>7} {'messages/s':>12}"]
    baseline = [seconds for score in scores.values() for seconds in score.baseline]
    rows = [(BASELINE, [1.0], baseline)] if BASELINE not in scores else []
    rows += [(name, score.ratios, score.seconds) for name, score in scores.items()]
    for name, ratios, seconds in rows:
        figures = f"{median(ratios):7.2f} {min(ratios):7.2f} {max(ratios):7.2f}"
        about = summary(name)
        lines.append(f"{name:<12} {figures} {count / median(seconds):12,.0f}   {about}")
    return lines


def summary(name: str) -> str:
    return (CONTESTANTS[name].__doc__ or "").partition("\n")[0]


def heading(load: Load, rounds: int) -> str:
    kind = "binary" if load.binary else "text"
    packed = ", compressed" if load.compress else ""
    return (
        f"{load.count:,} {kind} messages of {load.size} bytes{packed} a run, {rounds} rounds; "
        f"Python {platform.python_version()}, websockets {version('websockets')}"
    )


def parse() -> tuple[Load, list[str], int]:
    """Load, contestants and rounds, from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.receive", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=200_000, help="messages per run")
    parser.add_argument("--size", type=int, default=139, help="payload bytes per message")
    parser.add_argument("--binary", action="store_true", help="binary frames")
    parser.add_argument("--compress", action="store_true", help="permessage-deflate if offered")
    known = ", ".join(CONTESTANTS)
    parser.add_argument("--contestants", nargs="+", default=DEFAULT, metavar="NAME", help=known)
    words = vars(parser.parse_args())
    names, rounds = list(dict.fromkeys(words.pop("contestants"))), words.pop("rounds")
    if unknown := [name for name in names if name not in CONTESTANTS]:
        parser.error(f"no contestant {unknown[0]!r}; there are {known}")
    if rounds < 1 or words["count"] < 2:
        parser.error("at least 1 round of 2 messages")
    try:
        return Load(**words), names, rounds
    except ValueError as error:
        parser.error(str(error))


def main() -> int:
    load, names, rounds = parse()
    print(heading(load, rounds), flush=True)
    scores: dict[str, Score] = {}
    try:
        with Blaster(load) as blaster:
            for scores in play(names, blaster.url, load.count, rounds):
                latest = "  ".join(f"{n} {score.ratios[-1]:.2f}" for n, score in scores.items())
                print(f"  {latest}", file=sys.stderr, flush=True)
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(table(scores, load.count)))
    print("ratio: median of the rounds, each against a bare run right beside it; higher is faster")
    return 0


if __name__ == "__main__":
    sys.exit(main())
