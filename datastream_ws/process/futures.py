"""Values and errors that threads and coroutines can wait for."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ..exceptions import HandlerError, NotConnectedError
from ..messages import payload_bytes

__all__ = ["ErrorBuffer", "LoopEvent", "Observable", "capped", "retrieve", "wait_for"]

T = TypeVar("T")


class Awaited(Future[T]):
    """A future for one waiter, canceled when its time limit has elapsed."""

    def result(self, timeout: float | None = None) -> T:
        """
        Return the result, and cancel the future if there is none in time.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If there is no result after *timeout* seconds.

        """
        try:
            return super().result(timeout)
        except TimeoutError:
            self.cancel()
            raise


class Observable(Generic[T]):
    """A value that any thread may read, set and wait for."""

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()
        self._waiters: list[tuple[Callable[[T], bool], Awaited[T]]] = []
        self.value = value

    def set(self, value: T) -> None:
        """Change the value, and resolve the futures that waited for such a value."""
        with self._lock:
            self.value = value
            woken = [waiter for waiter in self._waiters if waiter[0](value)]
            if woken:
                self._waiters = [waiter for waiter in self._waiters if waiter not in woken]
        for _, future in woken:
            resolve(future, value)

    def when(self, predicate: Callable[[T], bool]) -> Future[T]:
        """
        Return a future of the first value for which *predicate* is true.

        If it's true for the current value, the future is resolved immediately. *predicate* runs
        under a lock, so it must not block.
        """
        future: Awaited[T] = Awaited()
        with self._lock:
            if not predicate(self.value):
                # Remove waiters that timed out, so that polling does not grow the list.
                self._waiters = [w for w in self._waiters if not w[1].cancelled()]
                self._waiters.append((predicate, future))
                return future
            value = self.value
        resolve(future, value)
        return future


def capped(timeout: float | None) -> float | None:
    """Return a timeout that locks accept. They refuse infinity."""
    return None if timeout is None else min(timeout, threading.TIMEOUT_MAX)


def resolve(future: Future[T], value: T) -> None:
    """Set a result unless the future was canceled meanwhile."""
    if future.set_running_or_notify_cancel():
        future.set_result(value)


class LoopEvent:
    """
    An event on the loop's thread, for one waiter at a time.

    An idle client always waits for an event. With ``asyncio.wait`` that would take 1.3 KiB more,
    and the task that ``asyncio.Event`` needs for it would take a fifth of the client's memory.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def set(self, _: object = None) -> None:
        """
        Wake the waiter in the next iteration of the loop. If there is none, it has no effect.

        The loop reads once more until then, so what arrived before ``close()`` is handled.
        """
        if self._future is not None and not self._future.done():
            self._future.get_loop().call_soon(_wake, self._future)

    async def wait(self, *things: asyncio.Future[Any], timeout: float | None = None) -> None:
        """
        Wait until the event is set from now on, or one of *things* is done.

        *timeout* is in seconds. ``None`` means no limit.
        """
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, self.set)
        for thing in things:
            thing.add_done_callback(self.set)
        try:
            await self._future
        finally:
            for thing in things:
                thing.remove_done_callback(self.set)
            if timer is not None:
                timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ErrorBuffer:
    """
    A bounded buffer of the latest errors. Each reader gets all of them.

    A full buffer drops the oldest error. An error of a handler keeps its messages in memory.

    Args:
        size: Maximum number of errors in the buffer.
        size_bytes: Maximum number of bytes of payload in memory, without the latest error.
            ``None`` means no limit.

    Attributes:
        lost: How many errors were dropped before any reader got them.

    """

    def __init__(self, size: int = 1000, size_bytes: int | None = None) -> None:
        self._size = size
        self._size_bytes = float("inf") if size_bytes is None else size_bytes
        self._bytes = 0
        self._lock = threading.RLock()
        self._seen = 0  # the highest number that any reader has read
        self._count = Observable(0)  # the number of errors so far
        self._ended = False
        self.lost = 0

    @functools.cached_property
    def _errors(self) -> deque[tuple[int, BaseException]]:
        """The errors, numbered from 1. The deque is made for the first one, to save memory."""
        return deque()

    def put(self, error: BaseException) -> None:
        """Add an error, from any thread."""
        with self._lock:
            number = self._count.value + 1
            self._bytes += pinned_bytes(error)
            self._errors.append((number, error))
            while len(self._errors) > 1 and self._is_over_limit():
                self._drop_oldest()
            self._count.set(number)

    def _is_over_limit(self) -> bool:
        return len(self._errors) > self._size or self._bytes > self._size_bytes

    def _drop_oldest(self) -> None:
        number, error = self._errors.popleft()
        self._bytes -= pinned_bytes(error)
        self.lost += number > self._seen

    def end(self) -> None:
        """End the iteration of all readers once they have read everything."""
        with self._lock:
            self._ended = True
            self._count.set(self._count.value)  # wakes all readers

    def _after(self, cursor: int) -> tuple[int, list[BaseException]]:
        """Return the number of the last error, and the errors after number *cursor*."""
        # Each error has its number beside it, because another thread may put one now.
        found = [pair for pair in self._errors.copy() if pair[0] > cursor]
        last = found[-1][0] if found else cursor
        self._seen = max(self._seen, last)
        return last, [error for _, error in found]

    def read(self, timeout: float | None) -> Iterator[BaseException]:
        """
        Yield errors, blocking the calling thread while it waits.

        Args:
            timeout: Seconds without an error after which the iteration ends. ``None`` means no
                limit.

        """
        cursor = 0
        while not self._is_over(cursor):
            try:
                self._more(cursor).result(capped(timeout))
            except TimeoutError:
                return
            cursor, errors = self._after(cursor)
            while errors:  # pop each, so that none stays in memory while the reader waits
                yield errors.pop(0)

    def _is_over(self, cursor: int) -> bool:
        return self._ended and cursor >= self._count.value

    def _more(self, cursor: int) -> Future[int]:
        return self._count.when(lambda count: count > cursor or self._ended)

    async def read_async(self, timeout: float | None) -> AsyncIterator[BaseException]:
        """Yield errors in a coroutine. It behaves as :meth:`read` but does not block the loop."""
        cursor = 0
        while not self._is_over(cursor):
            try:
                await wait_for(self._more(cursor), timeout)
            except TimeoutError:
                return
            cursor, errors = self._after(cursor)
            while errors:
                yield errors.pop(0)


