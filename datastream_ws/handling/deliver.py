"""Pass a message to the handlers without a network, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..exceptions import DecodeError, HandlerError
from ..handlers import Handler, Handlers
from ..messages import Message
from .callers import Caller
from .contexts import HandlerRun
from .offering import failure_of, keep_failure, undecodable_failure

__all__ = ["deliver"]


async def deliver(
    handlers: Handlers,
    message: Message,
    caller: Caller,
    *,
    robust: bool = False,
    report: Callable[[BaseException], None] = lambda error: None,
) -> None:
    """
    Pass *message* to its handlers one after the other, inline handlers first.

    Use :func:`~.callers.drive` to run it, unless *caller* calls on the loop.

    Args:
        robust: Continue after a handler that fails, and report each failure, as in production. The
            ``on_error`` hooks are called, too.
        report: Receives the :class:`HandlerError` of each failure, if *robust*.

    Raises:
        Exception: What the first failing handler raises, unless *robust*.

    """
    run = HandlerRun(handlers, caller)
    try:
        for handler in await _matched(handlers, message, caller, robust, report):
            try:
                argument = [message] if handler.is_batch else handler.argument(message)
                await run.call(handler, argument, messages=(message,))
            except BaseException as error:
                if not robust or _is_end(error):
                    raise
                failure = failure_of(handler.name, handler.function, (message,), error)
                await _tell(handlers, caller, failure, report)
    finally:
        await run.leave()


async def _matched(
    handlers: Handlers,
    message: Message,
    caller: Caller,
    robust: bool,
    report: Callable[[BaseException], None],
) -> tuple[Handler, ...]:
    route = message.origin.route
    inline: tuple[Handler, ...] = ()
    try:
        inline = handlers.inline.match(message)
        return (*inline, *handlers.match(message, bool(inline)))
    except Exception as error:
        if not robust:
            raise
        if isinstance(error, DecodeError) and not callable(route):
            failure = undecodable_failure(message, error)
        else:
            failure = failure_of("the option route", route, (message,), error)
        await _tell(handlers, caller, failure, report)
        return inline


async def _tell(
    handlers: Handlers,
    caller: Caller,
    failure: HandlerError,
    report: Callable[[BaseException], None],
) -> None:
    await keep_failure(handlers, caller, failure, report)
    report(failure)
    for hook in handlers.hooks["on_error"]:
        run = HandlerRun(handlers, caller)
        try:
            await run.call(hook, failure, hook="on_error")
        except Exception as error:
            report(failure_of(f"on_error hook {hook.name}", hook.function, (), error))
        finally:
            await run.leave()


def _is_end(error: BaseException) -> bool:
    """
    Return whether the caller must see the exception: an interrupt, or its task's cancellation.
    """
    return isinstance(error, KeyboardInterrupt | SystemExit | asyncio.CancelledError)
