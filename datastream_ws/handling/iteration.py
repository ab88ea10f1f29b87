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
from .inbox import Inbox

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
        self._is_open = is_open
        self._on_room = on_room
        self._on_change = on_change
        self._iterators: list[weakref.ref[Messages]] = []

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
        self._iterators = [*there, weakref.ref(iterator)]
        finished.add_done_callback(lambda _: self._soon(self.note_arrival))

    def note_arrival(self) -> None:
        """Have the iterators look again."""
        self._arrival.set()

    async def arrivals(self) -> None:
        """Wait until there may be messages, or the end."""
        self._arrival.clear()
        if not (self._inbox.ready and self._is_open()):
            await self._arrival.wait()

    def pop(self) -> Message | None:
        """Return the next message, if there is one and it may be handed on."""
        return self._inbox.pop() if self._is_open() else None

    def done(self, message: Message) -> None:
        """A message that was popped is handled."""
        if self._inbox.done(message):
            self._on_room()
        self._on_change()

    def end(self, message: Message | None) -> None:
        """
        An iterator is gone; *message* was in its hand.

        Called by a finalizer, which may run on any thread, also in one that holds the inbox's
        lock: nothing here waits for one.
        """
        if message is not None:
            self._inbox.finished.append(message)
        self._soon(self._look)

    def _soon(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _look(self) -> None:
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
        self._begun: tuple[Iteration, Future[None]] | None = None
        self._message: Message | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        iteration, finished = self._begun or self._begin()
        if (message := self._message) is not None:
            self._message = None
            iteration.done(message)
        while (message := iteration.pop()) is None:
            if finished.done():
                self._raise_if_failed()
                raise StopAsyncIteration
            await iteration.arrivals()
        self._message = message
        return message

    def _begin(self) -> tuple[Iteration, Future[None]]:
        iteration, finished = self._begun = self._running()
        iteration.begin(self, finished)
        return iteration, finished

    def __del__(self) -> None:
        if self._begun is not None:
            self._begun[0].end(self._message)
