"""Ways to wait for a fact, for threads and for coroutines; errors that can be waited for."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ..exceptions import HandlerError
from ..messages import payload_bytes

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


class ErrorBuffer:
    """
    The latest errors, for readers that each see all of them; bounded.

    When nobody reads, the oldest go; ``lost`` counts those that no reader ever saw.

    Args:
        size: Most errors that are kept.
        size_bytes: Most bytes of payload that they keep in memory, the latest error's aside;
            ``None``: no limit. An error of a handler has its messages with it.

    """

    def __init__(self, size: int = 1000, size_bytes: int | None = None) -> None:
        self._size = size
        self._size_bytes = float("inf") if size_bytes is None else size_bytes
        self._bytes = 0
        self._seen = 0  # up to which number some reader has read
        self._count: Observable[tuple[int, bool]] = Observable((0, False))
        self.lost = 0

    @functools.cached_property
    def _errors(self) -> deque[tuple[int, BaseException]]:
        """Numbered from 1. Made at need: it takes room, and all may go well."""
        return deque()

    def put(self, error: BaseException) -> None:
        """Add an error; from one thread at a time."""
        number, ended = self._count.value
        self._bytes += pinned_bytes(error)
        self._errors.append((number + 1, error))
        while len(self._errors) > 1 and self._is_over_limit():
            self._drop_oldest()
        self._count.set((number + 1, ended))

    def _is_over_limit(self) -> bool:
        return len(self._errors) > self._size or self._bytes > self._size_bytes

    def _drop_oldest(self) -> None:
        number, error = self._errors.popleft()
        self._bytes -= pinned_bytes(error)
        self.lost += number > self._seen

    def end(self) -> None:
        """Let the readers stop once they have read everything."""
        self._count.set((self._count.value[0], True))

    def _after(self, cursor: int) -> tuple[int, list[BaseException]]:
        """Return the errors since number *cursor*, and the number of the last one."""
        # The numbers are with the errors, as one may be put while this looks at them.
        found = [pair for pair in self._errors.copy() if pair[0] > cursor]
        last = found[-1][0] if found else cursor
        self._seen = max(self._seen, last)
        return last, [error for _, error in found]

    def read(self, timeout: float | None) -> Iterator[BaseException]:
        """Yield errors in the calling thread until the end, or *timeout* seconds without one."""
        cursor = 0
        while True:
            try:
                _, ended = self._more(cursor).result(timeout)
            except TimeoutError:
                return
            cursor, errors = self._after(cursor)
            while errors:  # by and by: none stays in memory while the next one is waited for
                yield errors.pop(0)
            if ended and cursor >= self._count.value[0]:
                return

    def _more(self, cursor: int) -> Future[tuple[int, bool]]:
        return self._count.when(lambda state: state[0] > cursor or state[1])

    async def read_async(self, timeout: float | None) -> AsyncIterator[BaseException]:
        """Yield errors in a coroutine, as :meth:`read` does in a thread."""
        cursor = 0
        while True:
            try:
                _, ended = await wait_for(self._more(cursor), timeout)
            except TimeoutError:
                return
            cursor, errors = self._after(cursor)
            while errors:
                yield errors.pop(0)
            if ended and cursor >= self._count.value[0]:
                return


def pinned_bytes(error: BaseException) -> int:
    """Return how many bytes of payload stay in memory with an error."""
    messages = error.messages if isinstance(error, HandlerError) else ()
    return sum(payload_bytes(message.data) for message in messages)


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
