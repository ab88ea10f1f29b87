"""The messages of a stream by ``async for``, in the place of handlers."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from ..messages import Message
from .inbox import Inbox, Portion

__all__ = ["Iteration", "Messages"]


class Iteration:
    """
    Where iterators take the messages of one ``start()`` from; on the loop's thread.

    Args:
        is_open: Whether messages may be handed on.
        on_change: Called when a message is done, or an iterator is gone.

    """

    def __init__(
        self,
        inbox: Inbox,
        loop: asyncio.AbstractEventLoop,
        is_open: Callable[[], bool],
        on_room: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._loop = loop
        self.is_open = is_open
        self._on_room = on_room
        self._on_change = on_change
        self._iterators: list[weakref.ref[Messages]] = []
        self._left: list[Portion] = []  # by iterators that are gone

    @functools.cached_property
    def _arrival(self) -> asyncio.Event:
        return asyncio.Event()

    @property
    def is_used(self) -> bool:
        """Whether there is an iterator; from any thread, also where a lock is held."""
        return any(reference() is not None for reference in self._iterators)

    def begin(self, iterator: Messages, finished: Future[None]) -> None:
        """Messages are taken by *iterator* from here on, until the client has *finished*."""
        there = [reference for reference in self._iterators if reference() is not None]
        for reference in there:
            if (other := reference()) is not None:
                other.share()
        self._iterators = [*there, weakref.ref(iterator)]
        finished.add_done_callback(lambda _: self._soon(self.note_arrival))

    def note_arrival(self) -> None:
        """Have the iterators look again."""
        self._arrival.set()

    async def arrivals(self) -> None:
        """Wait until there may be messages, or the end."""
        self._arrival.clear()
        if not (self._inbox.ready and self.is_open()):
            await self._arrival.wait()

    def take(self) -> Portion | None:
        """Return messages for the only iterator there is; ``None``: they are to be popped."""
        self._settle_left()
        there = sum(reference() is not None for reference in self._iterators)
        return self._inbox.pop_many() if there == 1 and self.is_open() else None

    def settle(self, portion: Portion) -> None:
        """Count what is handled of a portion, take the rest back."""
        if self._inbox.settle(portion):
            self._on_room()
        self._on_change()

    def pop(self) -> Message | None:
        """Return the next message, if there is one and it may be handed on."""
        return self._inbox.pop() if self.is_open() else None

    def done(self, message: Message) -> None:
        """A message that was popped is handled."""
        if self._inbox.done(message):
            self._on_room()
        self._on_change()

    def end(self, message: Message | None, portion: Portion | None = None) -> None:
        """
        An iterator is gone; *message* was in its hand, or that of *portion*.

        Called by a finalizer, which may run on any thread, also in one that holds the inbox's
        lock: nothing here waits for one.
        """
        if message is not None:
            self._inbox.finished.append(message)
        if portion is not None:
            portion.in_hand = None  # handled, like a message that was popped
            self._left.append(portion)
        self._soon(self._look)

    def _soon(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _settle_left(self) -> None:
        """What iterators that are gone had not begun with is for the next one, and comes first."""
        while self._left:
            self.settle(self._left.pop())

    def _look(self) -> None:
        self._settle_left()
        self._inbox.settle_finished()
        self._on_room()  # reading may have stopped for an iterator that is not there any more
        self._on_change()


class Messages:
    """
    The messages of a client, one at a time; each is handled once the next is asked for.

    Args:
        running: Returns the iteration of the client and what is done when it has finished;
            raises if it is not running.
        raise_if_failed: Raises the client's error, if it has failed.

    """

    def __init__(
        self,
        running: Callable[[], tuple[Iteration, Future[None]]],
        raise_if_failed: Callable[[], None],
    ) -> None:
        self._running = running
        self._raise_if_failed = raise_if_failed
        self._is_open: Callable[[], bool]
        self._begun: tuple[Iteration, Future[None]] | None = None
        self._message: Message | None = None  # popped, and in hand
        self._portion: Portion | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        portion = self._portion
        if portion is not None and self._is_open():
            with suppress(IndexError):
                message = portion.in_hand = portion.left.popleft()
                return message
        return await self._next()

    async def _next(self) -> Message:
        iteration, finished = self._begun or self._begin()
        self._finish(iteration)
        while (message := self._taken(iteration)) is None:
            if finished.done():
                self._raise_if_failed()
                raise StopAsyncIteration
            await iteration.arrivals()
        return message

    def _finish(self, iteration: Iteration) -> None:
        """The message in hand is handled."""
        message, self._message = self._message, None
        if message is not None:
            iteration.done(message)
        if self._portion is not None:
            self._portion.in_hand = None
            self.share()

    def _taken(self, iteration: Iteration) -> Message | None:
        """Return the next message, of a new portion where there may be one."""
        self._portion = portion = iteration.take()
        if portion is None:
            self._message = iteration.pop()
            return self._message
        portion.in_hand = portion.left.popleft()
        return portion.in_hand

    def share(self) -> None:
        """Give back what has not been begun with; another is to have its part of it."""
        portion, self._portion = self._portion, None
        if portion is not None and self._begun is not None:
            self._message = portion.in_hand  # as if it had been popped
            self._begun[0].settle(portion)

    def _begin(self) -> tuple[Iteration, Future[None]]:
        iteration, finished = self._begun = self._running()
        self._is_open = iteration.is_open
        iteration.begin(self, finished)
        return iteration, finished

    def __del__(self) -> None:
        if self._begun is not None:
            self._begun[0].end(self._message, self._portion)
