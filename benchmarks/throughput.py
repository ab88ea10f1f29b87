"""The parts that measure messages per second: the aims, all contestants, all features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.blaster import Load
from benchmarks.contestants import CONTESTANTS, named
from benchmarks.parts import TEXT, Aim, Figures, Part, Scale, rows, times
from benchmarks.receive import BASELINE, play

__all__ = ["AIMS", "PARTS"]

SIZE = 139  # bytes, such as a price, a flag or a position
COUNT = 100_000  # messages in a run of the bare loop, which takes about half a second

# The contestant, its baseline, and the aim.
AIMS = [
    ("ours-sync", "bare", Aim("datastream-ws / bare `websockets`", 1.2)),
    ("ours-sync", "websocket-client", Aim("datastream-ws / `WebSocketApp`", 6)),
    ("ours-sync", "schematichq", Aim("datastream-ws / `schematichq`'s client", 1.35)),
    ("ours-inline", "ours-async", Aim("datastream-ws, inline handler / coroutine handler", 1.0)),
    ("ours-msgspec-sync", "bare", Aim("datastream-ws, msgspec / bare `websockets`", 4)),
    ("ours-msgspec-sync", "aiohttp-msgspec", Aim("datastream-ws / `aiohttp`, both msgspec", 1.0)),
    (
        "ours-msgspec-async",
        "picows-websockets-msgspec",
        Aim("datastream-ws, coroutine handler / `picows.websockets`, both msgspec", 0.8),
    ),
]

PEERS = [
    "bare",
    "bare-raw",
    "websocket-client",
    "schematichq",
    "aiohttp",
    "aiohttp-msgspec",
    "picows-websockets-json",
    "picows-websockets-msgspec",
    "picows-websockets-raw",
    "picows-json",
    "picows-raw",
]
ADAPTERS = [
    ("ours-unlimited", "ours-sync"),
    ("ours-spool-idle", "ours-unlimited"),
    ("ours-journal", "ours-sync"),
    ("django-decorator", "ours-sync"),
    ("django-receiver", "ours-sync"),
    ("django-coroutine", "ours-loop"),
    ("flask", "ours-sync"),
    ("flask", "flask-own"),
    ("flask-run", "ours-sync"),
]


# --- the aims -------------------------------------------------------------------------------------


def measure_aims(scale: Scale) -> Figures:
    load = Load(SIZE, scale.count(COUNT))
    aims = []
    for name, baseline, aim in AIMS:
        score = play([name], load, scale.rounds(7), baseline)[name]
        aims.append(aim.json(score.ratios))
    return {"aims": aims}


def show_aims(figures: Figures) -> list[str]:
    return []  # the table of all aims contains them


# --- all contestants ------------------------------------------------------------------------------


def measure_names(
    scale: Scale, names: Sequence[str], count: int = COUNT, rounds: int = 5
) -> Figures:
    scores = play(names, Load(SIZE, scale.count(count)), scale.rounds(rounds))
    return {"scores": {name: score.json() for name, score in scores.items()}}


def variants() -> list[str]:
    """Return all variants of datastream-ws, except those with routes."""
    named(BASELINE)
    others = {name for name, _ in ADAPTERS}
    ours = [name for name in CONTESTANTS if name.startswith("ours-") and name not in others]
    return [name for name in ours if not name.startswith("ours-route")]


def measure_peers(scale: Scale) -> Figures:
    return measure_names(scale, PEERS)


def measure_variants(scale: Scale) -> Figures:
    quick = ["ours-sync", "ours-async", "ours-msgspec-sync", "ours-raw-async"]
    return measure_names(scale, scale.pick(variants(), quick), count=COUNT * 6 // 10, rounds=3)


def show_scores(figures: Figures) -> list[str]:
    body = [
        [f"`{name}`", times(found["ratio"]), f"{found['rate']:,.0f}", named(name).about]
        for name, found in figures["scores"].items()
    ]
    return rows(["", "ratio to `bare`", "messages/s", TEXT], body)


# --- variants beside each other -------------------------------------------------------------------


def measure_beside(scale: Scale, both: Sequence[tuple[str, str]], rounds: int) -> Figures:
    load = Load(SIZE, scale.count(COUNT))
    found = []
    for name, baseline in both:
        score = play([name], load, scale.rounds(rounds), baseline)[name]
        found.append({"name": name, "baseline": baseline, **score.json()})
    return {"pairs": found}


def show_beside(figures: Figures) -> list[str]:
    body = [
        [
            f"`{found['name']}` / `{found['baseline']}`",
            times(found["ratio"]),
            f"{found['rate']:,.0f}",
            named(found["name"]).about,
        ]
        for found in figures["pairs"]
    ]
    return rows(["", "ratio", "messages/s", TEXT], body)


def beside_part(name: str, title: str, both: Sequence[tuple[str, str]]) -> Part:
    return Part(name, title, partial(measure_beside, both=both, rounds=5), show_beside)


PARTS = [
    Part("aims", "", measure_aims, show_aims),
    Part("peers", "Other clients", measure_peers, show_scores),
    Part("variants", "Variants of datastream-ws: codec and handler", measure_variants, show_scores),
    beside_part("adapters", "Spool, Django, Flask", ADAPTERS),
]
