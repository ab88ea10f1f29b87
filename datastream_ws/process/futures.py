"""One way to wait for a fact, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["ErrorBuffer", "LoopEvent", "Observable"]

T = TypeVar("T")


class Awaited(Future[T]):
    """A future for one waiter, who forgets it when time is up."""

    def result(self, timeout: float | None = None) -> T:
        """Return the result; TimeoutError after *timeout* seconds, and never later."""
        try:
            return super().result(timeout)
        except TimeoutError:
            self.cancel()
            raise


class Observable(Generic[T]):
    """A value that may be read, and waited for, from any thread."""

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()
        self._waiters: list[tuple[Callable[[T], bool], Awaited[T]]] = []
        self.value = value

    def set(self, value: T) -> None:
        """Change the value and wake whoever waited for such a one."""
        with self._lock:
            self.value = value
            woken = [waiter for waiter in self._waiters if waiter[0](value)]
            if woken:
                self._waiters = [waiter for waiter in self._waiters if waiter not in woken]
        for _, future in woken:
            resolve(future, value)

    def when(self, predicate: Callable[[T], bool]) -> Future[T]:
        """Return a future of the first value, from now on, for which *predicate* holds."""
        future: Awaited[T] = Awaited()
        with self._lock:
            if not predicate(self.value):
                # Whoever asks again and again, with a timeout, leaves nothing behind.
                self._waiters = [w for w in self._waiters if not w[1].cancelled()]
                self._waiters.append((predicate, future))
                return future
            value = self.value
        resolve(future, value)
        return future


def resolve(future: Future[T], value: T) -> None:
    """Set a result unless the future was cancelled meanwhile."""
    if future.set_running_or_notify_cancel():
        future.set_result(value)


class LoopEvent:
    """
    An event on the loop's thread that is waited for as a future, not as a coroutine in a task.

    An idle client waits for one all its life; a task for it would be a fifth of its memory.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def wait(self) -> asyncio.Future[None]:
        """Return a future of the event; the same one for all who wait at the time."""
        future = self._future
        if future is None or future.done():
            future = self._future = asyncio.get_running_loop().create_future()
            if self._is_set:
                future.set_result(None)
        return future


class ErrorBuffer(Generic[T]):
    """
    The latest values, for readers that each see all of them; bounded.

    When nobody reads, the oldest go; ``lost`` counts those that no reader ever saw.
    """

    def __init__(self, size: int = 1000) -> None:
        self._size = size
        self._seen = 0  # up to which number some reader has read
        self._count: Observable[tuple[int, bool]] = Observable((0, False))
        self.lost = 0

    @functools.cached_property
    def _values(self) -> deque[tuple[int, T]]:
        """Numbered from 1. Made at need: it takes room, and all may go well."""
        return deque(maxlen=self._size)

    def put(self, value: T) -> None:
        """Add a value; from one thread at a time."""
        number, ended = self._count.value
        if len(self._values) == self._values.maxlen and self._values[0][0] > self._seen:
            self.lost += 1
        self._values.append((number + 1, value))
        self._count.set((number + 1, ended))

    def end(self) -> None:
        """Let the readers stop once they have read everything."""
        self._count.set((self._count.value[0], True))

    def _after(self, cursor: int) -> tuple[int, list[T]]:
        """Return the values since number *cursor*, and the number of the last one."""
        # The numbers are with the values, as a value may be put while this looks at them.
        found = [pair for pair in self._values.copy() if pair[0] > cursor]
        last = found[-1][0] if found else cursor
        self._seen = max(self._seen, last)
        return last, [value for _, value in found]

    def read(self, timeout: float | None) -> Iterator[T]:
        """Yield values in the calling thread until the end, or *timeout* seconds without one."""
        cursor = 0
        while True:
            try:
                _, ended = self._more(cursor).result(timeout)
            except TimeoutError:
                return
            cursor, values = self._after(cursor)
            yield from values
            if ended and cursor >= self._count.value[0]:
                return

    def _more(self, cursor: int) -> Future[tuple[int, bool]]:
        return self._count.when(lambda state: state[0] > cursor or state[1])

    async def read_async(self, timeout: float | None) -> AsyncIterator[T]:
        """Yield values in a coroutine, as :meth:`read` does in a thread."""
        cursor = 0
        while True:
            try:
                _, ended = await wait_for(self._more(cursor), timeout)
            except TimeoutError:
                return
            cursor, values = self._after(cursor)
            for value in values:
                yield value
            if ended and cursor >= self._count.value[0]:
                return


async def wait_for(future: Future[T], timeout: float | None) -> T:
    """
    Wait for *future* in a coroutine; raise TimeoutError after *timeout* seconds.

    Nobody who gives up, or is cancelled, takes the future from the others who wait for it.
    """
    if isinstance(future, Awaited):
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(future)
    wrapped = _on_this_loop(future)
    done, _ = await asyncio.wait([wrapped], timeout=timeout)
    if not done:
        raise TimeoutError
    return wrapped.result()


def _on_this_loop(future: Future[T]) -> asyncio.Future[T]:
    """Wrap a future once, however often it is waited for: its callbacks cannot be removed."""
    wrapped: asyncio.Future[T] | None = getattr(future, "_datastream_wrapped", None)
    if wrapped is None or wrapped.get_loop() is not asyncio.get_running_loop():
        wrapped = asyncio.wrap_future(future)
        wrapped.add_done_callback(_retrieve)
        future._datastream_wrapped = wrapped  # type: ignore[attr-defined]
    return wrapped


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining where everybody has given up."""
    if not future.cancelled():
        future.exception()
