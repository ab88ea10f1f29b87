"""
Order waiting messages: first in, first out, or in lanes by key.

A store has no lock. :class:`~.inbox.Inbox` calls it under its own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..messages import Message, memory_bytes
from .lazy_messages import LazyMessages

__all__ = ["NO_KEYS", "Fifo", "Keyed", "Keys", "Store", "size_of"]


class Store(Protocol):
    """The order in which messages leave an inbox."""

    def __len__(self) -> int: ...

    @property
    def ready(self) -> int: ...

    def push(self, message: Message, keys: Keys) -> Message | None:
        """Add a message; return the message that it replaced, if any."""

    def has_place(self, keys: Keys) -> bool:
        """Return whether a message with these keys would replace a waiting one."""
        ...

    def pop(self) -> Message | None: ...
    def pop_oldest(self) -> Message: ...
    def oldest(self) -> Message | None: ...
    def release(self, message: Message) -> None: ...


@dataclass(frozen=True, slots=True)
class Keys:
    """The conflation key and the ordering key of a message. ``None`` means no key."""

    conflation: Hashable = None
    order: Hashable = None


NO_KEYS = Keys()


def size_of(messages: Sequence[Message]) -> int:
    """Return the bytes of memory that messages use while they wait."""
    if isinstance(messages, LazyMessages):
        return messages.memory
    return sum([memory_bytes(message.data) for message in messages])


class Part:
    """Messages of a read that were put in together. The last *left* of them are still waiting."""

    __slots__ = ("_given", "_size", "left")

    def __init__(self, given: LazyMessages) -> None:
        self._given = given
        self._size = self.left = len(given)

    def take(self, most: int) -> list[Message]:
        start = self._size - self.left
        stop = min(start + most, self._size)
        self.left -= stop - start
        return self._given.made(start, stop)  # created only now

    @property
    def rest(self) -> Sequence[Message]:
        return self._given[self._size - self.left :]


class Fifo:
    """A first-in-first-out queue of single messages and of parts."""

    def __init__(self) -> None:
        self._waiting: deque[Message | Part] | None = None  # only while there is something
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def ready(self) -> int:
        return self._count

    def _queue(self) -> deque[Message | Part]:
        """Return the queue. An empty one would take 760 bytes of each idle client."""
        if self._waiting is None:
            self._waiting = deque()
        return self._waiting

    def _took(self, messages: int) -> None:
        self._count -= messages
        if not self._count:
            self._waiting = None

    def push(self, message: Message, keys: Keys = NO_KEYS) -> None:
        self._queue().append(message)
        self._count += 1

    def extend(self, messages: Sequence[Message]) -> None:
        """Add messages as the newest ones."""
        size = len(messages)
        if size and isinstance(messages, LazyMessages):
            self._queue().append(Part(messages))
        elif size:
            # A part would keep the handled ones, with what was decoded, until its last is taken.
            self._queue().extend(messages)
        self._count += size

    def has_place(self, keys: Keys) -> bool:
        return False

    def pop(self) -> Message | None:
        waiting = self._waiting
        if not waiting:
            return None
        first = waiting[0]
        if isinstance(first, Message):
            waiting.popleft()
            self._took(1)
            return first
        [message] = first.take(1)
        if not first.left:
            waiting.popleft()
        self._took(1)
        return message

    def pop_many(self, most: int) -> list[Message]:
        """Remove and return up to *most* of the oldest messages."""
        taken: list[Message] = []
        waiting = self._waiting
        while waiting and (room := most - len(taken)) > 0:
            first = waiting[0]
            if isinstance(first, Message):
                taken.append(first)
                waiting.popleft()
                continue
            taken += first.take(room)
            if not first.left:
                waiting.popleft()
        self._took(len(taken))
        return taken

    def pop_oldest(self) -> Message:
        message = self.pop()
        if message is None:
            raise IndexError("empty")
        return message

    def oldest(self) -> Message | None:
        if not self._waiting:
            return None
        first = self._waiting[0]
        return first if isinstance(first, Message) else first.rest[0]

    def release(self, message: Message) -> None:
        pass

    def give_back(self, messages: Sequence[Message]) -> None:
        """Put messages back that were taken too early, as the oldest ones."""
        if size := len(messages):
            self._queue().extendleft(reversed(messages))
            self._count += size

    @property
    def size(self) -> int:
        """The bytes of memory that the waiting messages use."""
        return sum(
            memory_bytes(each.data) if isinstance(each, Message) else size_of(each.rest)
            for each in self._waiting or ()
        )


class Keyed:
    """
    A first-in-first-out queue with conflation and with lanes kept in order.

    A place is a position in the order of arrival. ``_places`` maps each place to its message. With
    conflation, a newer message takes over the place of the older one with the same key.

    A lane consists of the messages with the same ordering key. They leave one at a time. While one
    is being handled, the places behind it are parked.
    """

    def __init__(self) -> None:
        self._places: OrderedDict[int, tuple[Message, Keys]] = OrderedDict()
        self._next = 0
        self._place_of: dict[Hashable, int] = {}
        self._free: deque[int] = deque()
        self._parked: dict[Hashable, deque[int]] = {}
        self._out: dict[int, Hashable] = {}  # lanes by id(message being handled)

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

    def has_place(self, keys: Keys) -> bool:
        return keys.conflation is not None and keys.conflation in self._place_of

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
        if parked and parked[0] == place:  # parked places are in order, so it is the first
            parked.popleft()
            return message
        self._free.remove(place)
        if keys.order is not None:
            self._free_next(keys.order)
        return message

    def oldest(self) -> Message | None:
        return next(iter(self._places.values()))[0] if self._places else None

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
