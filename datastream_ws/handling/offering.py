"""Pass one message to one handler, with retries, postponing, timeouts and error reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

from ..exceptions import DecodeError, HandlerError, Postponed
from ..handlers import Handler, Handlers
from ..messages import Message
from ..options import ClientOptions
from .callers import Caller, is_own_cancellation
from .contexts import HandlerRun
from .throttle import Throttle
from .timing import Timings
from .watchdog import Watchdog

__all__ = ["Offering", "Stopped", "failure_of", "keep_failure", "match", "undecodable_failure"]


class Stopped(BaseException):
    """The dispatcher has stopped, or the tenure has ended, while a message waited to be retried."""


class Offering:
    """
    Passes messages to single handlers. Every worker uses it.

    Args:
        tenure: Returns the current tenure of the stream. ``None`` means that there is none.
        report: Receives every :class:`HandlerError`, from any thread.
        watchdog: Observes the calls. ``None`` means that ``handler_timeout`` is not set.
        timings: Receives the calls that fail.
        on_loop: Calls a function on the loop's thread, from any thread.

    """

    def __init__(
        self,
        handlers: Handlers,
        options: ClientOptions,
        tenure: Callable[[], int | None],
        report: Callable[[BaseException], None],
        watchdog: Watchdog | None,
        timings: Timings,
        on_loop: Callable[[Callable[[], None]], None],
    ) -> None:
        self._handlers = handlers
        self._options = options
        self._tenure = tenure
        self._report = report
        self._watchdog = watchdog
        self._timings = timings
        self._on_loop = on_loop
        self._last_undecodable: tuple[Message, DecodeError] | None = None

    @cached_property
    def _undecodable(self) -> Throttle:
        return Throttle(self._report_undecodable)

    async def match(self, caller: Caller, message: Message) -> tuple[tuple[Handler, ...], bool]:
        """Return the handlers of a message, and whether finding them failed, which is reported."""
        route = self._options.route
        try:
            return match(self._handlers, message), False
        except BaseException as error:  # as of a handler: SystemExit must not end the stream
            if isinstance(error, DecodeError) and not callable(route):
                await self._undecodable_failed(caller, message, error)
            else:
                await self.failed(caller, "the option route", route, (message,), error)
            return (), True

    async def offer(
        self,
        run: HandlerRun,
        handler: Handler,
        messages: tuple[Message, ...],
        raised: BaseException | None = None,
    ) -> bool:
        """
        Call a handler until it succeeds or fails; return whether it succeeded.

        It is called again after :class:`Postponed`, and once if ``retry_message`` allows it. A
        failure is reported, not raised.

        Args:
            raised: The exception that a previous call has raised.

        Raises:
            Stopped: If the handler must not be called again.

        """
        may_retry = True
        while True:
            try:
                if raised is not None:
                    raise raised
                await self._call(run, handler, messages)
                return True
            except Postponed as later:
                await self._wait(run, later.delay)
            except BaseException as error:
                if _is_canceled(error, run.caller):
                    raise
                if not (may_retry and self._wants_retry(error)):
                    self._timings.failed(handler)
                    # a failed transaction, for example, must not affect the next message
                    await self.leave(run)
                    await self.failed(run.caller, handler.name, handler.function, messages, error)
                    return False
                may_retry = False
                await self._leave_for_retry(run)
            raised = None

    async def _leave_for_retry(self, run: HandlerRun) -> None:
        """Leave the contexts, so that a retry enters new ones; raises Stopped without a tenure."""
        await self.leave(run)
        if self._tenure() is None:
            raise Stopped

    async def _wait(self, run: HandlerRun, delay: float) -> None:
        """
        Wait *delay* seconds with a postponed message; raises Stopped if it must not be retried.
        """
        tenure = self._tenure()
        await self.leave(run)
        slept = await run.caller.sleep(delay)
        if not slept or tenure is None or self._tenure() != tenure:
            raise Stopped from None

    def watching(self, run: HandlerRun) -> AbstractContextManager[None]:
        """Return a context in which the watchdog observes the direct calls of a run."""
        if self._watchdog is None:
            return nullcontext()
        return self._watchdog.watching_run(run, _task_of(run.caller))

    async def _call(self, run: HandlerRun, handler: Handler, messages: tuple[Message, ...]) -> None:
        if self._watchdog is None:
            await self._call_unwatched(run, handler, messages)
            return
        with self._watchdog.watching(handler, messages, _task_of(run.caller)):
            await self._call_unwatched(run, handler, messages)

    async def _call_unwatched(
        self, run: HandlerRun, handler: Handler, messages: tuple[Message, ...]
    ) -> None:
        started = time.monotonic()
        try:
            argument = list(messages) if handler.is_batch else handler.argument(messages[0])
            await run.call(handler, argument, messages=messages)
        finally:
            if run.notes is not None:
                run.notes.call(handler, time.monotonic() - started)

    def _wants_retry(self, error: BaseException) -> bool:
        wanted = self._options.retry_message
        if wanted is None or not isinstance(error, Exception):
            return False
        try:
            return bool(wanted(error))
        except BaseException as failure:
            self._report(failure)
            return False

    async def leave(self, run: HandlerRun) -> None:
        """Leave the contexts of a run; report what they raise."""
        try:
            await run.leave()
        except BaseException as error:
            if _is_canceled(error, run.caller):
                raise
            await self.failed(run.caller, "a context of use(per='run')", None, (), error)

    async def failed(
        self,
        caller: Caller,
        name: str,
        function: Any,
        messages: tuple[Message, ...],
        error: BaseException,
    ) -> None:
        """Report a failure, and store it through ``on_failure``."""
        failure = failure_of(name, function, messages, error)
        await keep_failure(self._handlers, caller, failure, self._report)
        self._report(failure)

    async def _undecodable_failed(
        self, caller: Caller, message: Message, error: DecodeError
    ) -> None:
        """
        Store the failure, and report it at most once per second.

        A server can send such messages at full speed.
        """
        if self._handlers.on_failure:
            failure = undecodable_failure(message, error)
            await keep_failure(self._handlers, caller, failure, self._report)
        self._on_loop(lambda: self._note_undecodable(message, error))

    def _note_undecodable(self, message: Message, error: DecodeError) -> None:
        self._last_undecodable = message, error
        self._undecodable.note()

    def _report_undecodable(self, count: int) -> None:
        last, self._last_undecodable = self._last_undecodable, None
        if last is not None:
            self._report(undecodable_failure(*last, count))

    def flush(self) -> None:
        """Report the undecodable messages that are not reported yet. Call it on the loop."""
        self._undecodable.flush()


def _is_canceled(error: BaseException, caller: Caller) -> bool:
    """Return whether the worker's own task is canceled."""
    return isinstance(error, asyncio.CancelledError) and caller.on_loop and is_own_cancellation()


