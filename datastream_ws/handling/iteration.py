"""Deliver the messages of a stream through ``async for`` instead of handlers."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from ..exceptions import ConfigurationError
from ..messages import Message
from .inbox import Inbox, Portion

__all__ = ["Iteration", "Messages"]


class Iteration:
    """
    The source of all iterators during one ``start()``; used on the loop's thread.

    Args:
        is_open: Whether messages may be handed out.
        on_room: Called when reading may resume.
        on_change: Called when a message is done, or an iterator has been deleted.

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
        self._left: list[Portion] = []  # portions of deleted iterators
        self._notes_end = False  # whether iterators are woken at the end of the client

    @functools.cached_property
    def _arrival(self) -> asyncio.Event:
        return asyncio.Event()

    @property
    def is_used(self) -> bool:
        """Whether there is an iterator. Reading it is thread-safe and takes no lock."""
        return any(reference() is not None for reference in self._iterators)

    def begin(self, iterator: Messages, finished: Future[None]) -> None:
        """
        Register an iterator, which ends when *finished* is done.

        Other iterators give their portions back, so that all of them take turns.

        Raises:
            ConfigurationError: On another event loop than the client's.

        """
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "async for: the client runs on another event loop. Iterate on the loop that "
                "started it, or use on_message handlers."
            )
        there = [reference for reference in self._iterators if reference() is not None]
        for reference in there:
            if (other := reference()) is not None:
                other.share()
        self._iterators = [*there, weakref.ref(iterator)]
        if not self._notes_end:  # once, because a program may make an iterator for each message
            self._notes_end = True
            finished.add_done_callback(lambda _: self._soon(self.note_arrival))

    def leave(self) -> None:
        """End the iterators of the current task, which will wait for the end of the client."""
        task = asyncio.current_task()
        iterators = [(reference, reference()) for reference in self._iterators]
        for reference, iterator in iterators:
            if iterator is not None and iterator.task() is task:
                self._iterators.remove(reference)
                iterator.leave(self)

    def note_arrival(self) -> None:
        """Wake all iterators that wait."""
        self._arrival.set()

    async def arrivals(self) -> None:
        """Wait until there may be messages, or until the stream has ended."""
        self._arrival.clear()
        if not (self._inbox.ready and self.is_open()):
            await self._arrival.wait()

    def take(self) -> Portion | None:
        """Take messages for the only iterator. ``None`` means that :meth:`pop` is to be used."""
        self._settle_left()
        there = sum(reference() is not None for reference in self._iterators)
        return self._inbox.pop_many() if there == 1 and self.is_open() else None

    def settle(self, portion: Portion) -> None:
        """Count the handled messages of a portion, and take the rest back."""
        if self._inbox.settle(portion):
            self._on_room()
        self._on_change()

    def pop(self) -> Message | None:
        """Return the next message. ``None`` means that none is ready or the gate is closed."""
        return self._inbox.pop() if self.is_open() else None

    def done(self, message: Message) -> None:
        """Count a popped message as handled."""
        if self._inbox.done(message):
            self._on_room()
        self._on_change()

    def end(self, message: Message | None, portion: Portion | None = None) -> None:
        """
        Account for a deleted iterator. Its message counts as handled, and the rest goes back.

        A finalizer calls this, possibly on a thread that already holds the inbox's lock. It must
        not wait for any lock, so the loop's thread does the work.

        Args:
            message: The popped message that is being handled, if any.
            portion: The portion that is being handled, if any.

        """
        if message is not None:
            self._inbox.finished.append(message)
        if portion is not None:
            portion.in_hand = None  # it counts as handled, as a popped message does
            self._left.append(portion)
        self._soon(self._look)

    def _soon(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(function)

    def _settle_left(self) -> None:
        """Take back the portions of deleted iterators, so that their messages come first again."""
        while self._left:
            self.settle(self._left.pop())

    def _look(self) -> None:
        self._settle_left()
        self._inbox.settle_finished()
        self._on_room()  # reading may have stopped because that iterator did not take messages
        self._on_change()


class Messages:
    """
    An asynchronous iterator over a client's messages.

    A message counts as handled once the next one is requested. Used on the loop's thread.

    Args:
        running: Returns the client's iteration, and the future that is done when the client has
            finished. Raises if the client is not running.
        raise_if_failed: Raises the client's error, if it has failed.

    Attributes:
        task: Returns the task that iterates, or ``None``. A strong reference would be a cycle.

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
        self._message: Message | None = None  # the popped message that is being handled
        self._portion: Portion | None = None
        self.task: Callable[[], asyncio.Task[object] | None] = lambda: None

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
        self.task = weakref.ref(asyncio.current_task())
        self.leave(iteration)
        while (message := self._taken(iteration)) is None:
            if finished.done():
                self._raise_if_failed()
                raise StopAsyncIteration
            await iteration.arrivals()
        return message

    def leave(self, iteration: Iteration) -> None:
        """Count the current message as handled, and give back those not begun yet."""
        message, self._message = self._message, None
        if message is not None:
            iteration.done(message)
        if self._portion is not None:
            self._portion.in_hand = None
            self.share()

    def _taken(self, iteration: Iteration) -> Message | None:
        """Return the next message, from a new portion if this is the only iterator."""
        self._portion = portion = iteration.take()
        if portion is None:
            self._message = iteration.pop()
            return self._message
        portion.in_hand = portion.left.popleft()
        return portion.in_hand

    def share(self) -> None:
        """Give back the messages not begun yet, so that other iterators can take them."""
        portion, self._portion = self._portion, None
        if portion is not None and self._begun is not None:
            self._message = portion.in_hand  # it counts as popped from now on
            self._begun[0].settle(portion)

    def _begin(self) -> tuple[Iteration, Future[None]]:
        iteration, finished = self._running()
        self._is_open = iteration.is_open
        iteration.begin(self, finished)
        self._begun = iteration, finished
        return self._begun

    def __del__(self) -> None:
        if self._begun is not None:
            self._begun[0].end(self._message, self._portion)
