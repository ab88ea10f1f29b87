"""
Handle messages in runs: the loop of one worker.

A run takes messages until the inbox is empty, or until enough messages or 50 ms have passed. It
executes on a handler thread, or in a task if all handlers are coroutine functions. The contexts of
``use(per="run")`` are entered around it. A worker makes one run after another.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from ..handlers import Handler, Handlers
from ..messages import Message
from ..options import ClientOptions
from .batches import Batches
from .callers import Caller
from .contexts import HandlerRun
from .direct import DirectCalls
from .inbox import Inbox, Portion
from .offering import Offering, Stopped, match
from .timing import QUICK_SECONDS, Notes, Timings

__all__ = ["Runs", "Worker"]

RUN_SECONDS = 0.05
RUN_MESSAGES = 100  # limit if there are run contexts, or retries and batches to serve
LONG_RUN_MESSAGES = 1000
STRIDE = 8  # quick messages between two clock readings


class Worker:
    """
    One worker, and what it keeps from run to run while no handler or context changes.

    Attributes:
        run: The contexts and the notes of its calls.
        calls: The compiled direct calls. ``None`` before the first one, and if run contexts must be
            entered anew in each run.

    """

    __slots__ = ("_handlers", "_notes", "_registered", "caller", "calls", "run")

    def __init__(self, handlers: Handlers, caller: Caller, notes: Notes) -> None:
        self._handlers = handlers
        self._notes = notes
        self.caller = caller
        self._renew()

    def _renew(self) -> None:
        self._registered = self._handlers.registered
        self.run = HandlerRun(self._handlers, self.caller, self._notes)
        self.calls: DirectCalls | None = None

    @property
    def is_outdated(self) -> bool:
        """Whether a handler or a context was registered or removed since the run began."""
        return self._handlers.registered != self._registered

    def begin_run(self) -> HandlerRun:
        if self.is_outdated or self._handlers.has_contexts("run"):
            self._renew()
        return self.run

    def end_run(self) -> None:
        """Publish the notes, and forget the last message and its handler."""
        self.run.handler = self.run.message = None
        self._notes.add_up()


class Runs:
    """
    The runs of one dispatcher. Every worker calls it from its own thread or task.

    Args:
        gate: Checked before each message. False pauses handling. ``None`` means always open.
        on_room: Called when the inbox has room again.
        done: Called with a message, whether it failed, and whether it had no handler.
        discard: Called with a message that must not be handled anymore.
        is_stopped: Whether workers must take no more messages.
        timings: Receives call counts and durations.

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
        self._workers: list[Worker] = []

    @property
    def running_handlers(self) -> list[str]:
        """The names of the handlers that are being called. Reading them is thread-safe."""
        # Each is read once, because its thread may change it meanwhile.
        handlers = [worker.run.handler for worker in list(self._workers)]
        return sorted({handler.name for handler in handlers if handler is not None})

    def hire(self, caller: Caller) -> Worker:
        """Return a new worker, to be passed to :meth:`run` until :meth:`dismiss`."""
        worker = Worker(self._handlers, caller, Notes(self._timings))
        self._workers.append(worker)
        return worker

    def dismiss(self, worker: Worker) -> None:
        self._workers.remove(worker)

    async def run(self, worker: Worker) -> bool:
        """Handle messages for a while, and return whether there may be more."""
        run = worker.begin_run()
        try:
            # A batch may outlive the registration of its handler.
            if self._handlers.is_direct(worker.caller.on_loop) and self._batches.are_empty:
                with self._offering.watching(run):
                    return await self._call_directly(worker)
            return await self._offer_one_by_one(run)
        finally:
            worker.end_run()
            await self._offering.leave(run)

    def _pop(self) -> Message | None:
        return self._inbox.pop() if self._is_open() else None

    def _is_open(self) -> bool:
        return self._gate is None or self._gate()

    # --- direct calls: no retries, no batches ---

    async def _call_directly(self, worker: Worker) -> bool:
        run = worker.run
        calls = worker.calls = worker.calls or self._direct_calls(run)
        calls.begin_run()
        most = RUN_MESSAGES if self._handlers.has_contexts("run") else LONG_RUN_MESSAGES
        end = time.monotonic() + RUN_SECONDS
        if self._options.concurrency > 1:
            return await self._call_singly(worker, calls, most, end)
        while most > 0:
            portion = self._inbox.pop_many(most)
            if portion is None:
                return await self._call_singly(worker, calls, most, end)
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
            if not await self._has_more(run.caller):
                return False
            if self._must_end(worker, end):
                break
        return not self._is_stopped() and self._is_open()

    def _must_end(self, worker: Worker, end: float) -> bool:
        return worker.is_outdated or time.monotonic() > end or not self._is_open()

    async def _has_more(self, caller: Caller) -> bool:
        """Let the loop read once more, because a new run costs more than to wait for it."""
        if not self._inbox.ready and caller.on_loop:
            await asyncio.sleep(0)
        return self._inbox.ready > 0

    def _direct_calls(self, run: HandlerRun) -> DirectCalls:
        handlers = self._handlers
        # Without inline handlers, skip match(), which would be paid for every message.
        inline = handlers.inline.handlers
        find = functools.partial(match, handlers) if inline else handlers.routing.match

        def find_or_count(message: Message) -> Sequence[Handler]:
            return find(message) or self._unrouted(message)

        return DirectCalls(handlers, run, find_or_count, handlers.routing, only=handlers.only)

    def _unrouted(self, message: Message) -> Sequence[Handler]:
        """Count a message without a handler; raises DecodeError if its route cannot be read."""
        match(self._handlers, message)
        self._inbox.count_unrouted()
        return ()

    async def _call_for_each(
        self, portion: Portion, calls: DirectCalls, end: float
    ) -> BaseException | None:
        """
        Handle messages of a portion until *end*; return what a handler has raised.

        Every message pays for each statement in the loop, so it does as little as possible
        (docs/performance.md). IndexError from the iterator ends it.
        """
        awaited, taken = calls.awaited, self._taken(portion)
        call, stride = calls.next
        now = time.monotonic()
        with suppress(IndexError):  # the portion is empty, or the gate closed
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
        calls.note_stride(time.monotonic() - now, stride)  # the stride that ended with the portion
        return None

    def _taken(self, portion: Portion) -> Iterator[Message]:
        """Return an iterator that takes messages while the gate is open; see Portion.taken."""
        return portion.taken() if self._gate is None else _while_open(self._gate, portion)

    async def _call_singly(self, worker: Worker, calls: DirectCalls, most: int, end: float) -> bool:
        """Handle messages one by one, popping each after the previous one; for several workers."""
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
            is_late = number >= most or worker.is_outdated
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
        """Pass a message to its remaining handlers, with retries for the one that has raised."""
        rest = calls.rest
        calls.notes.add_up()  # a retry may take long, so publish the counts now
        await self._handle(calls.run, message, rest, error if rest else None)

    # --- with retries, batches or postponing ---

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
        """
        Move waiting messages into *batch* in slices until *end*; the rest is popped one by one.
        """
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
        Pass a message to its handlers and count it.

        Args:
            rest: The handlers still to be called. ``None`` means all that match.
            raised: The exception that the first of them has already raised.

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
        elif self._options.concurrency > 1:  # this worker may be busy when the batch falls due
            self._batches.arm_timer()


def _while_open(gate: Callable[[], bool], portion: Portion) -> Iterator[Message]:
    """Yield the messages of a portion; raise IndexError when it is empty or the gate is closed."""
    for _ in iter(gate, False):
        yield portion.left.popleft()
    raise IndexError
