"""How a worker that calls one handler after the other takes messages out of an inbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .messages import Message

if TYPE_CHECKING:
    from .inbox import Inbox

__all__ = ["Popping", "Stretch"]

NO_END = 2**63


class Stretch:
    """
    Leave to take messages without the inbox's lock, see :meth:`Inbox.stretch`.

    Attributes:
        pop: Returns the next message; raises IndexError when there is none. Atomic.
        most: How many to take at most.
        handled: To be raised after each message.
        is_over: Somebody waits for what has been handled to be counted: :meth:`end` it.

    """

    __slots__ = ("_inbox", "counted", "handled", "is_over", "most", "pop")

    def __init__(self, inbox: Inbox, pop: Callable[[], Message], most: int) -> None:
        self._inbox = inbox
        self.pop = pop
        self.most = most
        self.handled = self.counted = 0
        self.is_over = False

    def end(self, in_hand: Message | None = None) -> bool:
        """Count; return whether reading may resume. *in_hand* was taken and is not done yet."""
        return self._inbox.end_stretch(in_hand)


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
