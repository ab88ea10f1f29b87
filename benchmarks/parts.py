"""A part of the benchmarks: its measurements, as JSON and as tables in RESULTS.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.pairs import Spread, spread

__all__ = ["TEXT", "Aim", "Figures", "Part", "Scale", "rows", "times"]

TEXT = "what it is"

Figures = dict[str, Any]
"""The results of a part as JSON values. ``aims`` contains results of :meth:`Aim.json`."""


@dataclass(frozen=True)
class Scale:
    """
    The extent of the measurements.

    Args:
        quick: Whether to measure only as much as two minutes allow.
        most: The most rounds. ``None`` means no limit.

    """

    quick: bool = False
    most: int | None = None

    def rounds(self, full: int) -> int:
        """Return the number of pairs, which is at least 1."""
        wanted = max(1, full // 3) if self.quick else full
        return wanted if self.most is None else min(wanted, self.most)

    def count(self, full: int) -> int:
        """Return the number of messages."""
        return max(2, full // 2) if self.quick else full

    def pick(self, full: Sequence[Any], quick: Sequence[Any]) -> list[Any]:
        return list(quick if self.quick else full)


@dataclass(frozen=True)
class Aim:
    """
    An aim for a measured value.

    Args:
        what: A description of the value.
        limit: The limit. ``None`` means that the value is only for comparison.
        at_least: Whether higher values are better.
        unit: The text after the value.

    """

    what: str
    limit: float | None
    at_least: bool = True
    unit: str = ""

    def json(self, values: Sequence[float]) -> dict[str, Any]:
        """Return the aim with the spread of the measured values."""
        return {**asdict(self), **spread(values).json(), "met": self.met(spread(values))}

    def met(self, found: Spread) -> bool | None:
        """Return whether the median meets the aim, rounded to two digits as in the tables."""
        if self.limit is None:
            return None
        shown = round(found.median, 2)
        return shown >= self.limit if self.at_least else shown <= self.limit


@dataclass(frozen=True)
class Part:
    """
    A group of measurements.

    Args:
        name: The name for ``--only``, and of the file in ``results/``.
        title: The heading in RESULTS.md. If it's empty, RESULTS.md leaves the part out.
        measure: A function that measures. It may take some minutes.
        show: A function that returns the results as lines of Markdown, without the heading.

    """

    name: str
    title: str
    measure: Callable[[Scale], Figures]
    show: Callable[[Figures], list[str]]


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table. All columns are numbers, except the first and the one named TEXT."""
    rule = ["---" if column in ("", TEXT) else "---:" for column in head]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def times(found: dict[str, float], digits: int = 2) -> str:
    """Return a spread as text, which is the median (lowest–highest, number)."""
    low, high = f"{found['low']:,.{digits}f}", f"{found['high']:,.{digits}f}"
    return f"{found['median']:,.{digits}f} ({low}–{high}, {found['count']})"
