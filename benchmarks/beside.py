"""Compare this tree with another checkout of it, for each way to receive, in pairs of runs.

::

    make bench ARGS="--beside ../before"                # every row, nine pairs of each
    python -m benchmarks.beside ../before routed sync   # some rows
    python -m benchmarks.beside ../before --pairs 15

The benchmarks of this tree measure both, in fresh processes, one right after the other. Each comes
first in every other pair. The other tree needs no installation. If it cannot run a row, the table
shows its error.

The exit code is 1 if a run of this tree fails, and never because a run is slow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.blaster import ROOT, Blaster, Load
from benchmarks.contestants import named
from benchmarks.fresh import RunError, fresh_in
from benchmarks.pairs import pairs, spread
from benchmarks.parts import rows, times
from benchmarks.receive import ENDLESS, measured

__all__ = ["ROWS", "Row", "compare"]

PAIRS = 9


@dataclass(frozen=True)
class Row:
    """A contestant and its load."""

    contestant: str
    load: Load

    def run(self, url: str, tree: Path) -> tuple[float, float]:
        """Return the messages per second, and the CPU seconds per message."""
        return measured(self.contestant, url, self.load.count, tree)


TRADES = Load(count=120_000, kind="trade")
ROWS = {
    "sync": Row("ours-sync", TRADES),
    "async": Row("ours-async", TRADES),
    "loop": Row("ours-loop", TRADES),
    "routed": Row("ours-routed", TRADES),
    "routed-async": Row("ours-routed-async", TRADES),
    "routes": Row("ours-routes", replace(TRADES, kind="routes")),
    "inline": Row("ours-inline", TRADES),
    "batch": Row("ours-batch", TRADES),
    "iterate": Row("ours-iterate", TRADES),
    "raw": Row("ours-raw-sync", TRADES),
    "raw-async": Row("ours-raw-async", TRADES),
    "bytes": Row("ours-raw-sync", replace(TRADES, binary=True)),
    "compressed": Row("ours-sync", replace(TRADES, compress=True)),
    "book-8k": Row("ours-sync", Load(count=10_000, kind="book-8k")),
    "features": Row("ours-full-sync", Load(count=60_000)),
    "features-async": Row("ours-full-async", Load(count=60_000)),
}


def home() -> str:
    """Return the path of the package that this process imports."""
    import datastream_ws

    return datastream_ws.__file__


def check_tree(tree: Path) -> None:
    """
    Verify that processes for this tree import its package.

    Raises:
        RunError: If the tree has no package, or they import another one.

    """
    found = Path(fresh_in(tree, "beside", "home"))
    if not found.is_relative_to(tree):
        raise RunError(f"{tree}: has no package; {found} would be measured")


def compare(row: Row, tree: Path, rounds: int) -> list[str]:
    """
    Return the cells of a row: the ratios of speed and CPU time, and messages per second.

    Raises:
        RunError: If this tree can't run the row.

    """
    with Blaster(replace(row.load, count=ENDLESS)) as blaster:
        row.run(blaster.url, ROOT)  # so that a failure below is one of the other tree
        try:
            row.run(blaster.url, tree)
        except RunError as error:
            return [f"cannot run there: {str(error).splitlines()[-1]}", "–", "–"]
        found = pairs(
            lambda: row.run(blaster.url, ROOT), lambda: row.run(blaster.url, tree), rounds
        )
    speeds = spread([own[0] / other[0] for own, other in found])
    work = spread([own[1] / other[1] for own, other in found])
    return [times(speeds.json()), times(work.json()), f"{found[-1][0][0]:,.0f}"]


def show(names: Sequence[str], tree: Path, rounds: int) -> int:
    """Measure the rows, print the table, and return the exit code."""
    head = ["", "speed / the other's", "work / the other's", "messages/s", "what it is"]
    body = []
    try:
        check_tree(tree)
        for name in names:
            cells = compare(ROWS[name], tree, rounds)
            print(f"  {name}: {cells[0]}, work {cells[1]}", file=sys.stderr, flush=True)
            body.append([name, *cells, named(ROWS[name].contestant).about])
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(rows(head, body)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.beside", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("tree", type=Path, metavar="PATH")
    parser.add_argument("names", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N")
    words = parser.parse_args()
    unknown = [name for name in words.names if name not in ROWS]
    if unknown or words.pairs < 1:
        parser.error(f"no row {unknown[0]!r}" if unknown else "at least 1 pair")
    return show(words.names or list(ROWS), words.tree.resolve(), words.pairs)


if __name__ == "__main__":
    sys.exit(main())
