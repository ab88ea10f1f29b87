"""The parts with messages like those of real feeds: sizes, TLS, many routes, other Pythons."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.blaster import Load
from benchmarks.content import message
from benchmarks.contestants import named
from benchmarks.parts import TEXT, Aim, Figures, Part, Scale, rows, times
from benchmarks.receive import Score, play

__all__ = ["LINES", "PARTS", "PYTHON", "lines", "show_pythons"]

# For each kind, the number of messages of the bare loop, and the aim for the ratio to it.
KINDS = {
    "trade": (80_000, 1.15),
    "book-2k": (25_000, 1.15),
    "book-8k": (7_000, 1.15),
    "company": (1_000, 1.15),
    "flags": (100, 1.0),
}
PLAIN = [
    "aiohttp",
    "picows-websockets-json",
    "ours-sync",
    "ours-async",
    "aiohttp-msgspec",
    "picows-websockets-msgspec",
    "ours-msgspec-sync",
    "ours-msgspec-async",
]
PACKED = ["aiohttp", "picows-websockets-json", "ours-sync", "ours-async"]
OVER_TLS = ["aiohttp", "ours-sync", "ours-async"]
OTHERS: list[tuple[str, str | None, int, str, Aim]] = [  # name, kind, messages, baseline, aim
    ("ours-iterate", "trade", 80_000, "aiohttp", Aim("`async for` / `aiohttp`, trades", 1.0)),
    ("ours-batch", "trade", 80_000, "bare", Aim("`on_batch` / bare, trades", 2.0)),
    ("ours-routes", "routes", 80_000, "bare-routes", Aim("1,000 routes / a dict of 1,000", 1.0)),
    ("ours-sync", "bulk", 8_000, "bare", Aim("5 MB amid small messages / bare", 1.0)),
    ("ours-full-sync", None, 40_000, "bare", Aim("all features on / bare", 0.8)),
    (
        "ours-full-async",
        None,
        40_000,
        "bare",
        Aim("all features on, coroutine handler / bare", 0.8),
    ),
]
LINES = ["ours-sync", "ours-async", "aiohttp", "picows-websockets-json"]
PYTHONS = [
    "ours-sync",
    "ours-async",
    "ours-msgspec-sync",
    "ours-msgspec-async",
    "ours-raw-async",
    "aiohttp",
    "aiohttp-msgspec",
    "picows-websockets-json",
    "picows-websockets-msgspec",
    "websocket-rs",
    "websocket-rs-msgspec",
]


# --- every kind of message ------------------------------------------------------------------------


def measure_kind(scale: Scale, kind: str) -> Figures:
    count, least = scale.count(KINDS[kind][0]), KINDS[kind][1]
    rounds = scale.rounds(5)
    plain = play(PLAIN, Load(count=count, kind=kind), rounds)
    packed = play(PACKED, Load(count=count // 2, kind=kind, compress=True), rounds)
    aims = [
        *beside_bare(f"{kind}: datastream-ws / bare", plain, least),
        *beside_aiohttp(f"{kind}", plain),
        *beside_bare(
            f"{kind}, compressed: datastream-ws / bare", packed, 1.5 if kind == "trade" else least
        ),
        *beside_aiohttp(f"{kind}, compressed", packed),
    ]
    return {
        "aims": aims,
        "size": len(message(kind, 7)),
        "plain": {name: score.json() for name, score in plain.items()},
        "packed": {name: score.json() for name, score in packed.items()},
    }


OWN = (("ours-sync", "datastream-ws"), ("ours-async", "datastream-ws, coroutine handler"))


def beside_bare(what: str, scores: Mapping[str, Score], least: float) -> Iterator[dict[str, Any]]:
    yield Aim(what, least).json(scores["ours-sync"].ratios)


def beside_aiohttp(what: str, scores: Mapping[str, Score]) -> Iterator[dict[str, Any]]:
    """Yield the aims for the ratios to aiohttp, from the ratios of both to the bare loop."""
    for name, how in OWN:
        both = zip(scores[name].ratios, scores["aiohttp"].ratios, strict=True)
        yield Aim(f"{what}: {how} / `aiohttp`", 1.0).json([own / other for own, other in both])


def show_kind(figures: Figures) -> list[str]:
    plain, packed = figures["plain"], figures["packed"]
    body = [[f"`{name}`", *cells(plain[name]), *cells(packed.get(name))] for name in plain]
    text = f"{figures['size']:,} bytes of JSON per message. All messages differ."
    head = ["", "ratio to `bare`", "work", "messages/s"]
    head += ["compressed: ratio", "work", "messages/s"]
    return [text, "", *rows(head, body)]


def cells(found: Figures | None) -> tuple[str, str, str]:
    if found is None:
        return "–", "–", "–"
    work = f"{found['work']['median']:.2f}" if "work" in found else "–"
    return times(found["ratio"]), work, f"{found['rate']:,.0f}"


def measure_tls(scale: Scale) -> Figures:
    found: Figures = {}
    aims: list[dict[str, Any]] = []
    for kind in ("trade", "book-8k", "company"):
        load = Load(count=scale.count(KINDS[kind][0] * 6 // 10), kind=kind)
        scores = play(OVER_TLS, load, scale.rounds(5), tls=True)
        aims += beside_bare(f"{kind} over TLS: datastream-ws / bare", scores, KINDS[kind][1])
        aims += beside_aiohttp(f"{kind} over TLS", scores)
        found[kind] = {name: score.json() for name, score in scores.items()}
    return {"aims": aims, "kinds": found}


def show_tls(figures: Figures) -> list[str]:
    body = [
        [kind, f"`{name}`", *cells(score)]
        for kind, scores in figures["kinds"].items()
        for name, score in scores.items()
    ]
    return rows(["", TEXT, "ratio to `bare`", "work", "messages/s"], body)


# --- other ways, and loads ------------------------------------------------------------------------


def measure_ways(scale: Scale) -> Figures:
    found, aims = [], []
    for name, kind, count, baseline, aim in OTHERS:
        load = Load(count=scale.count(count), kind=kind)
        score = play([name], load, scale.rounds(5), baseline)[name]
        aims.append(aim.json(score.ratios))
        found.append({"name": name, "kind": kind, "baseline": baseline, **score.json()})
    return {"aims": aims, "ways": found}


def show_ways(figures: Figures) -> list[str]:
    body = [
        [
            f"{each['kind'] or 'padded'}: `{each['name']}` / `{each['baseline']}`",
            *cells(each),
            named(each["name"]).about,
        ]
        for each in figures["ways"]
    ]
    return rows(["", "ratio", "work", "messages/s", TEXT], body)


# --- this Python ----------------------------------------------------------------------------------


def this_python() -> str:
    return f"python-{sys.version_info.major}.{sys.version_info.minor}"


def measure_python(scale: Scale) -> Figures:
    rs = importlib.util.find_spec("websocket_rs") is not None
    names = [name for name in PYTHONS if rs or not name.startswith("websocket-rs")]
    scores = play(names, Load(count=scale.count(60_000), kind="trade"), scale.rounds(5))
    return {"scores": {name: score.json() for name, score in scores.items()}}


def show_python(figures: Figures) -> list[str]:
    body = [
        [f"`{name}`", *cells(found), named(name).about] for name, found in figures["scores"].items()
    ]
    return rows(["", "ratio to `bare`", "work", "messages/s", TEXT], body)


def show_pythons(folder: Path) -> list[str]:
    """Return the table of all measured versions of Python."""
    names = sorted((path.stem for path in folder.glob("python-*.json")), key=version_key)
    found = {name: (results.load(folder, name) or {})["figures"]["scores"] for name in names}
    if not found:
        return []
    body = [
        [f"`{name}`", *(cells(scores.get(name))[0] for scores in found.values())]
        for name in PYTHONS
        if any(name in scores for scores in found.values())
    ]
    heads = [name.replace("python-", "Python ") for name in names]
    note = "Trades, each ratio to `bare` on the same Python."
    return ["## Python by Python", "", note, "", *rows(["", *heads], body), ""]


def version_key(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in name.partition("-")[2].split("."))


# --- the picture -----------------------------------------------------------------------


def lines(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the size of each kind and the ratio to bare, for each contestant."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in LINES}
    for kind in KINDS:
        measured = results.load(folder, f"feed-{kind}")
        if measured is not None:
            figures = measured["figures"]
            for name in LINES:
                ratio = figures["plain"][name]["ratio"]["median"]
                found[name].append((figures["size"], ratio))
    return {name: points for name, points in found.items() if len(points) > 1}


def kind_part(kind: str) -> Part:
    return Part(f"feed-{kind}", f"Feed: {kind}", partial(measure_kind, kind=kind), show_kind)


PARTS: Sequence[Part] = [
    *map(kind_part, KINDS),
    Part("tls", "Feeds over TLS", measure_tls, show_tls),
    Part("ways", "Other handlers and loads", measure_ways, show_ways),
]
PYTHON = Part(this_python(), "", measure_python, show_python)
