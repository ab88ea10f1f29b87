"""Calls of the user's own functions among the options, from the loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

__all__ = ["UserCalls", "call_user"]

Function = Callable[..., Any]
Submit = Callable[[Callable[[], Any]], Future[Any]]


class UserCalls:
    """
    Calls ``url``, ``headers`` and the like; each at most once at a time.

    A call that hangs goes on when its caller has given up, and whoever calls the same function
    meanwhile waits for that call: attempts to connect do not pile up threads. Its result is for
    those who wait when it comes; later it would be stale.
    Plain functions run on a handler thread, coroutine functions on the running loop.

    Args:
        submit: Runs a function on a handler thread.
        on_slow: Given a function for which another caller waits already, once a call.

    """

    def __init__(self, submit: Submit, on_slow: Callable[[Function], None]) -> None:
        self._submit = submit
        self._on_slow = on_slow
        self._running: dict[int, Call] = {}

    async def call(self, function: Function, *arguments: Any) -> Any:
        """
        Return what *function* returns, awaited if that is awaitable; raise what it raises.

        May be cancelled, by a timeout for instance: the call goes on for those who come next.
        """
        while True:
            call = self._running.get(id(function))
            if call is None:
                call = self._start(function, arguments)
            elif not call.was_slow:
                call.was_slow = True
                self._on_slow(function)
            if call.has(arguments):
                return await asyncio.shield(call.task)
            await asyncio.wait([call.task])  # of something else: not our answer

    def _start(self, function: Function, arguments: tuple[Any, ...]) -> Call:
        task = asyncio.get_running_loop().create_task(call_user(function, self._submit, arguments))
        call = self._running[id(function)] = Call(function, arguments, task)
        task.add_done_callback(lambda _: self._ended(function, task))
        return call

    def _ended(self, function: Function, task: asyncio.Task[Any]) -> None:
        del self._running[id(function)]
        if not task.cancelled():
            task.exception()  # retrieved, else asyncio complains where everybody has given up

    def cancel(self) -> None:
        """End the calls that nobody waits for any more; a plain function cannot be stopped."""
        for call in self._running.values():
            call.task.cancel()


class Call:
    """A call of the user's function; the function is kept, so that its id stays its own."""

    def __init__(
        self, function: Function, arguments: tuple[Any, ...], task: asyncio.Task[Any]
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.task = task
        self.was_slow = False

    def has(self, arguments: tuple[Any, ...]) -> bool:
        """Whether these are the arguments: the very objects, for they may compare as they like."""
        own = self.arguments
        return len(own) == len(arguments) and all(map(lambda a, b: a is b, own, arguments))


async def call_user(function: Function, submit: Submit, arguments: Sequence[Any] = ()) -> Any:
    """Call a user's plain or coroutine function from the loop; a plain one on a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.wrap_future(submit(lambda: function(*arguments)))
    return await result if isinstance(result, Awaitable) else result
