"""The README and the table of options say what is there. Their examples: test_pages.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from datastream_ws import ClientOptions
from kit.pages import Block, pages, steps

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS = (ROOT / "docs/reference/options.md").read_text(encoding="utf-8")


def test_first_example_is_short() -> None:
    first = next(each for each in steps("README.md") if isinstance(each, Block))
    assert first.language == "python"
    assert len(first.text.splitlines()) <= 15


def test_named_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)", TEXT, re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z]+)", TEXT))
    assert named >= {"demo", "test"}
    assert named <= targets


def test_linked_files_exist() -> None:
    """Links within the site, and their anchors, are checked by Sphinx; these also by GitHub."""
    missing = []
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        missing += [
            (page, link) for link in links if not (ROOT / page).parent.joinpath(link).exists()
        ]
    assert missing == []


def measured(row: str) -> float:
    """Return the first ratio in a row of the results."""
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    ratio = re.search(rf"^\| {re.escape(row)} \|.*?([\d.]+) \(", results, re.MULTILINE)
    assert ratio is not None, row
    return float(ratio[1])


def test_figures_are_those_of_the_benchmarks() -> None:
    """They are measured anew now and then, so: none is half or twice what is written."""
    [row] = re.findall(
        r"^\| Throughput of datastream-ws relative to theirs (.*)$", TEXT, re.MULTILINE
    )
    written = [float(number) for number in re.findall(r"[\d.]+", row)]
    figures = [
        measured("datastream-ws / bare `websockets`"),
        measured("datastream-ws / `WebSocketApp`"),
        measured("`ours-sync`") / measured("`aiohttp`"),
        measured("datastream-ws / `schematichq`'s client"),
    ]
    for figure, actual in zip(written, figures, strict=True):
        assert figure / 2 < actual < figure * 2


def option_rows() -> list[tuple[str, str]]:
    """Return (name, default as written) of every option in the tables of the core."""
    tables = OPTIONS.partition("## In the frameworks")[0]
    return re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", tables, re.MULTILINE)


def test_every_option_is_there_with_its_default() -> None:
    rows = option_rows()
    assert sorted(name for name, _ in rows) == sorted(ClientOptions.names())
    options = ClientOptions("wss://api.example.com/stream")
    for name, written in rows:
        if literal := re.fullmatch(r"`(.+)`", written):
            actual = getattr(options, name)
            if name == "codec":  # the name has become the codec
                continue
            assert actual == ast.literal_eval(literal[1]), name
