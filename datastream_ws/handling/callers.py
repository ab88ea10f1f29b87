"""
Call handlers in a thread, on the loop, or inline.

Each step of handling is written once, as a coroutine. On the loop it is awaited. On a thread,
:func:`drive` runs it in one go: whatever it awaits there completes before it returns.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from .latch import Latch

__all__ = [
    "Caller",
    "InlineCaller",
    "LoopCaller",
    "ThreadCaller",
    "drive",
    "is_own_cancellation",
    "start_task",
]

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine that never suspends, and return its result.

    Raises:
        RuntimeError: If the coroutine suspends after all.

    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a step for threads waited for the event loop")


def start_task(
    coroutine: Coroutine[Any, Any, None],
    loop: asyncio.AbstractEventLoop,
    context: contextvars.Context,
) -> asyncio.Task[None]:
    """
    Start a task in a later iteration of the loop.

    The loop's own task factory may be eager, and would run the task before this returns.
    """
    return asyncio.Task(coroutine, loop=loop, context=context)


def is_own_cancellation() -> bool:
    """
    Return whether a CancelledError on the loop is meant for the current task.

    Otherwise a handler or hook has let a CancelledError of its own escape, which is a failure.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Caller(Protocol):
    """
    The place where handlers are called.

    Attributes:
        on_loop: Whether that is a task on the client's loop.

    """

    on_loop: bool

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run the coroutine that *make* returns on an event loop; return its result."""

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a synchronous function on a thread that it may block."""

    async def sleep(self, seconds: float) -> bool:
        """Wait for *seconds*; return False at once when the dispatcher stops."""
        ...


class LoopCaller:
    """Calls handlers in a task on the client's loop."""

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
    """
    Calls handlers on a handler thread. Coroutine handlers run on the client's loop meanwhile.

    Attributes:
        is_postponing: Whether it waits with a postponed message, or was stopped while it waited.

    """

    on_loop = False

    def __init__(self, loop: asyncio.AbstractEventLoop, stopped: Latch) -> None:
        self._loop = loop
        self._stopped = stopped
        self._waiting: Future[Any] | None = None
        self.is_postponing = False

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        # The task copies this thread's context, so the coroutine sees the variables that contexts
        # have set.
        self._waiting = waiting = asyncio.run_coroutine_threadsafe(_outcome(make), self._loop)
        if self._stopped.is_set():  # cancel() may have run just before _waiting was set
            waiting.cancel()
        try:
            result, error = waiting.result()
        finally:
            self._waiting = None
        if error is not None:
            raise error
        return result

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def sleep(self, seconds: float) -> bool:
        self.is_postponing = True
        if self._stopped.wait(seconds):
            return False
        self.is_postponing = False
        return True

    def cancel(self) -> None:
        """Cancel the coroutine handler that this thread waits for."""
        if (waiting := self._waiting) is not None:
            waiting.cancel()

    def fail(self, error: Exception) -> None:
        """Raise *error* in place of a coroutine handler whose loop is closed."""
        if (waiting := self._waiting) is not None:
            with suppress(InvalidStateError):
                waiting.set_exception(error)


async def _outcome(
    make: Callable[[], Coroutine[Any, Any, Any]],
) -> tuple[Any, SystemExit | KeyboardInterrupt | None]:
    """Return a coroutine's result, and the exception with which its task would end the loop."""
    try:
        return await make(), None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


class InlineCaller:
    """
    Calls handlers on the calling thread.

    Args:
        run: Runs a coroutine handler to its end.

    """

    on_loop = False

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run) -> None:
        self._run = run

    async def await_(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self._run(make())

    async def call_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def sleep(self, seconds: float) -> bool:
        return False
