"""The faults that a FaultProxy applies to a direction. Durations are in seconds, sizes in bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

End = Literal["fin", "rst"]


class Mode:
    """What happens to the bytes of one direction; as it stands, they pass as they come."""

    reads = True  # takes bytes from the sender
    writes = True  # passes them on; without it, what was read is thrown away
    passes_fin = True

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        """Yield pieces of *data* and when to send each; *last* is when the one before goes."""
        yield max(now, last), data


@dataclass(frozen=True)
class Pass(Mode):
    """Pass everything on, as it comes."""


@dataclass(frozen=True)
class Latency(Mode):
    """Everything arrives *delay* ± *jitter* later, in order."""

    delay: float
    jitter: float = 0.0
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        delay = self.delay + self.rng.uniform(-self.jitter, self.jitter)
        yield max(now + delay, last), data


@dataclass(frozen=True)
class Bandwidth(Mode):
    """So many bytes in a second, in about fifty pieces."""

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
    """Pieces of *size* bytes, *pause* seconds apart."""

    size: int
    pause: float = 0.0

    def pieces(self, data: bytes, now: float, last: float) -> Iterator[tuple[float, bytes]]:
        due = max(now, last)
        for start in range(0, len(data), self.size):
            yield due, data[start : start + self.size]
            due += self.pause


@dataclass(frozen=True)
class Cut(Mode):
    """End the connection after *n* bytes in this direction, counted from its beginning."""

    n: int
    how: End = "fin"


@dataclass(frozen=True)
class Swallow(Mode):
    """Take everything, pass nothing on, not even the end."""

    writes = False
    passes_fin = False


@dataclass(frozen=True)
class Blackhole(Mode):
    """Stop reading: the sender's window fills. What was under way waits here as well."""

    reads = False
    passes_fin = False


@dataclass(frozen=True)
class WithholdFin(Mode):
    """Pass everything on but the end."""

    passes_fin = False


@dataclass(frozen=True)
class Reset(Mode):
    """Reset (RST) every connection, at once and as it comes; the direction does not matter."""