def _task_of(caller: Caller) -> asyncio.Task[Any] | None:
    return asyncio.current_task() if caller.on_loop else None


def match(handlers: Handlers, message: Message) -> tuple[Handler, ...]:
    """Return the handlers of a message, except inline ones; see :meth:`Handlers.match`."""
    inline = handlers.inline
    return handlers.match(message, bool(inline.handlers and inline.match(message)))


def undecodable_failure(message: Message, error: DecodeError, count: int = 1) -> HandlerError:
    """Return the error for *count* messages whose route cannot be decoded."""
    which = "a message has" if count == 1 else f"{count} messages have"
    failure = HandlerError(
        f"{which} no readable route, and no handler takes messages without a route. Check the "
        "option codec, or register an on_message handler without a route.",
        handler=None,
        messages=(message,),
    )
    failure.__cause__ = error
    return failure


def failure_of(
    name: str, function: Any, messages: tuple[Message, ...], error: BaseException
) -> HandlerError:
    """Return the error for a handler that has raised."""
    failure = HandlerError(
        f"{name} failed with {type(error).__name__}", handler=function, messages=messages
    )
    failure.__cause__ = error
    return failure


async def keep_failure(
    handlers: Handlers,
    caller: Caller,
    failure: HandlerError,
    report: Callable[[BaseException], None],
) -> None:
    """Pass a failure to the callables that store it, see :attr:`Handlers.on_failure`."""
    for keep in tuple(handlers.on_failure):
        try:
            await caller.call_blocking(keep, failure)
        except BaseException as trouble:
            if _is_canceled(trouble, caller):
                raise
            report(trouble)