def pinned_bytes(error: BaseException) -> int:
    """Return how many bytes of payload an error keeps in memory."""
    messages = error.messages if isinstance(error, HandlerError) else ()
    return sum(payload_bytes(message.data) for message in messages)


async def wait_for(future: Future[T], timeout: float | None, end: Future[None] | None = None) -> T:
    """
    Wait for *future* in a coroutine.

    A waiter that times out or is canceled does not cancel the future of the other waiters.

    Args:
        future: The future of a thread.
        timeout: Seconds to wait. ``None`` means no limit.
        end: Resolved when no result can follow. ``None`` means that a result always follows.

    Raises:
        TimeoutError: If there is no result after *timeout* seconds.
        NotConnectedError: If *end* was resolved first.

    """
    if future.done():  # a timeout of 0 must not hide the result
        return future.result()
    waits = [_for_one_waiter(each) for each in (future, end) if each is not None]
    try:
        wrapped = [asyncio.wrap_future(each) for each in waits]
        await asyncio.wait(wrapped, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if end is not None and end.done():
            raise NotConnectedError("the client closed meanwhile")
        raise TimeoutError
    finally:
        for each in waits:
            each.cancel()


def _for_one_waiter(future: Future[Any]) -> Future[Any]:
    """
    Return a future that resolves with *future*, and that its waiter may cancel.

    A callback of *future* itself could not be removed, and would keep the waiter's loop in memory.
    """
    if isinstance(future, Awaited):
        return future
    is_done: Observable[bool] | None = getattr(future, "_datastream_done", None)
    if is_done is None:
        is_done = Observable(False)
        future.add_done_callback(lambda _: is_done.set(True))
        future._datastream_done = is_done  # type: ignore[attr-defined]
    return is_done.when(bool)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future or task, because asyncio logs it if no waiter does."""
    if not future.cancelled():
        future.exception()
