"""Pairs of runs, one right after the other, and the ratio between the two.

Other load on the machine slows both, so compare the ratios. The order alternates from pair to pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")

__all__ = ["Spread", "pairs", "rotated", "spread"]


@dataclass(frozen=True)
class Spread:
    """The median, the extremes and the number of some values."""

    median: float
    low: float
    high: float
    count: int

    def json(self) -> dict[str, Any]:
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values), len(values))


def pairs(
    own: Callable[[], T], other: Callable[[], T], rounds: int, start: int = 0
) -> list[tuple[T, T]]:
    """Return both results of each round. *other* is measured first in every other round."""
    found = []
    for number in range(start, start + rounds):
        if number % 2:
            first = own()
            found.append((first, other()))
        else:
            second = other()
            found.append((own(), second))
    return found


def rotated(names: Sequence[str], by: int) -> list[str]:
    """Return the names rotated *by* places, so that none always follows the same one."""
    by %= len(names)
    return [*names[by:], *names[:by]]
