"""Calls the user's functions among the options, from the loop."""

from __future__ import annotations

import asyncio
import inspect
import operator
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .futures import retrieve

__all__ = ["UserCalls"]

Function = Callable[..., Any]
Submit = Callable[[Callable[[], Any]], Future[Any]]


class UserCalls:
    """
    Calls ``url``, ``headers`` and similar options, each at most once at a time.

    Synchronous functions run on a handler thread, coroutine functions on the running loop. Call the
    methods on the loop's thread.

    A call continues after its caller was canceled. Another call of the same function waits for it,
    so that attempts to connect do not pile up threads. The result is not kept for later calls,
    because a token in it may have expired.

    Args:
        submit: Runs a function on a handler thread.
        on_slow: Called with a function that is still running when it is called again. It is called
            once per slow call.

    """

    def __init__(self, submit: Submit, on_slow: Callable[[Function], None]) -> None:
        self._submit = submit
        self._on_slow = on_slow
        self._running: dict[int, Call] = {}

    async def call(self, function: Function, *arguments: Any) -> Any:
        """
        Call *function* and return its result, awaited if it is awaitable.

        The caller may be canceled, for example by a timeout. The call then continues.

        Raises:
            Exception: If the function raised it.
            RuntimeError: If the function raised CancelledError, SystemExit or KeyboardInterrupt.

        """
        while True:
            call = self._running.get(id(function))
            if call is None:
                call = self._start(function, arguments)
            elif not call.was_slow:
                call.was_slow = True
                self._on_slow(function)
            await asyncio.wait([call.task])  # canceling the caller does not cancel the call
            if call.has(arguments):
                return call.task.result()

    def _start(self, function: Function, arguments: tuple[Any, ...]) -> Call:
        calling = _only_exceptions(function, self._submit, arguments)
        task = asyncio.get_running_loop().create_task(calling)
        call = self._running[id(function)] = Call(function, arguments, task)
        task.add_done_callback(lambda _: self._running.pop(id(function)))
        task.add_done_callback(retrieve)
        return call

    def cancel(self) -> None:
        """Cancel all calls. A synchronous function continues, because it cannot be stopped."""
        for call in self._running.values():
            call.task.cancel()


@dataclass(slots=True)
class Call:
    """A running call. It refers to the function, so that no other object gets the same id."""

    function: Function
    arguments: tuple[Any, ...]
    task: asyncio.Task[Any]
    was_slow: bool = False

    def has(self, arguments: tuple[Any, ...]) -> bool:
        """Return whether the call has these arguments, compared by identity."""
        own = self.arguments
        return len(own) == len(arguments) and all(map(operator.is_, own, arguments))


async def _only_exceptions(function: Function, submit: Submit, arguments: tuple[Any, ...]) -> Any:
    """
    Call a user's function, and raise RuntimeError if it raises something besides an Exception.

    A leaked CancelledError would look like a cancellation of the caller, which would then go on
    without the result. SystemExit in a task would end the loop.
    """
    try:
        return await _call(function, submit, arguments)
    except Exception:
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError(f"the function raised {type(error).__name__}") from error


async def _call(function: Function, submit: Submit, arguments: tuple[Any, ...]) -> Any:
    """Call a user's function from the loop, on a thread unless it is a coroutine function."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.wrap_future(submit(lambda: function(*arguments)))
    return await result if isinstance(result, Awaitable) else result
