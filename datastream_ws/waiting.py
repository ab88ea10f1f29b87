"""One way to wait for a fact, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Box", "Feed"]

T = TypeVar("T")


class Box(Generic[T]):
    """A value that may be read, and waited for, from any thread."""

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()
        self._waiters: list[tuple[Callable[[T], bool], Future[T]]] = []
        self.value = value

    def set(self, value: T) -> None:
        """Change the value and wake whoever waited for such a one."""
        with self._lock:
            self.value = value
            woken = [waiter for waiter in self._waiters if waiter[0](value)]
            self._waiters = [w for w in self._waiters if w not in woken and not w[1].cancelled()]
        for _, future in woken:
            resolve(future, value)

    def when(self, predicate: Callable[[T], bool]) -> Future[T]:
        """Return a future of the first value, from now on, for which *predicate* holds."""
        future: Future[T] = Future()
        with self._lock:
            if not predicate(self.value):
                self._waiters.append((predicate, future))
                return future
            value = self.value
        resolve(future, value)
        return future


def resolve(future: Future[T], value: T) -> None:
    """Set a result unless the future was cancelled meanwhile."""
    if future.set_running_or_notify_cancel():
        future.set_result(value)


class Feed(Generic[T]):
    """
    The latest values, for readers that each see all of them; bounded.

    When nobody reads, the oldest go; ``lost`` counts those that no reader ever saw.
    """

    def __init__(self, size: int = 1000) -> None:
        self._values: deque[T] = deque(maxlen=size)
        self._seen = 0  # up to which number some reader has read
        self._count: Box[tuple[int, bool]] = Box((0, False))
        self.lost = 0

    def put(self, value: T) -> None:
        """Add a value; from one thread at a time."""
        number, ended = self._count.value
        oldest = number - len(self._values)
        if len(self._values) == self._values.maxlen and oldest >= self._seen:
            self.lost += 1
        self._values.append(value)
        self._count.set((number + 1, ended))

    def end(self) -> None:
        """Let the readers stop once they have read everything."""
        self._count.set((self._count.value[0], True))

    def _after(self, cursor: int) -> tuple[int, list[T]]:
        number = self._count.value[0]
        values = list(self._values)
        values = values[max(0, len(values) - (number - cursor)) :]
        self._seen = max(self._seen, number)
        return number, values

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
            if ended and cursor == self._count.value[0]:
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
            if ended and cursor == self._count.value[0]:
                return


async def wait_for(future: Future[T], timeout: float | None) -> T:
    """Wait for *future* in a coroutine; raise TimeoutError after *timeout* seconds."""
    async with asyncio.timeout(timeout):
        return await asyncio.wrap_future(future)
