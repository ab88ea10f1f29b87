"""
The pages for users (README.md and docs/), as lists of their code blocks.

The first line of a block determines its kind:

- ``python``: a program or tests, which run unchanged.
- any language with ``title="path"``: a file, or text to append to an existing file.
- ``sh``: commands, one a line.
- ``text``: the output of the program or command before it. ``…`` matches any text.
- everything else (``yaml``, ``dockerfile``, …): checked, not run, see kit.blockchecks.

HTML comments, which readers do not see, contain the rest:

- ``<!-- exit code: 1 -->`` before a command that fails.
- ``<!-- Ctrl-C: python feed.py -->`` where the reader has to end this command.
- ``<!-- printed by: python feed.py -->`` before output of a command that is not the last one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "Remark", "pages", "steps"]

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r'^(`{3,}|:{3,})(\{?[\w-]*\}?)(?: title="([^"]+)")?(.*)$')
REMARK = re.compile(r"^<!-- ([^:]+): (.+) -->$")
REMARKS = ("exit code", "Ctrl-C", "printed by")


@dataclass(frozen=True)
class Block:
    """A fenced block. *line* is the number of its first line in the page."""

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Remark:
    """An HTML comment for the simulated reader."""

    word: str
    text: str


def pages() -> list[str]:
    """Return the paths of all pages, relative to the root."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found if "_build" not in path.parts]


def steps(page: str) -> list[Block | Remark]:
    """Return the blocks and remarks of a page in order, without directives of Sphinx."""
    return list(_steps(page, (ROOT / page).read_text(encoding="utf-8").split("\n")))


def _steps(page: str, lines: list[str]) -> Iterator[Block | Remark]:
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if remark := REMARK.match(line):
            assert remark[1] in REMARKS, f"{page}:{number}: no such remark"
            yield Remark(remark[1], remark[2])
        elif fence := FENCE.match(line):
            first, end = number + 1, lines.index(fence[1], number)
            if not fence[2].startswith("{"):  # one of Sphinx's directives
                assert not fence[4], f"{page}:{number}: {fence[4]!r} is not understood"
                text = "\n".join(lines[number:end]) + "\n"
                yield Block(page, first, fence[2], fence[3] or "", text)
            number = end + 1
        else:
            # No test would run this code. (Lists are indented by two or three spaces.)
            assert not line.startswith("    "), f"{page}:{number}: a block without a fence"
