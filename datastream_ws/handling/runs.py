"""
A run: what one worker handles in one go.

It is a loop in the thread that handles, or in a task where all handlers are coroutine functions.
It takes one message after another until the inbox is empty, or enough messages or 50 ms have gone
by; the contexts of ``use(per="run")`` are entered around it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..handlers import Handler, Handlers
from ..messages import Message
from ..options import ClientOptions
from .batches import Batches
from .callers import Caller, drive
from .contexts import HandlerRun
from .inbox import Inbox, Portion
from .offering import Offering, Stopped, match

__all__ = ["Runs"]

RUN_SECONDS = 0.05
RUN_MESSAGES = 100  # where the run's contexts are entered, or more than calls is to be done
LONG_RUN_MESSAGES = 1000
STRIDE = 8  # quick messages between two looks at the clock, which costs as much as they do
QUICK_SECONDS = 0.001  # for so many


class Runs:
    """
    Makes the runs of one dispatcher; from any of its workers.

    Args:
        gate: Looked at before each message; False holds everything back; ``None``: nothing does.
        done, discard: Told what became of a message.
        is_stopped: No worker is to take another message.

    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        handlers: Handlers,
        options: ClientOptions,
        offering: Offering,
        batches: Batches,
        gate: Callable[[], bool] | None,
        on_room: Callable[[], None],
        done: Callable[[Message, bool, bool], None],
        discard: Callable[[Message], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._inbox = inbox
        self._handlers = handlers
        self._options = options
        self._offering = offering
        self._batches = batches
        self._gate = gate
        self._on_room = on_room
        self._done = done
        self._discard = discard
        self._is_stopped = is_stopped
        self._running: set[HandlerRun] = set()

    @property
    def at_work(self) -> list[str]:
        """The names of the handlers that are called; from any thread."""
        return sorted({run.handler.name for run in list(self._running) if run.handler})

    async def run(self, caller: Caller) -> bool:
        """Handle messages for a while; return whether there may be more."""
        run = HandlerRun(self._handlers, caller)
        self._running.add(run)
        try:
            if self._options.handler_timeout is None and self._handlers.is_direct(caller.on_loop):
                return await self._call_directly(run)
            return await self._offer_one_by_one(run)
        finally:
            self._running.discard(run)
            await self._offering.leave(run)

    def _pop(self) -> Message | None:
        return self._inbox.pop() if self._gate is None or self._gate() else None

    # --- where each handler is only to be called ---

    async def _call_directly(self, run: HandlerRun) -> bool:
        calls = DirectCalls(self._handlers, run, self._inbox.count_unrouted)
        most = RUN_MESSAGES if self._handlers.has_contexts("run") else LONG_RUN_MESSAGES
        end = time.monotonic() + RUN_SECONDS
        if self._options.concurrency > 1:
            return await self._call_singly(calls, most, end)
        while most > 0:
            portion = self._inbox.pop_many(most)
            if portion is None:
                return await self._call_singly(calls, most, end)
            most -= len(portion.left)
            error = await self._call_for_each(portion, calls, end)
            if self._inbox.settle(portion):
                self._on_room()
            if error is not None:
                assert portion.in_hand is not None
                await self._go_on_after(calls, portion.in_hand, error)
                break
            if time.monotonic() > end or not (self._gate is None or self._gate()):
                break
        return not self._is_stopped() and (self._gate is None or self._gate())

    async def _call_for_each(
        self, portion: Portion, calls: DirectCalls, end: float
    ) -> BaseException | None:
        """
        Handle messages of a portion until *end*; return what a handler has raised.

        What stands in the loop is what every message costs: as little as can be beside the
        handler's own call (docs/performance.md).
        """
        call, awaited, take = calls.call, calls.awaited, self._taker(portion)
        stride, now = 1, time.monotonic()
        while now < end:
            for _ in range(stride):
                try:
                    message = take()
                except IndexError:
                    return None
                try:
                    if awaited:
                        await call(message)
                    else:
                        call(message)
                except BaseException as error:
                    return error
                portion.handled = message
            before, now = now, time.monotonic()
            stride = STRIDE if now - before < QUICK_SECONDS else 1
        return None

    def _taker(self, portion: Portion) -> Callable[[], Message]:
        """Return what takes the next message of a portion, or raises IndexError."""
        take, gate = portion.left.popleft, self._gate
        if gate is None:
            return take

        def take_if_open() -> Message:
            if not gate():
                raise IndexError
            return take()

        return take_if_open

    async def _call_singly(self, calls: DirectCalls, most: int, end: float) -> bool:
        """As with portions, but each message is popped once the one before it is handled."""
        message, number, look_at, looked = self._pop(), 0, 1, time.monotonic()
        while message is not None:
            number += 1
            try:
                if calls.awaited:
                    await calls.call(message)
                else:
                    calls.call(message)
            except BaseException as error:
                await self._go_on_after(calls, message, error)
                return not self._is_stopped()
            is_late = number >= most
            if number >= look_at:
                before, looked = looked, time.monotonic()
                is_late |= looked > end
                look_at = number + (STRIDE if looked - before < QUICK_SECONDS else 1)
            if is_late or not (self._gate is None or self._gate()):
                self._done(message, False, False)
                return is_late and not self._is_stopped()
            message, room = self._inbox.pop_after(message)
            if room:
                self._on_room()
        return False

    async def _go_on_after(
        self, calls: DirectCalls, message: Message, error: BaseException
    ) -> None:
        """Give a message to the handlers from the one on that has raised."""
        rest = calls.rest
        await self._handle(calls.run, message, rest, error if rest else None)

    # --- where there is more to it ---

    async def _offer_one_by_one(self, run: HandlerRun) -> bool:
        end = time.monotonic() + RUN_SECONDS
        for _ in range(RUN_MESSAGES):
            message = self._pop()
            if message is None:
                await self._batches.flush(run)
                return False
            await self._handle(run, message)
            if time.monotonic() > end:
                break
        await self._batches.flush(run)
        return not self._is_stopped()

    async def _handle(
        self,
        run: HandlerRun,
        message: Message,
        rest: Sequence[Handler] | None = None,
        raised: BaseException | None = None,
    ) -> None:
        """
        Give a message to its handlers and count it.

        Args:
            rest: The handlers still to be called; ``None``: all that match.
            raised: What the first of them has raised already.

        """
        failed = False
        if rest is None:
            rest, failed = await self._offering.match(run.caller, message)
        try:
            for handler in rest:
                if not handler.is_batch:
                    failed |= not await self._offering.offer(run, handler, (message,), raised)
                    raised = None
        except (Stopped, asyncio.CancelledError) as stop:
            self._discard(message)
            if isinstance(stop, asyncio.CancelledError):
                raise
            return
        batches = [handler for handler in rest if handler.is_batch]
        if batches:
            await self._add_to_batches(run, batches, message, failed)
        else:
            self._done(message, failed, not rest and not failed)

    async def _add_to_batches(
        self, run: HandlerRun, handlers: Sequence[Handler], message: Message, failed: bool
    ) -> None:
        is_due = self._batches.add(handlers, message, failed)
        self._inbox.release(message)
        if is_due:
            await self._batches.flush(run)
        elif self._options.concurrency > 1:  # this worker may be busy when they are due
            self._batches.arm_timer()


class DirectCalls:
    """
    How the handlers of each message are called in one run, with nothing around it.

    Attributes:
        call: To be given a message; raises what a handler, or ``route`` or ``when``, raises.
        awaited: Whether it is a coroutine function.

    """

    def __init__(
        self, handlers: Handlers, run: HandlerRun, count_unrouted: Callable[[], None]
    ) -> None:
        self.run = run
        self.awaited = run.caller.on_loop
        # Without a step in between where no handler is inline: it would cost every message.
        inline = handlers.inline.handlers
        self._find = functools.partial(match, handlers) if inline else handlers.match
        self._count_unrouted = count_unrouted
        self._is_entered = not handlers.has_contexts("run")
        self._encloses = handlers.has_contexts("call")
        self._matched: Sequence[Handler] = ()
        self.call: Callable[[Message], Any]
        only = handlers.only
        if only is not None:
            self._matched, run.handler, self.call = (only,), only, only.function
        else:
            self.call = self._await_all if self.awaited else self._call_all

    @property
    def rest(self) -> Sequence[Handler] | None:
        """The handlers still to be called, the failed one first; ``None``: not known yet."""
        matched, handler = self._matched, self.run.handler
        if handler is None or handler not in matched:
            return None
        return matched[matched.index(handler) :]

    def _match(self, message: Message) -> Sequence[Handler]:
        self._matched = ()
        matched = self._matched = self._find(message)
        if not matched:
            self._count_unrouted()
        return matched

    def _call_all(self, message: Message) -> None:
        run = self.run
        for handler in self._match(message):
            run.handler = handler
            if not self._is_entered:
                drive(run.enter())
                self._is_entered = True
            argument = handler.argument(message) if handler.decode_as else message
            if self._encloses:
                run.enclosed(handler)((message,), argument)
            else:
                handler.function(argument)

    async def _await_all(self, message: Message) -> None:
        for handler in self._match(message):
            self.run.handler = handler
            argument = handler.argument(message) if handler.decode_as else message
            await handler.function(argument)
