"""The order in which messages leave an inbox: first in, first out, or in lanes by key."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..messages import Message, payload_bytes
from .stretches import Part

__all__ = []


class Store(Protocol):
    """The order in which messages leave."""

    def __len__(self) -> int: ...

    @property
    def ready(self) -> int: ...

    def push(self, message: Message, keys: Keys) -> Message | None:
        """Add a message; return the one whose place it took, if any."""

    def pop(self) -> Message | None: ...
    def pop_oldest(self) -> Message: ...
    def release(self, message: Message) -> None: ...


@dataclass(frozen=True, slots=True)
class Keys:
    """A message's conflation key and ordering key; ``None``: it has none."""

    conflation: Hashable = None
    order: Hashable = None


NO_KEYS = Keys()


class Fifo:
    """First in, first out: single messages, and parts of several."""

    def __init__(self) -> None:
        self._waiting: deque[Message | Part] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def ready(self) -> int:
        return self._count

    def push(self, message: Message, keys: Keys = NO_KEYS) -> None:
        self._waiting.append(message)
        self._count += 1

    def extend(self, messages: Sequence[Message]) -> None:
        self._waiting.append(Part(messages))
        self._count += len(messages)

    def pop(self) -> Message | None:
        while self._waiting:
            first = self._waiting[0]
            message = next(first.messages, None) if isinstance(first, Part) else first
            if message is first or message is None:
                self._waiting.popleft()
            if message is not None:
                self._count -= 1
                return message
        return None

    def pop_oldest(self) -> Message:
        message = self.pop()
        if message is None:
            raise IndexError("empty")
        return message

    def release(self, message: Message) -> None:
        pass

    def take(self) -> Part:
        """Remove and return the oldest messages; raises IndexError when there are none."""
        first = self._waiting.popleft()
        if isinstance(first, Message):
            first = Part([first, *self._singles()])
        self._count -= len(first)
        return first

    def _singles(self) -> Iterator[Message]:
        while self._waiting and isinstance(message := self._waiting[0], Message):
            self._waiting.popleft()
            yield message

    def put_back(self, part: Part) -> None:
        if len(part):
            self._waiting.appendleft(part)
            self._count += len(part)

    def size(self) -> int:
        """Of all payloads, in bytes."""
        return sum(
            each.size if isinstance(each, Part) else payload_bytes(each.data)
            for each in self._waiting
        )


class Keyed:
    """
    First in, first out, with places that newer messages take and lanes kept in order.

    ``_places`` is the truth: place → message, in order of arrival. A lane is a key whose
    messages leave one at a time: while one is out, the places behind it are parked.
    """

    def __init__(self) -> None:
        self._places: OrderedDict[int, tuple[Message, Keys]] = OrderedDict()
        self._next = 0
        self._place_of: dict[Hashable, int] = {}
        self._free: deque[int] = deque()
        self._parked: dict[Hashable, deque[int]] = {}
        self._out: dict[int, Hashable] = {}  # id of a message in hand -> its lane

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ready(self) -> int:
        return len(self._free)

    def push(self, message: Message, keys: Keys) -> Message | None:
        place = self._place_of.get(keys.conflation) if keys.conflation is not None else None
        if place is not None:
            replaced, old = self._places[place]
            self._places[place] = (message, Keys(keys.conflation, old.order))
            return replaced
        self._append(message, keys)
        return None

    def _append(self, message: Message, keys: Keys) -> None:
        place = self._next
        self._next += 1
        self._places[place] = (message, keys)
        if keys.conflation is not None:
            self._place_of[keys.conflation] = place
        if keys.order is None:
            self._free.append(place)
        elif keys.order in self._parked:
            self._parked[keys.order].append(place)
        else:
            self._parked[keys.order] = deque()
            self._free.append(place)

    def pop(self) -> Message | None:
        if not self._free:
            return None
        message, keys = self._take(self._free.popleft())
        if keys.order is not None:
            self._out[id(message)] = keys.order
        return message

    def _take(self, place: int) -> tuple[Message, Keys]:
        message, keys = self._places.pop(place)
        if keys.conflation is not None:
            self._place_of.pop(keys.conflation, None)
        return message, keys

    def pop_oldest(self) -> Message:
        place = next(iter(self._places))
        message, keys = self._take(place)
        parked = self._parked.get(keys.order)
        if parked and parked[0] == place:  # the oldest of all is the first of its lane
            parked.popleft()
            return message
        self._free.remove(place)
        if keys.order is not None:
            self._free_next(keys.order)
        return message

    def release(self, message: Message) -> None:
        order = self._out.pop(id(message), None)
        if order is not None:
            self._free_next(order)

    def _free_next(self, order: Hashable) -> None:
        parked = self._parked[order]
        if parked:
            self._free.append(parked.popleft())
        else:
            del self._parked[order]
