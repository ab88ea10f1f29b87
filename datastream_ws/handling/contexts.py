"""Enter the context managers that ``use()`` registers around handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal

from ..handlers import Call, ContextFactory, Handler, Handlers, check_context
from ..messages import Message
from .callers import Caller
from .inbox import Portion
from .timing import Notes

__all__ = ["HandlerRun", "enclosed"]


def enclosed(
    handler: Handler, context_factories: Sequence[ContextFactory], hook: str = ""
) -> Callable[..., Any]:
    """
    Return a synchronous handler as a function that calls it within the ``per="call"`` contexts.

    The function's first argument is the tuple of messages that the context factories receive. The
    other arguments go to the handler.
    """

    def call(messages: tuple[Message, ...], *arguments: Any) -> Any:
        return handler.function(*arguments)

    for unit in reversed(context_factories):
        if unit.per == "call":
            call = _entering(unit, call, handler, hook)
    return call


def _entering(
    unit: ContextFactory, function: Callable[..., Any], handler: Handler, hook: str
) -> Callable[..., Any]:
    def call(messages: tuple[Message, ...], *arguments: Any) -> Any:
        context = unit.context(Call(handler, messages, hook) if unit.takes_call else None)
        if not hasattr(type(context), "__enter__"):
            # It is only asynchronous, so it applies to coroutine handlers.
            return function(messages, *arguments)
        with context:
            return function(messages, *arguments)

    return call


def compiled(
    handler: Handler, context_factories: Sequence[ContextFactory]
) -> Callable[[Message], Any]:
    """
    Return a synchronous handler, within the ``per="call"`` contexts, as a function of a message.

    It prepares once what :func:`enclosed` checks at each call, because every message pays for a
    check.
    """
    call: Callable[[Message], Any] = handler.function
    for unit in reversed(context_factories):
        if unit.per == "call":
            call = _entering_once(unit, call, handler)
    return call


def _entering_once(
    unit: ContextFactory, function: Callable[[Message], Any], handler: Handler
) -> Callable[[Message], Any]:
    factory, takes_call = unit.factory, unit.takes_call

    def call(message: Message) -> Any:
        context = factory(Call(handler, (message,))) if takes_call else factory()
        if not hasattr(type(context), "__enter__"):
            check_context(context)  # raises if it is not a context manager at all
            return function(message)
        with context:
            return function(message)

    return call


def compiled_async(
    handler: Handler, context_factories: Sequence[ContextFactory]
) -> Callable[[Message], Awaitable[Any]]:
    """
    Return a coroutine handler, within the ``per="call"`` contexts, as a function of a message.
    """
    function, argument = handler.function, handler.argument

    def call(message: Message, given: Any) -> Any:
        return function(given)

    within: Callable[[Message, Any], Any] = call
    for unit in reversed(context_factories):
        if unit.per == "call":
            within = _awaiting_within(unit, within, handler)
    if within is call and handler.decode_as is None:
        return function
    return lambda message: within(message, argument(message))


def _awaiting_within(
    unit: ContextFactory, function: Callable[[Message, Any], Any], handler: Handler
) -> Callable[[Message, Any], Any]:
    async def call(message: Message, given: Any) -> Any:
        context = unit.context(Call(handler, (message,)) if unit.takes_call else None)
        if hasattr(type(context), "__aenter__"):
            async with context:
                return await function(message, given)
        else:
            with context:
                return await function(message, given)

    return call


class HandlerRun:
    """
    Consecutive handler calls within one entry of the ``per="run"`` contexts.

    The contexts are entered before the first call. After :meth:`leave`, the next call enters them
    again. An instance belongs to one thread or task.

    Attributes:
        handler: The handler that was called last.
        portion, message: The source of the current messages, or the current message. The watchdog
            reads them.
        notes: Receives the calls. ``None`` means that calls are not recorded, for example of hooks.

    """

    def __init__(self, handlers: Handlers, caller: Caller, notes: Notes | None = None) -> None:
        self._handlers = handlers
        self.notes = notes
        self.caller = caller
        self.handler: Handler | None = None
        self.portion: Portion | None = None
        self.message: Message | None = None
        self._stack: AsyncExitStack | None = None
        self._enclosed: dict[Handler, Callable[..., Any]] = {}

    @property
    def in_hand(self) -> Message | None:
        """The message that is being handled by a direct call. It's thread-safe."""
        portion = self.portion
        return self.message if portion is None else portion.in_hand

    async def call(
        self,
        handler: Handler,
        *arguments: Any,
        messages: tuple[Message, ...] = (),
        hook: str = "",
    ) -> Any:
        """
        Call a handler within its contexts, and propagate what it or a context raises.

        Args:
            messages, hook: Passed to context factories that take a :class:`Call`.

        """
        self.handler = handler
        await self.enter()
        if handler.is_async:
            call = Call(handler, messages, hook)
            return await self.caller.await_(lambda: self._call_async(call, arguments))
        return self.enclosed(handler, hook)(messages, *arguments)

    def enclosed(self, handler: Handler, hook: str = "") -> Callable[..., Any]:
        """
        Return a synchronous handler's function wrapped in the ``per="call"`` contexts; cached.
        """
        if handler not in self._enclosed:
            self._enclosed[handler] = enclosed(handler, self._handlers.context_factories, hook)
        return self._enclosed[handler]

    def compiled(self, handler: Handler) -> Callable[[Message], Any]:
        """
        Return a handler as a function of a message, within the ``per="call"`` contexts.

        A synchronous handler must not have ``decode_as``.
        """
        make = compiled_async if handler.is_async else compiled
        return make(handler, self._handlers.context_factories)

    async def _call_async(self, call: Call, arguments: tuple[Any, ...]) -> Any:
        handler = call.handler
        if not self._handlers.context_factories:
            return await handler.function(*arguments)
        async with AsyncExitStack() as stack:
            if not self.caller.on_loop:
                # A thread cannot enter asynchronous run contexts, so enter them per call.
                await self._enter("run", stack, for_async=True, only_async=True)
            await self._enter("call", stack, for_async=True, call=call)
            return await handler.function(*arguments)

    async def enter(self) -> None:
        """Enter the run's contexts unless they are entered, and propagate what they raise."""
        if self._handlers.context_factories and self._stack is None:
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
        for unit in self._handlers.context_factories:
            if unit.per != per:
                continue
            context = unit.context(call)
            if for_async and hasattr(type(context), "__aenter__"):
                await stack.enter_async_context(context)
            elif hasattr(type(context), "__enter__") and not only_async:
                stack.enter_context(context)

    async def leave(self) -> None:
        """Leave the run's contexts, and propagate what they raise."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
