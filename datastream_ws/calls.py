"""
How a handler is called: the contexts entered around it, in a thread or on the loop.

The steps are coroutines written once. On the loop they are awaited. In a thread
:func:`drive` runs them to their end in one go: there, whatever they await has already
happened when it returns (a plain handler, a blocking wait for a coroutine handler).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from .handlers import Call, Handler, Handlers, Unit
from .messages import Message

__all__ = [
    "Caller",
    "InlineCaller",
    "LoopCaller",
    "Run",
    "ThreadCaller",
    "belongs_here",
    "called_for",
    "drive",
    "enclosed",
    "handling",
]

T = TypeVar("T")

# The client whose handler is running here; a close() in there must not wait for itself.
handling: ContextVar[object] = ContextVar("datastream_handling", default=None)


class CalledFor(NamedTuple):
    """Whose hook runs here, for which connection; *task*: of a coroutine hook."""

    owner: object
    connection: object
    task: asyncio.Task[Any] | None


_called_for: ContextVar[CalledFor | None] = ContextVar("datastream_called_for", default=None)


@contextmanager
def called_for(owner: object, connection: object | None) -> Iterator[None]:
    """A hook of *owner* runs here; what it sends belongs to *connection* (``None``: to any)."""
    if connection is None:
        yield
        return
    token = _called_for.set(CalledFor(owner, connection, _current_task()))
    try:
        yield
    finally:
        _called_for.reset(token)


def belongs_here(owner: object, connection: object) -> bool:
    """Tell whether *connection* may be used here: not by a hook that outlived an earlier one."""
    hook = _called_for.get()
    if hook is None or hook.connection is connection or hook.owner is not owner:
        return True
    # A task that a coroutine hook has started lives on its own, though it has the hook's context.
    return hook.task is not None and hook.task is not _current_task()


def _current_task() -> asyncio.Task[Any] | None:
    return None if asyncio._get_running_loop() is None else asyncio.current_task()


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
        # The thread's context goes along: what its units have set is seen by the coroutine.
        self._waiting = asyncio.run_coroutine_threadsafe(make(), self._loop)
        try:
            return self._waiting.result()
        finally:
            self._waiting = None

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

    async def sleep(self, seconds: float) -> bool:
        return False


def enclosed(handler: Handler, units: Sequence[Unit], hook: str = "") -> Callable[..., Any]:
    """
    Return a plain handler as a function that calls it within the ``per="call"`` contexts.

    Its first argument is what the contexts may be told the handler is called with: a tuple of
    messages.
    """

    def call(messages: tuple[Message, ...], *arguments: Any) -> Any:
        return handler.function(*arguments)

    for unit in reversed(units):
        if unit.per == "call":
            call = _entering(unit, call, handler, hook)
    return call


def _entering(
    unit: Unit, function: Callable[..., Any], handler: Handler, hook: str
) -> Callable[..., Any]:
    def call(messages: tuple[Message, ...], *arguments: Any) -> Any:
        context = unit.context(Call(handler, messages, hook) if unit.takes_call else None)
        if not hasattr(type(context), "__enter__"):  # for coroutine handlers only
            return function(messages, *arguments)
        with context:
            return function(messages, *arguments)

    return call


class Run:
    """
    Some handler calls in one place, within one entry of the ``per="run"`` contexts.

    They are entered before the first call; :meth:`leave` leaves them, and the next call
    enters them anew.
    """

    def __init__(self, handlers: Handlers, caller: Caller) -> None:
        self._handlers = handlers
        self.caller = caller
        self._stack: AsyncExitStack | None = None
        self._enclosed: dict[Handler, Callable[..., Any]] = {}

    async def call(
        self,
        handler: Handler,
        *arguments: Any,
        messages: tuple[Message, ...] = (),
        hook: str = "",
    ) -> Any:
        """
        Call a handler within its contexts; raises what it raises.

        Args:
            messages, hook: What the contexts may be told, see :class:`Call`.

        """
        await self.enter()
        if handler.is_async:
            call = Call(handler, messages, hook)
            return await self.caller.await_(lambda: self._call_async(call, arguments))
        return self.enclosed(handler, hook)(messages, *arguments)

    def enclosed(self, handler: Handler, hook: str = "") -> Callable[..., Any]:
        """Return a plain handler's function as one that enters the contexts per call."""
        if handler not in self._enclosed:
            self._enclosed[handler] = enclosed(handler, self._handlers.units, hook)
        return self._enclosed[handler]

    async def _call_async(self, call: Call, arguments: tuple[Any, ...]) -> Any:
        handler = call.handler
        if not self._handlers.units:
            return await handler.function(*arguments)
        async with AsyncExitStack() as stack:
            if not self.caller.on_loop:
                # The run is a thread's: its asynchronous contexts are entered here instead.
                await self._enter("run", stack, for_async=True, only_async=True)
            await self._enter("call", stack, for_async=True, call=call)
            return await handler.function(*arguments)

    async def enter(self) -> None:
        """Enter the contexts of the run, unless it has been done; raises what they raise."""
        if self._handlers.units and self._stack is None:
            await self._enter_run()

    async def _enter_run(self) -> None:
        stack = AsyncExitStack()
        try:
            await self._enter("run", stack, for_async=self.caller.on_loop)
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack

    async def _enter(
        self,
        per: Literal["call", "run"],
        stack: AsyncExitStack,
        *,
        for_async: bool,
        only_async: bool = False,
        call: Call | None = None,
    ) -> None:
        for unit in self._handlers.units:
            if unit.per != per:
                continue
            context = unit.context(call)
            if for_async and hasattr(type(context), "__aenter__"):
                await stack.enter_async_context(context)
            elif hasattr(type(context), "__enter__") and not only_async:
                stack.enter_context(context)

    async def leave(self) -> None:
        """Leave the contexts of the run; raises what they raise."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def deliver(self, message: Message) -> None:
        """Give *message* to its handlers; raises what the first failing one raises."""
        try:
            for handler in self._handlers.match(message):
                argument = [message] if handler.is_batch else handler.argument(message)
                await self.call(handler, argument, messages=(message,))
        finally:
            await self.leave()


async def call_user(
    function: Callable[..., Any],
    submit: Callable[[Callable[[], Any]], Future[Any]],
    arguments: Sequence[Any] = (),
) -> Any:
    """Call a user's plain or coroutine function from the loop; a plain one on a thread."""
    if asyncio.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.wrap_future(submit(lambda: function(*arguments)))
    return await result if isinstance(result, Awaitable) else result
