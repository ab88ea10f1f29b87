"""
Runs of consecutive messages, and their encoding as a row of the file.

A row per message would cost more time than the rest of the client. One row therefore keeps all
messages that were written together, with their payloads in one value.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, NamedTuple

__all__ = ["Corrupt", "Row", "Run", "checked", "decode", "encode", "run_of", "runs_of"]

UNMARKED = re.compile("0+")
IS_BYTES = 2**31  # this bit of a payload's length marks a binary message


class Corrupt(Exception):
    """The file or a row of it is corrupt."""


class Row(NamedTuple):
    """A message in the file. Positions count messages in the order of receipt."""

    position: int
    epoch: int
    connection: int
    seq: int
    received_at: float
    data: str | bytes


@dataclass(slots=True)
class Run:
    """
    Consecutive messages of one connection.

    Attributes:
        position: The position of the first message. The others follow without a gap.
        epoch: The epoch of the connection.
        connection: The number of the connection.
        seq: The number of the first message within the process. The others follow without a gap.
        times: Pairs of a number of messages and the UNIX time at which they were received together.
        payloads: The payloads of the messages.

    """

    position: int
    epoch: int
    connection: int
    seq: int
    times: list[tuple[int, float]]
    payloads: list[str | bytes]

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def positions(self) -> range:
        return range(self.position, self.position + len(self))

    def rows(self) -> list[Row]:
        times = [at for count, at in self.times for _ in range(count)]
        return [
            Row(self.position + n, self.epoch, self.connection, self.seq + n, at, data)
            for n, (at, data) in enumerate(zip(times, self.payloads, strict=True))
        ]

    def part(self, start: int, stop: int) -> Run:
        """Return the messages from index *start* to *stop*."""
        if (start, stop) == (0, len(self)):
            return self
        times, begin = [], 0
        for count, at in self.times:
            end = begin + count
            if (some := min(end, stop) - max(begin, start)) > 0:
                times.append((some, at))
            begin = end
        payloads = self.payloads[start:stop]
        return Run(
            self.position + start, self.epoch, self.connection, self.seq + start, times, payloads
        )

    def within(self, size: int) -> int:
        """Return how many messages fit into *size* bytes or characters, at least one."""
        return min(len(self), bisect_left(list(accumulate(map(len, self.payloads))), size) + 1)

    def unmarked(self, marks: str, begin: int = 0, end: int = sys.maxsize) -> Iterator[Run]:
        """Yield the parts from index *begin* to *end* that have no ``1`` in *marks*."""
        marks = marks.ljust(len(self), "0")
        for some in UNMARKED.finditer(marks, max(0, begin), min(len(self), max(0, end))):
            yield self.part(*some.span())

    def follows(self, before: Run) -> bool:
        return (
            self.position == before.position + len(before)
            and self.seq == before.seq + len(before)
            and self.epoch == before.epoch
            and self.connection == before.connection
        )


def checked(row: Row) -> Row:
    """
    Return *row* if its values have the right types.

    Raises:
        Corrupt: If they do not.

    """
    kinds = tuple(map(type, row))
    if kinds[:-1] != (int, int, int, int, float) or kinds[-1] not in (str, bytes):
        raise Corrupt
    return row


def run_of(row: Row) -> Run:
    position, epoch, connection, seq, at, data = row
    return Run(position, epoch, connection, seq, [(1, at)], [data])


def runs_of(pieces: Iterable[Run]) -> list[Run]:
    """Merge each run into the previous one if it directly follows it. Return the merged runs."""
    runs: list[Run] = []
    for piece in pieces:
        if not runs or not piece.follows(runs[-1]):
            runs.append(replace(piece, times=list(piece.times), payloads=list(piece.payloads)))
            continue
        runs[-1].times += piece.times
        runs[-1].payloads += piece.payloads
    for run in runs:
        run.times = _merged(run.times)
    return runs


def _merged(times: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(sum(count for count, _ in same), at) for at, same in groupby(times, itemgetter(1))]


# --- the row ---


def encode(run: Run) -> tuple[int, int, int, int, str, bytes, bytes]:
    """
    Return the values of a row.

    Payloads of ASCII text are joined first and encoded once, which is much faster.
    """
    payloads = run.payloads
    try:
        text = "".join(payloads)  # type: ignore[arg-type]
        data = text.encode(errors="surrogatepass")
        is_plain = len(data) == len(text)
    except TypeError:  # some payloads are bytes
        is_plain = False
    if is_plain:
        sizes = list(map(len, payloads))
    else:
        parts = [_as_bytes(each) for each in payloads]
        data = b"".join(parts)
        sizes = [
            len(part) + (IS_BYTES if isinstance(each, bytes) else 0)
            for part, each in zip(parts, payloads, strict=True)
        ]
    lengths = struct.pack(f"<{len(sizes)}I", *sizes)
    numbers = run.position, run.epoch, run.connection, run.seq
    return *numbers, json.dumps(run.times), lengths, data


def _as_bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode(errors="surrogatepass")


def decode(row: Sequence[Any]) -> Run:
    """
    Return the run that a row keeps.

    Raises:
        Corrupt: If the values of the row don't fit together.

    """
    try:
        position, epoch, connection, seq, times, lengths, data = row
        if not all(type(each) is int for each in (position, epoch, connection, seq)):
            raise ValueError
        times = [(int(many), float(at)) for many, at in json.loads(times)]
        payloads = list(_cut(data, struct.unpack(f"<{len(lengths) // 4}I", lengths)))
        if sum(many for many, _ in times) != len(payloads) or min(times)[0] < 1:
            raise ValueError
        return Run(position, epoch, connection, seq, times, payloads)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, struct.error):
        raise Corrupt from None


def _cut(data: bytes, sizes: Sequence[int]) -> Iterator[str | bytes]:
    """
    Cut the joined payloads apart.

    Raises:
        ValueError: If the sizes don't fit.

    """
    ends = list(accumulate([size & ~IS_BYTES for size in sizes]))
    if not ends or ends[-1] != len(data):
        raise ValueError
    if data.isascii() and max(sizes) < IS_BYTES:
        text = data.decode("ascii")
        return map(text.__getitem__, map(slice, [0, *ends], ends))
    return (
        data[end - (size & ~IS_BYTES) : end]
        if size & IS_BYTES
        else data[end - size : end].decode(errors="surrogatepass")
        for size, end in zip(sizes, ends, strict=True)
    )
