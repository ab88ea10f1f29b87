"""
The workers that empty an inbox: runs, a second try for a message, batches.

A run is a loop in the thread that handles: it pops one message after another until the inbox
is empty, or 100 messages or 50 ms have gone by. Where all handlers are coroutine functions the
same run is a loop in a task. The dispatcher sees only ``pop`` and ``done`` of the inbox.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..exceptions import HandlerError, Postponed
from ..handlers import Handler, Handlers
from ..messages import Message
from ..options import ClientOptions
from .callers import Caller, LoopCaller, ThreadCaller, drive
from .contexts import HandlerRun
from .current import handling
from .inbox import Inbox
from .stretches import Popping, Stretch
from .watchdog import Watchdog

__all__ = ["Dispatcher"]

RUN_MESSAGES = 100
RUN_SECONDS = 0.05
DIRECT_MESSAGES = 1000
QUICK_SECONDS = 0.001


class Stopped(BaseException):
    """The dispatcher stops, or a tenure ends, while a message waits for another try."""


@dataclass(slots=True, eq=False)
class Entry:
    """A message that waits in batches; done once it has left them all."""

    message: Message
    batches: int
    failed: bool


class Batch:
    """What a batch handler will be given next; guarded by the dispatcher's lock."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.entries: list[Entry] = []
        self.due = float("inf")
        self.busy = False

    def add(self, entry: Entry, now: float) -> None:
        if not self.entries:
            self.due = now + self.handler.max_wait
        self.entries.append(entry)

    def is_ready(self, now: float) -> bool:
        return len(self.entries) >= self.handler.max_size or now >= self.due

    def take(self, now: float) -> list[Entry]:
        size = self.handler.max_size
        taken, self.entries = self.entries[:size], self.entries[size:]
        self.due = now + self.handler.max_wait if self.entries else float("inf")
        return taken


@dataclass(slots=True)
class Failure:
    """What a handler, or the user's ``route`` or ``when``, has raised."""

    message: Message
    matched: Sequence[Handler] | None
    handler: Handler | None
    error: BaseException

    @property
    def rest(self) -> Sequence[Handler] | None:
        """The handlers still to be called, the failed one first; ``None``: not known yet."""
        if self.matched is None or self.handler is None:
            return None
        return self.matched[self.matched.index(self.handler) :]


