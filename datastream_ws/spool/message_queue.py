"""A queue of messages, in the sequences in which they were received."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

from ..handling.lazy_messages import LazyMessages
from ..messages import Message, payload_bytes

__all__ = ["MessageQueue", "space"]

ROW = 4  # bytes that a message takes in the file beside its payload


def space(messages: Sequence[Message]) -> int:
    """Return about how many bytes messages take in the file."""
    if isinstance(messages, LazyMessages):
        return messages.size + ROW * len(messages)
    return sum([payload_bytes(each.data) + ROW for each in messages])


class MessageQueue:
    """
    A first-in, first-out queue, without a lock.

    It keeps whole sequences, because an object per message would cost memory and time.

    Attributes:
        bytes: About how many bytes all messages take in the file.

    """

    def __init__(self) -> None:
        self._parts: deque[Sequence[Message]] = deque()
        self._count = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Message]:
        return chain.from_iterable(self._parts)

    @property
    def parts(self) -> Iterator[Sequence[Message]]:
        return iter(self._parts)

    @property
    def oldest(self) -> Message:
        return self._parts[0][0]

    def append(self, messages: Sequence[Message]) -> None:
        if messages:
            self._parts.append(messages)
            self._count += len(messages)
            self.bytes += space(messages)

    def first(self, most: int, size: int) -> list[Sequence[Message]]:
        """Return the oldest messages, at most *most* and *size* bytes, but at least one."""
        found: list[Sequence[Message]] = []
        for part in self._parts:
            some = part if len(part) <= most else part[:most]
            if (taken := space(some)) > size:
                if not found:
                    found.append(some[: _fitting(some, size)])
                break
            found.append(some)
            most -= len(some)
            size -= taken
            if most <= 0 or size <= 0:
                break
        return found

    def drop(self, count: int) -> None:
        """Remove the *count* oldest messages."""
        self._count -= count
        while count:
            part = self._parts.popleft()
            if len(part) > count:
                self._parts.appendleft(part[count:])
                part = part[:count]
            self.bytes -= space(part)
            count -= len(part)

    def pop(self, at: int = 0) -> Message:
        """Remove and return the message at index *at*, from the oldest."""
        passed: list[Sequence[Message]] = []
        while at >= len(self._parts[0]):
            at -= len(self._parts[0])
            passed.append(self._parts.popleft())
        part = self._parts.popleft()
        self._parts.extendleft(filter(None, (part[at + 1 :], part[:at], *reversed(passed))))
        self._count -= 1
        self.bytes -= space([message := part[at]])
        return message


def _fitting(messages: Sequence[Message], size: int) -> int:
    """Return how many of the messages fit into *size* bytes, at least one."""
    sizes = accumulate(payload_bytes(each.data) + ROW for each in messages)
    return max(1, sum(1 for each in sizes if each <= size))
