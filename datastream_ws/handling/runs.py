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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from ..handlers import Handler, Handlers
from ..messages import Message
from ..options import ClientOptions
from .batches import Batches
from .callers import Caller, drive
from .contexts import HandlerRun
from .inbox import Inbox, Portion
from .offering import Offering, Stopped, match
from .timing import QUICK_SECONDS, Notes, Timings

__all__ = ["Runs"]

RUN_SECONDS = 0.05
RUN_MESSAGES = 100  # where the run's contexts are entered, or more than calls is to be done
LONG_RUN_MESSAGES = 1000
STRIDE = 8  # messages of QUICK_SECONDS in all, between two looks at the clock
LONGEST_STRIDE = 32  # the same where messages are taken by portions


class Runs:
    """
    Makes the runs of one dispatcher; from any of its workers.

    Args:
        gate: Looked at before each message; False holds everything back; ``None``: nothing does.
        done, discard: Told what became of a message.
        is_stopped: No worker is to take another message.
        timings: Told of the calls.

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
        timings: Timings,
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
        self._timings = timings
        self._running: set[HandlerRun] = set()

    @property
    def at_work(self) -> list[str]:
        """The names of the handlers that are called; from any thread."""
        return sorted({run.handler.name for run in list(self._running) if run.handler})

    async def run(self, caller: Caller) -> bool:
        """Handle messages for a while; return whether there may be more."""
        notes = Notes(self._timings)
        run = HandlerRun(self._handlers, caller, notes)
        self._running.add(run)
        try:
            if self._handlers.is_direct(caller.on_loop):
                with self._offering.watching(run):
                    return await self._call_directly(run)
            return await self._offer_one_by_one(run)
        finally:
            self._running.discard(run)
            notes.add_up()
            await self._offering.leave(run)

    def _pop(self) -> Message | None:
        return self._inbox.pop() if self._is_open() else None

    def _is_open(self) -> bool:
        return self._gate is None or self._gate()

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
            run.portion = portion
            error = await self._call_for_each(portion, calls, end)
            calls.note(portion.begun)
            message, run.portion = portion.in_hand, None
            if self._inbox.settle(portion):
                self._on_room()
            if error is not None:
                assert message is not None
                await self._go_on_after(calls, message, error)
                break
            if not self._inbox.ready:
                return False
            if time.monotonic() > end or not self._is_open():
                break
        return not self._is_stopped() and self._is_open()

    async def _call_for_each(
        self, portion: Portion, calls: DirectCalls, end: float
    ) -> BaseException | None:
        """
        Handle messages of a portion until *end*; return what a handler has raised.

        What stands in the loop is what every message costs: as little as can be beside the
        handler's own call (docs/performance.md).
        """
        awaited, taken = calls.awaited, self._taken(portion)
        call, stride = calls.next
        now = time.monotonic()
        with suppress(IndexError):  # nothing is left
            while now < end:
                for message in islice(taken, stride):
                    portion.in_hand = message
                    try:
                        if awaited:
                            await call(message)
                        else:
                            call(message)
                    except BaseException as error:
                        calls.note_stride(time.monotonic() - now, stride)
                        return error
                before, now = now, time.monotonic()
                call, stride = calls.after_stride(now - before, stride)
        portion.in_hand = None
        calls.note_stride(time.monotonic() - now, stride)  # one that ended with the portion
        return None

    def _taken(self, portion: Portion) -> Iterator[Message]:
        """Take the messages of a portion, each while the gate is open; see Portion.taken."""
        return portion.taken() if self._gate is None else _while_open(self._gate, portion)

    async def _call_singly(self, calls: DirectCalls, most: int, end: float) -> bool:
        """As with portions, but each message is popped once the one before it is handled."""
        run, message = calls.run, self._pop()
        number, look_at, looked, seen = 0, 1, time.monotonic(), 0
        while message is not None:
            number += 1
            run.message = message
            call = calls.either[number >= look_at]
            try:
                if calls.awaited:
                    await call(message)
                else:
                    call(message)
            except BaseException as error:
                run.message = None
                calls.note(number)
                await self._go_on_after(calls, message, error)
                return not self._is_stopped()
            is_late = number >= most
            if number >= look_at:
                before, looked = looked, time.monotonic()
                calls.note_between(looked - before, number - seen)
                is_late |= looked > end
                seen = number
                look_at = number + (STRIDE if looked - before < QUICK_SECONDS else 1)
            if is_late or not self._is_open():
                calls.note(number)
                self._done(message, False, False)
                return is_late and not self._is_stopped()
            run.message = None
            message, room = self._inbox.pop_after(message)
            if room:
                self._on_room()
        calls.note_rest(time.monotonic() - looked, number - seen)
        calls.note(number)
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
        batch = self._handlers.only_batch
        if batch is not None and batch.max_wait > 0 and self._options.concurrency == 1:
            await self._add_together(run, batch, end)
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

    async def _add_together(self, run: HandlerRun, batch: Handler, end: float) -> None:
        """Give a batch what waits, a slice at a time, until *end*; the rest is popped singly."""
        while not self._is_stopped() and self._is_open():
            messages = self._inbox.pop_together(min(batch.max_size, LONG_RUN_MESSAGES))
            if not messages:
                return
            if self._batches.add_together(batch, messages):
                await self._batches.flush(run)
            if time.monotonic() > end:
                return

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


def _while_open(gate: Callable[[], bool], portion: Portion) -> Iterator[Message]:
    """Take one message of a portion after the other; IndexError when it must not."""
    for _ in iter(gate, False):
        yield portion.left.popleft()
    raise IndexError


class DirectCalls:
    """
    How the handlers of each message are called in one run, with nothing around it.

    Attributes:
        call: To be given a message; raises what a handler, or ``route`` or ``when``, raises.
        timed: The same, and notes how long each handler takes; for the first message of a run, and
            for those that follow a slow one.
        awaited: Whether they are coroutine functions.
        next: How the next messages are called, and how many before the next look at the clock.

    """

    def __init__(
        self, handlers: Handlers, run: HandlerRun, count_unrouted: Callable[[], None]
    ) -> None:
        assert run.notes is not None
        self.run = run
        self._handlers = handlers
        self.awaited = run.caller.on_loop
        self._notes = run.notes
        # Without a step in between where no handler is inline: it would cost every message.
        inline = handlers.inline.handlers
        self._find = functools.partial(match, handlers) if inline else handlers.routing.match
        self._count_unrouted = count_unrouted
        self._is_entered = not handlers.has_contexts("run")
        self._encloses = handlers.has_contexts("call")
        self._is_special = self._encloses or not self._is_entered
        self._stride = 1
        self._matched: Sequence[Handler] = ()
        self._only = only = handlers.only
        self.call: Callable[[Message], Any]
        self.timed: Callable[[Message], Any]
        self.either: tuple[Callable[[Message], Any], ...]
        if only is not None:
            self._matched, run.handler, self.call = (only,), only, run.compiled(only)
            timed: Callable[[Message], Any] = self._call_only
            self.timed = self._await_only if self.awaited else timed
        else:
            self.call, self.timed = self._awaiting_all() if self.awaited else self._calling_all()

        self.either = self.call, self.timed
        self.next: tuple[Callable[[Message], Any], int] = self.timed, 1

    @property
    def rest(self) -> Sequence[Handler] | None:
        """The handlers still to be called, the failed one first; ``None``: not known yet."""
        matched, handler = self._matched, self.run.handler
        if handler is None or handler not in matched:
            return None
        return matched[matched.index(handler) :]

    # --- one handler that is given every message ---

    def _call_only(self, message: Message) -> None:
        started = time.monotonic()
        try:
            self._enter()  # here, because a run begins with a call that is timed
            self.call(message)
        finally:
            self._note_only(time.monotonic() - started)

    async def _await_only(self, message: Message) -> None:
        started = time.monotonic()
        try:
            await self.call(message)
        finally:
            self._note_only(time.monotonic() - started)

    def _note_only(self, seconds: float) -> None:
        assert self._only is not None
        self._notes.timed.append((self._only, seconds))

    def note(self, messages: int) -> None:
        """So many messages were handed on; hand over what else was noted."""
        if self._only is None:
            self._notes.add_up()
            self.next = self.timed, 1  # another route's handlers may come first
        else:  # nothing else counts them
            self._notes.add_up_only(self._only, messages)

    def after_stride(self, seconds: float, messages: int) -> tuple[Callable[[Message], Any], int]:
        """Return how the next messages are called, and how many before the next look."""
        if seconds < QUICK_SECONDS:
            self._stride = min(2 * self._stride, LONGEST_STRIDE)
            self.next = self.call, self._stride
        else:
            self.note_stride(seconds, messages)
            self._stride = 1
            self.next = self.timed, 1
        return self.next

    def note_stride(self, seconds: float, messages: int) -> None:
        """Note the slow call among *messages* that took *seconds*; a single one was timed."""
        self._note_slow(seconds, messages if messages > 1 else 0)

    def note_between(self, seconds: float, messages: int) -> None:
        """As :meth:`note_stride`, where the last one was timed, and what it took is in it."""
        timed = self._notes.timed
        self._note_slow(seconds - timed[-1][1] if timed else seconds, messages - 1)

    def note_rest(self, seconds: float, messages: int) -> None:
        """As :meth:`note_stride`, where none was timed."""
        self._note_slow(seconds, messages)

    def _note_slow(self, seconds: float, untimed: int) -> None:
        if self._only is None or untimed < 1 or seconds < QUICK_SECONDS:
            return
        timed = self._notes.timed
        usual = min(timed[-1][1], QUICK_SECONDS) if timed else 0.0
        timed.append((self._only, max(usual, seconds - (untimed - 1) * usual)))

    # --- several ---

    # Closures: what is looked up in an object would cost every message.

    def _calling_all(self) -> tuple[Callable[[Message], Any], Callable[[Message], Any]]:
        run, find, clock, is_special = self.run, self._find, time.monotonic, self._is_special
        count, note = self._notes.called.append, self._notes.note
        last, limit = clock(), QUICK_SECONDS

        def call(message: Message) -> None:
            nonlocal last
            run.handler = None  # finding them may fail
            matched = self._matched = find(message) or self._unrouted(message)
            if limit < 0:  # else what finds the handlers counts, too
                last = clock()
            for handler in matched:
                run.handler = handler
                count(handler)
                try:
                    if is_special or handler.decode_as:
                        self._call_specially(handler, message)
                    else:
                        handler.function(message)
                finally:
                    before, last = last, clock()
                    if last - before > limit:
                        note(handler, last - before)

        def timed(message: Message) -> None:
            nonlocal limit
            limit = -1.0
            try:
                call(message)
            finally:
                limit = QUICK_SECONDS

        return call, timed

    def _call_specially(self, handler: Handler, message: Message) -> None:
        """Call a plain handler within its contexts, with what it wants to be given."""
        self._enter()
        argument = handler.argument(message)
        if self._encloses:
            self.run.enclosed(handler)((message,), argument)
        else:
            handler.function(argument)

    def _enter(self) -> None:
        if not self._is_entered:
            drive(self.run.enter())
            self._is_entered = True

    def _unrouted(self, message: Message) -> Sequence[Handler]:
        """Count a message that no handler takes; raises if its route cannot be read."""
        match(self._handlers, message)
        self._count_unrouted()
        return ()

    def _awaiting_all(self) -> tuple[Callable[[Message], Any], Callable[[Message], Any]]:
        run, find, clock = self.run, self._find, time.monotonic
        count, note = self._notes.called.append, self._notes.note
        last, limit = clock(), QUICK_SECONDS

        async def call(message: Message) -> None:
            nonlocal last
            run.handler = None  # finding them may fail
            matched = self._matched = find(message) or self._unrouted(message)
            if limit < 0:
                last = clock()
            for handler in matched:
                run.handler = handler
                count(handler)
                try:
                    await handler.function(
                        handler.argument(message) if handler.decode_as else message
                    )
                finally:
                    before, last = last, clock()
                    if last - before > limit:
                        note(handler, last - before)

        async def timed(message: Message) -> None:
            nonlocal limit
            limit = -1.0
            try:
                await call(message)
            finally:
                limit = QUICK_SECONDS

        return call, timed
