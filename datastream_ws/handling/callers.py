"""
How a handler is called: the contexts entered around it, in a thread or on the loop.

The steps are coroutines written once. On the loop they are awaited. In a thread
:func:`drive` runs them to their end in one go: there, whatever they await has already
happened when it returns (a plain handler, a blocking wait for a coroutine handler).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

__all__ = ["Caller", "InlineCaller", "LoopCaller", "ThreadCaller", "drive"]


T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a step for threads waited for the event loop")


class Caller(Protocol):
    """Where handlers are called."""

    on_loop: bool

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run the coroutine that *make* returns on an event loop; return its result."""

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a synchronous function on a thread that it may block."""

    async def sleep(self, seconds: float) -> bool:
        """Wait; return False at once when the dispatcher stops."""
        ...


class LoopCaller:
    """In a task on the client's loop."""

    on_loop = True

    def __init__(self, stopped: asyncio.Event) -> None:
        self._stopped = stopped

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await make()

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)

    async def sleep(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False


class ThreadCaller:
    """In a handler thread; coroutine handlers run on the client's loop meanwhile."""

    on_loop = False

    def __init__(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        self._loop = loop
        self._stopped = stopped
        self._waiting: Future[Any] | None = None
        self.is_postponing = False  # it sleeps with a message, or was told to stop meanwhile

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        # The thread's context goes along: what its contexts have set is seen by the coroutine.
        self._waiting = waiting = asyncio.run_coroutine_threadsafe(make(), self._loop)
        if self._stopped.is_set():  # cancel() may have come a moment before there was one
            waiting.cancel()
        try:
            return waiting.result()
        finally:
            self._waiting = None

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def sleep(self, seconds: float) -> bool:
        self.is_postponing = True
        if self._stopped.wait(seconds):
            return False
        self.is_postponing = False
        return True

    def cancel(self) -> None:
        """End the coroutine handler this thread waits for."""
        if (waiting := self._waiting) is not None:
            waiting.cancel()


class InlineCaller:
    """In whatever thread calls; coroutine handlers run on *run*, ``asyncio.run`` unless told."""

    on_loop = False

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run) -> None:
        self._run = run

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self._run(make())

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def sleep(self, seconds: float) -> bool:
        return False
