"""A message through the handlers without a network: for tests."""

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
    Give *message* to its handlers, inline ones first, one after the other.

    To be driven (:func:`~.callers.drive`) unless *caller* is one on the loop.

    Args:
        robust: Go on after a handler that fails, and report each as in production; the
            ``on_error`` hooks are called here, too.
        report: Given the :class:`HandlerError` of each, if *robust*.

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
    """Whether it is meant for the caller: an interrupt, or the end of its task."""
    return isinstance(error, KeyboardInterrupt | SystemExit | asyncio.CancelledError)
