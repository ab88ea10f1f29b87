"""How a worker that calls one handler after the other takes messages out of an inbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import length_hint
from typing import TYPE_CHECKING, Any

from ..messages import Message, payload_bytes
from .parcel import Parcel

if TYPE_CHECKING:
    from .inbox import Inbox

__all__ = ["Part", "Popping", "Stretch", "size_of"]

NO_END = 2**63


class Part:
    """Messages that are taken one after the other; how many are left is known at any time."""

    __slots__ = ("_given", "_left", "messages")

    def __init__(self, given: Sequence[Message]) -> None:
        self._given = given
        self._left: Iterator[Any]
        self.messages: Iterator[Message]
        if isinstance(given, Parcel):
            self._left = given.payloads()
            self.messages = given.made_of(self._left)
        else:
            self._left = self.messages = iter(given)

    def __len__(self) -> int:
        return length_hint(self._left)

    @property
    def size(self) -> int:
        """Of the payloads that are left, in bytes."""
        return size_of(self._given[len(self._given) - len(self) :])

    def cut(self) -> int:
        """
        Let nobody take any more; return how many were left.

        Needs no lock: CPython does not change threads within list().
        """
        return len(list(self._left))

    def cut_off(self) -> tuple[Message | None, Sequence[Message]]:
        """As :meth:`cut`; return the message that was taken last, and those that were left."""
        taken = len(self._given) - self.cut()
        return self._given[taken - 1] if taken else None, self._given[taken:]


def size_of(messages: Sequence[Message]) -> int:
    """Return the size of all payloads, in bytes."""
    if isinstance(messages, Parcel):
        return messages.size
    return sum([payload_bytes(message.data) for message in messages])


class Stretch:
    """
    Leave to take messages without the inbox's lock, see :meth:`Inbox.stretch`.

    Attributes:
        messages: To be taken.
        most: How many to take at most.
        handled: To be set after each message, to how many it were.
        is_over: Somebody waits for what has been handled to be counted: :meth:`end` it.
        part: What *messages* come from at the moment.

    """

    __slots__ = ("_inbox", "counted", "handled", "is_over", "messages", "most", "part")

    def __init__(self, inbox: Inbox, most: int) -> None:
        self._inbox = inbox
        self.messages = chain.from_iterable(iter(self._next, None))
        self.most = most
        self.handled = self.counted = 0
        self.is_over = False
        self.part = Part([])

    def _next(self) -> Iterator[Message] | None:
        return self._inbox.next_messages(self)

    def end(self, in_hand: Message | None = None) -> bool:
        """Count; return whether reading may resume. *in_hand* was taken and is not done yet."""
        return self._inbox.end_stretch(self, in_hand)


class Popping:
    """The same with the lock, and a *gate* that is looked at before each message."""

    most = NO_END
    is_over = False
    handled = 0

    def __init__(self, inbox: Inbox, gate: Callable[[], bool], on_room: Callable[[], None]) -> None:
        self._inbox = inbox
        self._gate = gate
        self._on_room = on_room
        self._message: Message | None = None
        self.messages = iter(self.pop, None)

    def pop(self) -> Message | None:
        """Count the last message as handled, return the next one."""
        last, room = self._message, False
        if not self._gate():
            self._message = None
            room = last is not None and self._inbox.done(last)
        elif last is None:
            self._message = self._inbox.pop()
        else:
            self._message, room = self._inbox.pop_after(last)
        if room:
            self._on_room()
        return self._message

    def end(self, in_hand: Message | None = None) -> bool:
        last, self._message = self._message, None
        return last is not None and last is not in_hand and self._inbox.done(last)
