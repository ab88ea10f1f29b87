"""A lazy sequence of the messages of one read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import overload

from ..messages import MESSAGE_BYTES, Message, Origin, memory_bytes, messages_of, payload_bytes

__all__ = ["LazyMessages"]

SHORT = 500  # bytes; payloads of up to this mean length are joined to test for ASCII
TOGETHER = 100  # messages that iteration creates at once


class LazyMessages(Sequence[Message]):
    """
    The messages of one read, created on demand.

    Waiting payloads are strings and bytes, which the garbage collector does not traverse, unlike
    messages (docs/performance.md).

    Args:
        seq: The sequence number of the first message.
        received_at: When they were received, as a Unix timestamp.
        size: The bytes of all payloads. ``None`` means that they are measured when needed.

    """

    __slots__ = ("_is_plain", "_origin", "_payloads", "_received_at", "_seq", "_size")

    def __init__(
        self,
        payloads: list[str | bytes],
        origin: Origin,
        seq: int,
        received_at: float,
        size: int | None = None,
    ) -> None:
        self._payloads = payloads
        self._origin = origin
        self._seq = seq
        self._received_at = received_at
        self._size = size
        self._is_plain: bool | None = None

    @property
    def contents(self) -> tuple[list[str | bytes], Origin, int, float]:
        """The constructor's arguments, except the size."""
        return self._payloads, self._origin, self._seq, self._received_at

    @property
    def size(self) -> int:
        """The bytes of all payloads."""
        if self._size is None:
            measure = len if self._is_plain else payload_bytes
            self._size = sum(map(measure, self._payloads))
        return self._size

    @property
    def is_plain(self) -> bool:
        """Whether every character is one byte, so that ``len()`` measures the payloads."""
        if self._is_plain is None:
            self._is_plain = self._is_ascii() or self.size == sum(map(len, self._payloads))
        return self._is_plain

    def _is_ascii(self) -> bool:
        """Return whether many short texts are ASCII; joining them is faster than testing each."""
        if len(self._payloads) * SHORT < self.size:
            return False
        try:
            return "".join(self._payloads).isascii()  # type: ignore[arg-type]
        except TypeError:  # some payloads are bytes
            return False

    @property
    def memory(self) -> int:
        """The bytes of memory that the messages use while they wait; see :func:`memory_bytes`."""
        if self.is_plain:
            return self.size + MESSAGE_BYTES * len(self._payloads)
        return sum(map(memory_bytes, self._payloads))

    def made(self, start: int, stop: int) -> list[Message]:
        """Create the messages from index *start* up to *stop*."""
        payloads = self._payloads[start:stop]
        return messages_of(payloads, self._origin, self._seq + start, self._received_at)

    def __len__(self) -> int:
        return len(self._payloads)

    def __iter__(self) -> Iterator[Message]:
        """
        Yield the messages; create some at a time, and keep no reference to those already taken.
        """
        return chain.from_iterable(map(self._taken, range(0, len(self), TOGETHER)))

    def _taken(self, start: int) -> Iterator[Message]:
        left = deque(self.made(start, start + TOGETHER))
        return map(deque.popleft, repeat(left, len(left)))

    @overload
    def __getitem__(self, at: int) -> Message: ...

    @overload
    def __getitem__(self, at: slice) -> LazyMessages: ...

    def __getitem__(self, at: int | slice) -> Message | LazyMessages:
        if isinstance(at, int):
            seq = self._seq + at + (len(self._payloads) if at < 0 else 0)
            return Message(self._payloads[at], self._origin, seq, self._received_at)
        seq = self._seq + range(len(self._payloads))[at].start
        some = LazyMessages(self._payloads[at], self._origin, seq, self._received_at)
        some._is_plain = self.is_plain  # finding out again would encode every text
        return some