class Dispatcher:
    """
    Hands messages of an inbox to handlers, on at most ``concurrency`` workers.

    Args:
        owner: The client; a ``close()`` of it inside a handler must not wait.
        spawn: Runs a function on a handler thread.
        report: Given every :class:`HandlerError`, from any thread.
        on_room: Called, from any thread, when reading may resume.
        on_death: Given what ended a worker that must not end.
        gate: Looked at before each message; False holds everything back until :meth:`wake`;
            ``None``: nothing does.
        tenure: What the owner holds the stream by, a number per tenure of a lease; ``None``: it
            does not. Closes the gate, and holds back what is in hand but not handed on yet.
        held: Whether messages wait in the inbox while there are no handlers at all.

    """

    def __init__(
        self,
        *,
        owner: object,
        inbox: Inbox,
        handlers: Handlers,
        options: ClientOptions,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Callable[[], None]], None],
        report: Callable[[BaseException], None],
        on_room: Callable[[], None],
        on_death: Callable[[BaseException], None],
        gate: Callable[[], bool] | None,
        tenure: Callable[[], int | None] = lambda: 0,
        held: bool = False,
    ) -> None:
        self._owner = owner
        self._inbox = inbox
        self._handlers = handlers
        self._options = options
        self._loop = loop
        self._spawn = spawn
        self._report = report
        self._on_room = on_room
        self._is_gated = gate is not None
        self._gate = gate or always_open
        self._on_death = on_death
        self._tenure = tenure
        self._held = held
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._workers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: set[ThreadCaller] = set()
        self._batches: dict[Handler, Batch] = {}
        self._timer_at = float("inf")
        self._draining = False
        self._stopped = threading.Event()
        self._watchdog: Watchdog | None = None
        if options.handler_timeout is not None:
            watchdog = self._watchdog = Watchdog(options.handler_timeout, report)
            spawn(lambda: watchdog.watch(self._stopped))

    # Made at need, and on the loop: a thousand clients have them, and few use them.

    @functools.cached_property
    def _drained(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def _stopped_async(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def _arrival(self) -> asyncio.Event:
        """For those who iterate instead of registering handlers."""
        return asyncio.Event()

    # --- workers ---

    def wake(self) -> None:
        """Start the workers that there is work for; from any thread."""
        if self._held and not self._handlers.has_message_handlers:
            self._on_the_loop(self._note_arrival)
            return
        for _ in range(self._claim_workers()):
            if self._handlers.all_async and self._handlers.has_message_handlers:
                self._on_the_loop(self._start_task)
            else:
                self._spawn(self._work_in_thread)

    def _claim_workers(self) -> int:
        with self._lock:
            if self._stopped.is_set():
                return 0
            free = self._options.concurrency - self._workers
            messages = self._inbox.ready if self._gate() else 0
            if self._batches and not messages:
                messages = int(self._has_ready_batch(time.monotonic()))
            number = max(0, min(free, messages))
            self._workers += number
            return number

    def _on_the_loop(self, function: Callable[[], None]) -> None:
        if asyncio._get_running_loop() is self._loop:
            function()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _note_arrival(self) -> None:
        self._arrival.set()
        if self._draining and not self._inbox.waiting:
            self._drained.set()

    async def arrivals(self) -> None:
        """Wait until messages may have come, or the end; for those who iterate, on the loop."""
        self._arrival.clear()
        if not (self._inbox.ready and self._gate()) and not self._stopped.is_set():
            await self._arrival.wait()

    def pop(self) -> Message | None:
        """Return the next message for those who iterate, if there is one and the gate is open."""
        return self._inbox.pop() if self._gate() else None

    def done(self, message: Message) -> None:
        """A message that was popped by iteration is handled."""
        self._done(message)
        if self._draining and self._is_idle():
            self._drained.set()

    def _start_task(self) -> None:
        work = self._work(LoopCaller(self._stopped_async))
        task = self._loop.create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _work_in_thread(self) -> None:
        caller = ThreadCaller(self._loop, self._stopped)
        self._callers.add(caller)
        try:
            drive(self._work(caller))
        finally:
            self._callers.discard(caller)

    async def _work(self, caller: Caller) -> None:
        token = handling.set(self._owner)
        try:
            while await self._run_one(caller):
                if caller.on_loop:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise
        except BaseException as death:
            # A bug of ours: never silence, and never the same worker again and again.
            self._stopped.set()
            self._on_death(death)
        finally:
            handling.reset(token)
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._workers -= 1
            last = not self._workers
        if last and self._draining and self._is_idle():
            self._on_the_loop(lambda: self._drained.set())
        self._arm_timer()
        self.wake()  # something may have come since the last pop

    # --- one run ---

    async def _run_one(self, caller: Caller) -> bool:
        if self._options.handler_timeout is None and self._handlers.is_direct(caller.on_loop):
            return await self._run_direct(caller)
        return await self._run(caller)

    async def _run(self, caller: Caller) -> bool:
        """Handle messages for a while; return whether there may be more."""
        run = HandlerRun(self._handlers, caller)
        inbox, gate = self._inbox, self._gate
        end = time.monotonic() + RUN_SECONDS
        try:
            for _ in range(RUN_MESSAGES):
                message = inbox.pop() if gate() else None
                if message is None:
                    await self._flush_batches(run)
                    return False
                await self._handle(run, message)
                if time.monotonic() > end:
                    break
            if self._batches:
                await self._flush_batches(run)
            return not self._stopped.is_set()
        finally:
            await self._leave_run(run)

    async def _run_direct(self, caller: Caller) -> bool:
        """As :meth:`_run`, where every handler is only to be called, and none is a batch's."""
        run = HandlerRun(self._handlers, caller)
        alone = self._options.concurrency == 1 and not self._is_gated
        stretch = self._inbox.stretch() if alone else None
        source = stretch or Popping(self._inbox, self._gate, self._on_room)
        try:
            return await self._call_directly(run, source)
        finally:
            await self._leave_run(run)

    async def _call_directly(self, run: HandlerRun, source: Stretch | Popping) -> bool:
        """
        Handle messages for a while; return whether there may be more.

        What stands in the loop is what every message costs: as little as can be beside the
        handler's own call (docs/performance.md).
        """
        handlers, awaited, monotonic = self._handlers, run.caller.on_loop, time.monotonic
        every, only, encloses = handlers.every, handlers.only, handlers.has_contexts("call")
        entering = handlers.has_contexts("run")
        most = min(source.most, RUN_MESSAGES if entering else DIRECT_MESSAGES)
        look_at, looked = 1, monotonic()
        end = looked + RUN_SECONDS
        more, failure, handler = False, None, only
        for number, message in enumerate(source.messages, 1):
            matched = every
            try:
                if only is not None:
                    if awaited:
                        await only.function(message)
                    else:
                        only.function(message)
                else:
                    if matched is None:
                        matched = handlers.match(message)
                    for handler in matched:
                        if entering:
                            await run.enter()
                            entering = False
                        argument = handler.argument(message) if handler.decode_as else message
                        if awaited:
                            await handler.function(argument)
                        elif encloses:
                            run.enclosed(handler)((message,), argument)
                        else:
                            handler.function(argument)
            except BaseException as error:
                failure = Failure(message, matched, handler, error)
                break
            if not matched:
                self._inbox.count_unrouted()
            source.handled = number
            if number >= look_at or source.is_over:
                now = monotonic()
                if number >= most or now > end or source.is_over:
                    more = True
                    break
                # Every eighth time while handlers are quick: it costs as much as they do.
                stride = 8 if now - looked < QUICK_SECONDS else 1
                look_at, looked = min(number + stride, most), now
        if source.end(None if failure is None else failure.message):
            self._on_room()
        if failure is not None:
            rest = failure.rest  # without: route or when has raised, and raises again
            await self._handle(run, failure.message, rest, failure.error if rest else None)
        more = (
            more or failure is not None or (isinstance(source, Stretch) and self._inbox.ready > 0)
        )
        return more and not self._stopped.is_set()

    async def _handle(
        self,
        run: HandlerRun,
        message: Message,
        matched: Sequence[Handler] | None = None,
        raised: BaseException | None = None,
    ) -> None:
        """
        Give a message to its handlers and count it.

        Args:
            matched: The handlers still to be called; ``None``: all that match.
            raised: What the first of them has raised already.

        """
        if matched is None:
            try:
                matched = self._handlers.match(message)
            except Exception as error:
                await self._failed(run.caller, self._options.route, (message,), error)
                self._done(message, failed=True)
                return
        failed = False
        batches: list[Handler] = []
        try:
            for handler in matched:
                if handler.is_batch:
                    batches.append(handler)
                elif not await self._offer(run, handler, (message,), raised):
                    failed = True
                raised = None
        except (Stopped, asyncio.CancelledError) as stop:
            self._discard(message)
            if isinstance(stop, asyncio.CancelledError):
                raise
            return
        if batches:
            await self._add_to_batches(run, batches, message, failed)
        else:
            self._done(message, failed=failed, unrouted=not matched)

    async def _offer(
        self,
        run: HandlerRun,
        handler: Handler,
        messages: tuple[Message, ...],
        raised: BaseException | None = None,
    ) -> bool:
        """Call a handler, again if it postponed or may retry; return whether it succeeded."""
        may_retry = True
        while True:
            try:
                if raised is not None:
                    raise raised
                await self._call(run, handler, messages)
                return True
            except Postponed as later:
                tenure = self._tenure()
                await self._leave_run(run)
                if not await run.caller.sleep(later.delay):
                    raise Stopped from None
                if tenure is None or self._tenure() != tenure:
                    raise Stopped from None
            except BaseException as error:
                if _is_own_cancellation(error, run.caller):
                    raise
                if not (may_retry and self._wants_retry(error)):
                    await self._failed(run.caller, handler.function, messages, error, handler.name)
                    return False
                may_retry = False
                await self._leave_run(run)
                if self._tenure() is None:
                    raise Stopped from None
            raised = None

    async def _call(self, run: HandlerRun, handler: Handler, messages: tuple[Message, ...]) -> None:
        if self._watchdog is None:
            await self._call_unwatched(run, handler, messages)
            return
        task = asyncio.current_task() if run.caller.on_loop else None
        with self._watchdog.watching(handler, messages, task):
            await self._call_unwatched(run, handler, messages)

    async def _call_unwatched(
        self, run: HandlerRun, handler: Handler, messages: tuple[Message, ...]
    ) -> None:
        argument = list(messages) if handler.is_batch else handler.argument(messages[0])
        await run.call(handler, argument, messages=messages)

    def _wants_retry(self, error: BaseException) -> bool:
        wanted = self._options.retry_message
        if wanted is None or not isinstance(error, Exception):
            return False
        try:
            return bool(wanted(error))
        except Exception as failure:
            self._report(failure)
            return False

    async def _leave_run(self, run: HandlerRun) -> None:
        try:
            await run.leave()
        except Exception as error:
            await self._failed(run.caller, None, (), error, "a context of use(per='run')")

    async def _failed(
        self,
        caller: Caller,
        function: Any,
        messages: tuple[Message, ...],
        error: BaseException,
        name: str = "the option route, or a handler's when",
    ) -> None:
        failure = HandlerError(
            f"{name} failed with {type(error).__name__}", handler=function, messages=messages
        )
        failure.__cause__ = error
        for keep in tuple(self._handlers.on_failure):
            try:
                await caller.call_blocking(keep, failure)
            except Exception as trouble:
                self._report(trouble)
        self._report(failure)

    def _done(self, message: Message, *, failed: bool = False, unrouted: bool = False) -> None:
        if self._inbox.done(message, failed=failed, unrouted=unrouted):
            self._on_room()

    def _discard(self, message: Message) -> None:
        if self._inbox.discard(message, "shutdown" if self._stopped.is_set() else "lease_lost"):
            self._on_room()

    # --- batches ---

    async def _add_to_batches(
        self, run: HandlerRun, handlers: Sequence[Handler], message: Message, failed: bool
    ) -> None:
        entry = Entry(message, len(handlers), failed)
        now = time.monotonic()
        with self._lock:
            batches = [self._batches.setdefault(h, Batch(h)) for h in handlers]
            for batch in batches:
                batch.add(entry, now)
            full = any(batch.is_ready(now) for batch in batches)
        self._inbox.release(message)
        if full:
            await self._flush_batches(run)
        elif self._options.concurrency > 1:  # this worker may be busy when they are due
            self._arm_timer()

    def _has_ready_batch(self, now: float) -> bool:
        return any(self._is_ready(batch, now) for batch in self._batches.values())

    def _is_ready(self, batch: Batch, now: float) -> bool:
        if batch.busy or not batch.entries or self._tenure() is None:
            return False
        return self._draining or batch.is_ready(now)

    async def _flush_batches(self, run: HandlerRun) -> None:
        while (claimed := self._claim_batch()) is not None:
            batch, entries = claimed
            try:
                await self._flush(run, batch, entries)
            finally:
                with self._lock:
                    batch.busy = False

    def _claim_batch(self) -> tuple[Batch, list[Entry]] | None:
        """Take the next batch that is full or due; one worker at a time per handler."""
        if not self._batches:
            return None
        now = time.monotonic()
        with self._lock:
            for batch in self._batches.values():
                if self._is_ready(batch, now):
                    batch.busy = True
                    return batch, batch.take(now)
        return None

    async def _flush(self, run: HandlerRun, batch: Batch, entries: list[Entry]) -> None:
        messages = tuple(entry.message for entry in entries)
        try:
            succeeded = await self._offer(run, batch.handler, messages)
        except (Stopped, asyncio.CancelledError) as stop:
            for entry in entries:
                self._discard(entry.message)
            if isinstance(stop, asyncio.CancelledError):
                raise
            return
        for entry in entries:
            with self._lock:
                entry.batches -= 1
                entry.failed |= not succeeded
                last = not entry.batches
            if last:
                self._done(entry.message, failed=entry.failed)

    def _arm_timer(self) -> None:
        """
        Have a worker come back when the next batch is due.

        One that is due already is for the next free worker: another timer would only spin.
        """
        if not self._batches:
            return
        now = time.monotonic()
        with self._lock:
            dues = (batch.due for batch in self._batches.values() if batch.due > now)
            due = min(dues, default=float("inf"))
            if due >= self._timer_at or self._stopped.is_set():
                return
            self._timer_at = due
        self._on_the_loop(lambda: self._start_timer(due))

    def _start_timer(self, due: float) -> None:
        self._loop.call_later(max(0.0, due - time.monotonic()), self._timer_ended)

    def _timer_ended(self) -> None:
        self._timer_at = float("inf")
        self._arm_timer()
        self.wake()  # after arming: what falls due in between is seen here

    # --- the end ---

    async def drain(self) -> None:
        """Wait until everything received is handled, as far as the gate allows; on the loop."""
        self._draining = True
        self.wake()
        if not self._is_idle():
            await self._drained.wait()

    def _is_idle(self) -> bool:
        """Nothing is left, or what is left may not be handed out any more."""
        if not self._inbox.waiting:
            return True
        batched = any(batch.entries for batch in list(self._batches.values()))
        return not self._workers and not batched and not self._gate()

    async def stop(self) -> None:
        """Let no worker take another message, end postponed ones and coroutine handlers."""
        self._stopped.set()
        self._stopped_async.set()
        self._arrival.set()
        self.shed()
        for caller in list(self._callers):
            caller.cancel()
        await self._take_back_postponed()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _take_back_postponed(self) -> None:
        """Wait for the threads that give a postponed message back: it may belong into a spool."""
        for _ in range(100):
            if not any(caller.is_postponing for caller in list(self._callers)):
                return
            await asyncio.sleep(0.005)

    def shed(self) -> None:
        """Give up what waits in batches; at the end, or of a tenure. On the loop."""
        with self._lock:
            entries = {id(e): e for b in self._batches.values() for e in b.entries}
            self._batches.clear()
        for entry in entries.values():
            self._discard(entry.message)
        if self._draining and self._is_idle():
            self._drained.set()

    def abandon(self) -> None:
        """After a fork: a worker that goes on here as the child's only thread must stop."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stopped.set()


def always_open() -> bool:
    """Return True: nothing holds messages back."""
    return True


def _is_own_cancellation(error: BaseException, caller: Caller) -> bool:
    """Tell a cancelled worker from a handler that let a CancelledError of its own escape."""
    if not isinstance(error, asyncio.CancelledError) or not caller.on_loop:
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
