"""
Compare datastream-ws with other clients, and write RESULTS.md.

::

    make bench                                  # everything, in about 45 minutes
    make bench ARGS="--quick"                   # a first look in 2 minutes, in build/bench
    make bench ARGS="--only aims latency"       # some parts; the other parts keep their results
    make bench ARGS="--rounds 3"                # at most three pairs of runs
    make bench ARGS="--report"                  # only write RESULTS.md from the stored results
    make bench ARGS="--beside ../before"        # compare with another checkout of this tree

Run it on a machine without other load. The exit code is 1 if a run fails, and never because a run
is slow.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import beside, results
from benchmarks.blaster import ROOT
from benchmarks.feeds import PYTHON
from benchmarks.fresh import RunError
from benchmarks.parts import Part, Scale
from benchmarks.report import PARTS, aims_table, write

ALL = [*PARTS, PYTHON]

QUICK = ["aims", "peers", "variants", "feed-trade", "latency", "sending", "memory", "storm"]


def measure(part: Part, scale: Scale, folder: Path) -> None:
    """Measure one part, store its results, and print them."""
    print(f"{part.name} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    figures = part.measure(scale)
    took = time.monotonic() - began
    results.save(folder / "results", part.name, figures, quick=scale.quick, seconds=took)
    print("\n".join([f"\n## {part.title or part.name} ({took:.0f} s)\n", *shown(part, figures)]))


def shown(part: Part, figures: dict[str, object]) -> list[str]:
    aims = aims_table({part.name: {"figures": figures}}) if figures.get("aims") else []
    return [*aims, *([""] if aims else []), *part.show(figures)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    names = [part.name for part in ALL]
    add("--quick", action="store_true", help="Measure fewer rounds, messages and parts")
    add(
        "--only",
        nargs="+",
        choices=names,
        metavar="PART",
        help=f"Measure only these parts ({', '.join(names)})",
    )
    add("--rounds", type=int, metavar="N", help="Run at most N rounds of each part")
    add("--report", action="store_true", help="Write RESULTS.md without measuring")
    add("--beside", type=Path, metavar="PATH", help="Compare receiving with the checkout in PATH")
    add(
        "--out",
        type=Path,
        metavar="PATH",
        help="Write RESULTS.md, its pictures and results/ to PATH",
    )
    words = parser.parse_args(arguments)
    if words.rounds is not None and words.rounds < 1:
        parser.error("at least 1 round")
    words.only = words.only or (QUICK if words.quick else names)
    words.out = words.out or (ROOT / "build/bench" if words.quick else ROOT / "benchmarks")
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    words = parse(arguments)
    if words.beside is not None:
        return beside.show(list(beside.ROWS), words.beside.resolve(), words.rounds or beside.PAIRS)
    failed = False
    for part in [] if words.report else ALL:
        if part.name in words.only:
            try:
                measure(part, Scale(words.quick, words.rounds), words.out)
            except RunError as error:
                failed = True
                print(f"{part.name}: {error}", file=sys.stderr)
    print(f"\nwritten: {write(words.out)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
