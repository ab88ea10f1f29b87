"""A part of the benchmarks: its measurements, as JSON and as tables in RESULTS.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.pairs import Spread, spread

__all__ = ["TEXT", "Aim", "Figures", "Part", "Scale", "rows", "times"]

TEXT = "what it is"

Figures = dict[str, Any]
"""What a part measured, ready for JSON; aims it has under ``aims``, as `Aim.json()`."""


@dataclass(frozen=True)
class Scale:
    """
    How much is measured.

    Args:
        quick: As much as two minutes allow, instead of all of it.
        most: Rounds, at most; None: as many as each part wants.

    """

    quick: bool = False
    most: int | None = None

    def rounds(self, full: int) -> int:
        """Of pairs: a median of one is no median, but shows what is broken."""
        wanted = max(1, full // 3) if self.quick else full
        return wanted if self.most is None else min(wanted, self.most)

    def count(self, full: int) -> int:
        """Messages."""
        return max(2, full // 2) if self.quick else full

    def pick(self, full: Sequence[Any], quick: Sequence[Any]) -> list[Any]:
        return list(quick if self.quick else full)


@dataclass(frozen=True)
class Aim:
    """
    What a figure is to be.

    Args:
        what: The ratio or figure, in words.
        limit: Its aim; None: there is none, the figure is there for comparison.
        at_least: Whether more is better.
        unit: Behind the figures.

    """

    what: str
    limit: float | None
    at_least: bool = True
    unit: str = ""

    def json(self, values: Sequence[float]) -> dict[str, Any]:
        """The aim beside what was measured, the median of which is judged."""
        return {**asdict(self), **spread(values).json(), "met": self.met(spread(values))}

    def met(self, found: Spread) -> bool | None:
        """Whether the median is what it is to be, as printed: two digits are shown, and judged."""
        if self.limit is None:
            return None
        shown = round(found.median, 2)
        return shown >= self.limit if self.at_least else shown <= self.limit


@dataclass(frozen=True)
class Part:
    """
    One group of measurements.

    Args:
        name: For ``--only``, and of its file in ``results/``.
        title: Its heading in RESULTS.md.
        measure: Does it; may take some minutes.
        show: Markdown lines from the figures, without heading.

    """

    name: str
    title: str
    measure: Callable[[Scale], Figures]
    show: Callable[[Figures], list[str]]


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; all but the first column, and the one headed TEXT, are figures."""
    rule = ["---" if column in ("", TEXT) else "---:" for column in head]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def times(found: dict[str, float], digits: int = 2) -> str:
    """A spread as text: median (lowest–highest, how many)."""
    low, high = f"{found['low']:,.{digits}f}", f"{found['high']:,.{digits}f}"
    return f"{found['median']:,.{digits}f} ({low}–{high}, {found['count']})"
