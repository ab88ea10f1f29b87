"""Call inline handlers on the loop's thread as soon as a message is received."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from ..exceptions import HandlerError
from ..handlers import Handler, Handlers
from ..messages import Message
from .callers import InlineCaller, LoopCaller, drive
from .contexts import HandlerRun
from .direct import DirectCalls
from .inbox import Inbox
from .offering import failure_of, keep_failure
from .timing import Notes, Timings

__all__ = ["InlineHandlers"]

SLOW_SECONDS = 0.05
REPORT_SECONDS = 1.0  # at most one report of slow handlers in this time


class InlineHandlers:
    """
    Calls the inline handlers of messages before the messages enter the inbox.

    Used on the loop's thread only. A slow handler delays receiving, and is reported.

    Args:
        is_open: Whether messages may be handled, checked before each one. ``None`` means always.
        report: Receives a :class:`HandlerError` for each failure and each slow handler.
        timings: Receives call counts and durations.

    """

    def __init__(
        self,
        handlers: Handlers,
        inbox: Inbox,
        is_open: Callable[[], bool] | None,
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

    def handle(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Call the inline handlers; return the messages that still need the inbox."""
        notes = Notes(self._timings)
        run = HandlerRun(self._handlers, InlineCaller(), notes)
        try:
            rest = self._call_for_each(run, notes, messages)
        finally:
            notes.add_up()
            self._leave(run)
        return messages if len(rest) == len(messages) else rest

    def _call_for_each(
        self, run: HandlerRun, notes: Notes, messages: Sequence[Message]
    ) -> list[Message]:
        """Do the work of :meth:`handle`; every message pays for each statement in the loop."""

        def note(handler: Handler, seconds: float) -> None:
            notes.note(handler, seconds)
            if seconds > SLOW_SECONDS:
                self._report_slow(handler, message, seconds)

        calls = self._direct_calls(run, note)
        inbox, others = self._inbox, self._handlers.routing.handlers
        is_budgeted = inbox.is_budgeted
        call, quickly, failures = calls.timed, calls.call, 0
        rest: list[Message] = []
        for message in messages:
            try:
                called, failed = call(message), 0
                call = quickly
            except BaseException as error:
                called, failed = self._go_on_after(calls, message, error), 1
                call = calls.timed  # otherwise the time of error handling would count as a call
            if not called or (others and self._has_others(calls, message)):
                rest.append(message)
                continue
            inbox.last_message = message
            failures += failed
            if is_budgeted:
                inbox.count_inline(1 - failed, failed)
        # Count them together, because taking the inbox's lock costs as much as a message.
        if (number := len(messages) - len(rest)) and not is_budgeted:
            inbox.count_inline(number - failures, failures)
        return rest

    def _direct_calls(self, run: HandlerRun, note: Callable[[Handler, float], None]) -> DirectCalls:
        routing, is_open = self._handlers.inline, self._is_open
        if is_open is None:
            return DirectCalls(self._handlers, run, routing.match, routing, note=note)

        def find(message: Message) -> Sequence[Handler]:
            return routing.match(message) if is_open() else ()

        return DirectCalls(self._handlers, run, find, note=note)

    def _go_on_after(
        self, calls: DirectCalls, message: Message, error: BaseException
    ) -> Sequence[Handler]:
        """Report a handler's exception, call the remaining handlers, and return all of them."""
        found = calls.rest
        if found is None:  # the option route has raised, and the workers report that
            return ()
        failed, *rest = found
        self._timings.failed(failed)
        self._failed(failure_of(failed.name, failed.function, (message,), error))
        if rest:
            try:
                calls.call_all(message, rest)
            except BaseException as another:
                self._go_on_after(calls, message, another)
        return found

    def _has_others(self, calls: DirectCalls, message: Message) -> bool:
        """Return whether handlers that are not inline take the message, too."""
        try:
            return bool(self._handlers.match(message, taken=True))
        except BaseException:  # the option route has raised, and the workers report that
            return True
        finally:
            calls.since = time.monotonic()

    def _leave(self, run: HandlerRun) -> None:
        try:
            drive(run.leave())
        except BaseException as error:  # it would end the connection, or the user's loop
            self._failed(failure_of("a context of use(per='run')", None, (), error))

    def _failed(self, failure: HandlerError) -> None:
        if self._handlers.on_failure:
            # on_failure may block, so it must not run here
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
            f"an inline handler took {seconds:.3f} s, and nothing was received meanwhile. "
            "Make it faster, or remove inline=True."
        )
        self._report(failure)
