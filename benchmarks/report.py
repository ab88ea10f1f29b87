"""Write RESULTS.md and its pictures from the measurements in ``results/``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import admin, feeds, growth, idle, latency, results, sending, storm, throughput
from benchmarks.parts import Part, rows, times
from benchmarks.picture import Bar, bars, curves

__all__ = ["PARTS", "PICTURE", "aims_table", "document", "picture", "write"]

PARTS: list[Part] = [
    *throughput.PARTS,
    *feeds.PARTS,
    *latency.PARTS,
    *sending.PARTS,
    *idle.PARTS,
    *growth.PARTS,
    *storm.PARTS,
    *admin.PARTS,
]

PICTURE = "throughput.svg"
SIZES = "sizes.svg"
PICTURED = {
    "peers": throughput.PEERS,
    "variants": [
        "ours-sync",
        "ours-async",
        "ours-msgspec-sync",
        "ours-msgspec-async",
        "ours-raw-sync",
        "ours-raw-async",
    ],
}
BEYOND = (
    "picows-raw",
    "bare-raw",
)  # so fast, because they only call a function, that other bars would be short

HEAD = """\
# Results

`make bench` writes this page from the measurements in [results/](results/). Don't edit it.
[README.md](README.md) explains the contestants and the methods. A contestant whose name begins
with `ours` is a variant of datastream-ws.

Compare ratios, because they depend less on the machine. Each ratio comes from pairs of runs in
fresh processes, one right after the other. The tables show the median and, in brackets, the
minimum, the maximum and the number of pairs. Messages per second hold for one machine on one day.
*Work* is the CPU time per message of all threads of the client's process, divided by that of the
bare loop. Less is better, and it hardly depends on the other load of the machine.
"""


def write(folder: Path) -> Path:
    """Write RESULTS.md and the pictures into *folder*, and return the path of RESULTS.md."""
    path = folder / "RESULTS.md"
    for name, drawn in pictures(folder / "results").items():
        if drawn is None:
            (folder / name).unlink(missing_ok=True)
        else:
            (folder / name).write_text(drawn, encoding="utf-8")
    path.write_text(document(folder / "results"), encoding="utf-8")
    return path


def document(folder: Path) -> str:
    """Return the text of RESULTS.md for the results in a folder."""
    found = {part.name: results.load(folder, part.name) for part in PARTS}
    measured = {name: each for name, each in found.items() if each is not None}
    lines = [
        HEAD,
        *conditions(list(measured.values())),
        "## Aims",
        "",
        *aims_table(measured),
        "",
    ]
    if measured.keys() & PICTURED.keys():
        lines += [f"![Messages received and handled, as bars]({PICTURE})", ""]
    if feeds.lines(folder):
        lines += [f"![Speed by size of the message, as curves]({SIZES})", ""]
    for part in PARTS:
        if part.title and part.name in measured:
            lines += [f"## {part.title}", "", *part.show(measured[part.name]["figures"]), ""]
    lines += feeds.show_pythons(folder)
    return "\n".join(lines).rstrip() + "\n"


def conditions(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line with the time, the machine and the versions, for each set of them."""
    lines = []
    for machine, versions, quick in dict.fromkeys(map(condition, measured)):
        those = [each for each in measured if condition(each) == (machine, versions, quick)]
        moments = sorted(each["when"] for each in those)
        span = " to ".join(dict.fromkeys([moments[0], moments[-1]]))
        minutes = sum(each["seconds"] for each in those) / 60
        form = "quick form: for a first look" if quick else f"{minutes:.0f} minutes"
        lines += [f"Measured {span} ({form}); {machine}; {versions}.", ""]
    return lines


def condition(found: dict[str, Any]) -> tuple[str, str, bool]:
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return found["machine"], versions, found["quick"]


def aims_table(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Return the table of aims and measured values."""
    body = [
        [aim["what"], goal(aim), times(aim) + aim["unit"], verdict(aim["met"])]
        for each in measured.values()
        for aim in each["figures"].get("aims", [])
    ]
    return rows(["", "aim", "measured", "met"], body)


def goal(aim: dict[str, Any]) -> str:
    if aim["limit"] is None:
        return "–"
    return f"{'≥' if aim['at_least'] else '≤'} {aim['limit']:g}{aim['unit']}"


def verdict(met: bool | None) -> str:
    return "–" if met is None else "yes" if met else "**no**"


def pictures(folder: Path) -> dict[str, str | None]:
    """Return the pictures by their names. ``None`` means that there are no results."""
    return {PICTURE: picture(folder), SIZES: sizes(folder)}


def sizes(folder: Path) -> str | None:
    """Return the curves of the speed by the size of a message, or ``None``."""
    found = feeds.lines(folder)
    if not found:
        return None
    note = "JSON messages as feeds send them, one connection; times the bare websockets loop."
    return curves("Messages received and handled, by their size", note, found)


def picture(folder: Path) -> str | None:
    """Return the speeds as bars, the slowest first. ``None`` means that nothing was measured."""
    found = sorted(pictured(folder), key=lambda bar: bar.value)
    if not found:
        return None
    note = (
        f"{throughput.SIZE}-byte JSON messages, one connection; times the bare websockets loop, "
        "and a second. Blue: this package."
    )
    return bars("Messages received and handled", note, found, mark=1.0)


def pictured(folder: Path) -> Iterator[Bar]:
    for part, names in PICTURED.items():
        figures = (results.load(folder, part) or {"figures": {"scores": {}}})["figures"]
        for name in names:
            if name in figures["scores"] and name not in BEYOND:
                score = figures["scores"][name]
                ratio = score["ratio"]["median"]
                figure = f"{ratio:.2f} × · {score['rate']:,.0f}/s"
                yield Bar(name, ratio, figure, ours=name.startswith("ours"))
