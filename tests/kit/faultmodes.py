"""The faults that a FaultProxy applies to a direction. Durations are in seconds, sizes in bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

End = Literal["fin", "rst"]


class Mode:
    """A fault in one direction. The base class passes all bytes unchanged."""

    reads = True  # whether it reads from the sender
    writes = True  # whether it passes bytes, or discards them
    passes_fin = True

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        """Yield the time and the bytes of each piece. *last* is the time of the previous piece."""
        yield max(now, last), data


@dataclass(frozen=True)
class Pass(Mode):
    """Pass everything unchanged."""


@dataclass(frozen=True)
class Latency(Mode):
    """Delay everything by *delay* ± *jitter*, in order."""

    delay: float
    jitter: float = 0.0
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        delay = self.delay + self.rng.uniform(-self.jitter, self.jitter)
        yield max(now + delay, last), data


@dataclass(frozen=True)
class Bandwidth(Mode):
    """Pass *rate* bytes per second, in about fifty pieces."""

    rate: float

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        size = max(1, int(self.rate / 50))
        due = max(now, last)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            due += len(piece) / self.rate
            yield due, piece


@dataclass(frozen=True)
class Slices(Mode):
    """Pass pieces of *size* bytes, *pause* seconds apart."""

    size: int
    pause: float = 0.0

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        due = max(now, last)
        for start in range(0, len(data), self.size):
            yield due, data[start : start + self.size]
            due += self.pause


@dataclass(frozen=True)
class Cut(Mode):
    """End the connection after its first *n* bytes in this direction."""

    n: int
    how: End = "fin"


@dataclass(frozen=True)
class Swallow(Mode):
    """Read everything and pass nothing, not even the end."""

    writes = False
    passes_fin = False


@dataclass(frozen=True)
class Blackhole(Mode):
    """Stop reading, so that the sender's window fills. Data that was already read waits."""

    reads = False
    passes_fin = False


@dataclass(frozen=True)
class WithholdFin(Mode):
    """Pass everything except the end."""

    passes_fin = False


@dataclass(frozen=True)
class Reset(Mode):
    """Reset (RST) every connection immediately, in any direction."""
