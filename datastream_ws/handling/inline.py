"""Handlers that are called the moment a message is received, on the loop's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ..exceptions import HandlerError
from ..handlers import Handler, Handlers
from ..messages import Message
from .callers import InlineCaller, LoopCaller, drive
from .contexts import HandlerRun
from .inbox import Inbox
from .offering import failure_of, keep_failure
from .timing import Notes, Timings

__all__ = ["InlineHandlers"]

SLOW_SECONDS = 0.05
REPORT_SECONDS = 1.0  # at most one report of slow handlers in this time


class InlineHandlers:
    """
    Calls the inline handlers of messages before these enter the inbox.

    Args:
        is_open: Whether messages may be handed on; looked at before each.
        report: Given each :class:`HandlerError`, and one of a handler that is slow.
        timings: Told of the calls.

    """

    def __init__(
        self,
        handlers: Handlers,
        inbox: Inbox,
        is_open: Callable[[], bool],
        report: Callable[[BaseException], None],
        timings: Timings,
    ) -> None:
        self._timings = timings
        self._handlers = handlers
        self._inbox = inbox
        self._is_open = is_open
        self._report = report
        self._reported_at = float("-inf")
        self._keeping: set[asyncio.Task[None]] = set()
        self._handled = self._failures = 0  # not counted yet

    def handle(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Call the inline handlers; return the messages that others are to be given, too."""
        notes = Notes(self._timings)
        run = HandlerRun(self._handlers, InlineCaller(), notes)
        try:
            rest = [message for message in messages if not self._is_all(run, message)]
        finally:
            self._count()
            notes.add_up()
            self._leave(run)
        return messages if len(rest) == len(messages) else rest

    def _is_all(self, run: HandlerRun, message: Message) -> bool:
        """Call the inline handlers of a message; return whether that is all to do for it."""
        try:
            called = self._handlers.inline.match(message) if self._is_open() else ()
        except Exception:  # of the option route; the workers report it
            return False
        if not called:
            return False
        succeeded = True
        for handler in called:
            succeeded = self._call(run, handler, message) and succeeded
        if self._has_others(message):
            return False
        self._inbox.last_message = message
        self._handled += succeeded
        self._failures += not succeeded
        if self._inbox.is_budgeted:
            self._count()
        return True

    def _count(self) -> None:
        """Count all messages of a read at once: under the inbox's lock, each would cost as much."""
        if self._handled or self._failures:
            self._inbox.count_inline(self._handled, self._failures)
            self._handled = self._failures = 0

    def _has_others(self, message: Message) -> bool:
        handlers = self._handlers
        return bool(handlers.routing.handlers and handlers.match(message, taken=True))

    def _call(self, run: HandlerRun, handler: Handler, message: Message) -> bool:
        started = time.monotonic()
        try:
            run.handler = handler
            if self._handlers.context_factories:
                drive(run.enter())
            run.enclosed(handler)((message,), handler.argument(message))
        except BaseException as error:
            self._timings.failed(handler)
            self._failed(failure_of(handler.name, handler.function, (message,), error))
            return False
        finally:
            seconds = time.monotonic() - started
            if run.notes is not None:
                run.notes.call(handler, seconds)
            if seconds > SLOW_SECONDS:
                self._report_slow(handler, message, seconds)
        return True

    def _leave(self, run: HandlerRun) -> None:
        try:
            drive(run.leave())
        except Exception as error:
            self._failed(failure_of("a context of use(per='run')", None, (), error))

    def _failed(self, failure: HandlerError) -> None:
        if self._handlers.on_failure:
            # Whoever keeps it may block: not here.
            keeping = keep_failure(
                self._handlers, LoopCaller(asyncio.Event()), failure, self._report
            )
            task = asyncio.get_running_loop().create_task(keeping)
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)
        self._report(failure)

    def _report_slow(self, handler: Handler, message: Message, seconds: float) -> None:
        now = time.monotonic()
        if now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        failure = HandlerError(
            f"{handler.name} is slow",
            handler=handler.function,
            messages=(message,),
            still_running=True,
        )
        failure.__cause__ = TimeoutError(
            f"an inline handler took {seconds:.3f} s, and nothing is received meanwhile; "
            "keep it short, or leave out inline=True"
        )
        self._report(failure)
