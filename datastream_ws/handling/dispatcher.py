"""
Run the workers that empty an inbox.

A worker is a function on a handler thread. If all handlers are coroutine functions, it is a task on
the loop. It makes one run after another until there is nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Sequence

from ..handlers import Handlers
from ..messages import Message
from ..options import ClientOptions
from .batches import Batches
from .callers import (
    Caller,
    LoopCaller,
    ThreadCaller,
    drive,
    is_own_cancellation,
    start_task,
)
from .current import handling
from .inbox import Inbox
from .iteration import Iteration
from .latch import Latch
from .offering import Offering
from .rest import Rest
from .runs import Runs, Worker
from .thread_rest import ThreadRest
from .timing import Timings
from .watchdog import Watchdog

__all__ = ["Dispatcher"]


class Dispatcher:
    """
    Passes the messages of an inbox to handlers, on at most ``concurrency`` workers.

    Args:
        owner: The client. Its ``close()`` must not wait inside a handler.
        spawn: Runs a function on a handler thread.
        wait: Blocks a handler thread for a moment until it acquires a lock. Returns whether it did.
        report: Receives every :class:`HandlerError`, from any thread.
        on_room: Called, from any thread, when reading may resume.
        on_death: Receives the exception that ended a worker unexpectedly.
        gate: Checked before each message. False pauses handling until :meth:`wake`. ``None`` means
            always open.
        tenure: Returns a number for each tenure of the lease, or ``None`` without a tenure.
            ``None`` closes the gate and stops retries, postponed messages and batches.
        is_iterable: Whether messages wait for an iterator while there are no handlers.
        timings: Receives the calls of handlers. ``None`` means a private instance.

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
        wait: Callable[[threading.Lock], bool] = lambda lock: False,
        report: Callable[[BaseException], None],
        on_room: Callable[[], None],
        on_death: Callable[[BaseException], None],
        gate: Callable[[], bool] | None,
        tenure: Callable[[], int | None] = lambda: 0,
        is_iterable: bool = False,
        timings: Timings | None = None,
    ) -> None:
        self._owner = owner
        self._inbox = inbox
        self._handlers = handlers
        self._options = options
        self._loop = loop
        self._spawn = spawn
        self._on_room = on_room
        self._gate = gate
        self._on_death = on_death
        self._is_iterable = is_iterable
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._workers = 0
        self._tasks: list[asyncio.Task[None]] = []  # an empty set would take 216 bytes
        self._callers: list[ThreadCaller] = []
        self._rest: Rest | None = None  # created when first used
        self._thread_rest = ThreadRest(wait)
        self._draining = False
        self._stopped = Latch()
        self.timings = timings or Timings()
        watchdog = self._watchdog(report)
        self._offering = Offering(
            handlers, options, tenure, report, watchdog, self.timings, self._on_the_loop
        )
        self._batches = self._make_batches(tenure)
        self._runs = self._make_runs(gate)
        inbox.is_untaken = self._is_untaken

    def _make_batches(self, tenure: Callable[[], int | None]) -> Batches:
        return Batches(
            offering=self._offering,
            tenure=tenure,
            done=self._done_together,
            discard=self._discard,
            loop=self._loop,
            on_loop=self._on_the_loop,
            wake=self.wake,
        )

    def _make_runs(self, gate: Callable[[], bool] | None) -> Runs:
        return Runs(
            inbox=self._inbox,
            handlers=self._handlers,
            options=self._options,
            offering=self._offering,
            batches=self._batches,
            gate=gate,
            on_room=self._on_room,
            done=self._done,
            discard=self._discard,
            is_stopped=self._stopped.is_set,
            timings=self.timings,
        )

    def _watchdog(self, report: Callable[[BaseException], None]) -> Watchdog | None:
        if self._options.handler_timeout is None:
            return None
        watchdog = Watchdog(self._options.handler_timeout, report)
        self._spawn(functools.partial(watchdog.watch, self._stopped))
        return watchdog

    # Created when first used, and on the loop. With a thousand clients, most are never needed.

    @functools.cached_property
    def _drained(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def _stopped_async(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def iteration(self) -> Iteration:
        """The source of messages for ``async for``."""
        return Iteration(
            self._inbox, self._loop, self._is_open, self._on_room, self._note_iteration
        )

    @property
    def running_handlers(self) -> list[str]:
        """The names of the handlers that are being called."""
        return self._runs.running_handlers

    def _is_open(self) -> bool:
        return self._gate is None or self._gate()

    # --- workers ---

    def wake(self) -> None:
        """Start as many workers as there is work for. It's thread-safe."""
        if (rest := self._rest) is not None and rest.is_taken:
            self._on_the_loop(rest.end)
        if self._is_iterated:
            self._on_the_loop(self._note_iteration)
            return
        for _ in range(self._claim_workers()):
            if self._is_for_the_loop:
                self._on_the_loop(self._start_task)
            else:
                self._spawn(self._work_in_thread)

    def use_changed_handlers(self) -> None:
        """Pass every message whose handling has not begun to the handlers of now; thread-safe."""
        self._inbox.recall()
        self.wake()

    @property
    def _is_for_the_loop(self) -> bool:
        return self._handlers.all_async and self._handlers.has_message_handlers

    def _claim_workers(self) -> int:
        """Wake the threads that rest, and return how many more workers to start."""
        with self._lock:
            free = self._options.concurrency - self._workers
            if self._stopped.is_set() or not (free > 0 or self._thread_rest.is_taken):
                return 0  # a worker that leaves wakes the next one
            messages = self._inbox.ready if self._is_open() else 0
            needed = messages or int(self._batches.has_ready)
            needed -= self._thread_rest.end(needed) + self._is_resting
            number = max(0, min(free, needed))
            self._workers += number
            return number

    @property
    def _is_resting(self) -> bool:
        return self._rest is not None and self._rest.is_taken

    def _on_the_loop(self, function: Callable[[], None]) -> None:
        if asyncio._get_running_loop() is self._loop:
            function()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _start_task(self) -> None:
        work = self._work(LoopCaller(self._stopped_async))
        task = start_task(work, self._loop, self._context.copy())
        self._tasks.append(task)

    def _work_in_thread(self) -> None:
        caller = ThreadCaller(self._loop, self._stopped)
        self._callers.append(caller)
        try:
            drive(self._work(caller))
        finally:
            self._callers.remove(caller)

    async def _work(self, caller: Caller) -> None:
        token = handling.set(self._owner)
        worker = self._runs.hire(caller)
        is_garbage = False
        try:
            while await self._goes_on(worker) and caller.on_loop == self._is_for_the_loop:
                pass
        except BaseException as death:
            if caller.on_loop and isinstance(death, asyncio.CancelledError | GeneratorExit):
                # The loop was closed during a rest. The collector may run anywhere, so do nothing.
                is_garbage = isinstance(death, GeneratorExit)
                raise
            # This is an internal error. Report it, and start no worker that would fail again.
            self._stopped.set()
            self._on_death(death)
        finally:
            if not is_garbage:
                handling.reset(token)
                self._runs.dismiss(worker)
                if caller.on_loop and (task := asyncio.current_task()):
                    self._tasks.remove(task)
                self._leave()

    async def _goes_on(self, worker: Worker) -> bool:
        """Make a run, and return whether there may be something to do for another one."""
        if not await self._runs.run(worker):
            return await self._wait_for_work(worker.caller)
        if worker.caller.on_loop:
            await asyncio.sleep(0)
        return True

    async def _wait_for_work(self, caller: Caller) -> bool:
        """Rest until :meth:`wake`. Return False if the worker must leave instead."""
        if self._must_leave() or self._is_resting or not self._batches.are_empty:
            return False
        if not caller.on_loop:
            return self._thread_rest.take(self._must_leave)
        if is_own_cancellation():  # a handler suppressed it; it must not affect later messages
            return False
        self._rest = self._rest or Rest(self._loop)
        return await self._rest.take(self._must_leave)

    def _must_leave(self) -> bool:
        # Messages that are ready here can't be taken, or wake() came before the rest was visible.
        return self._stopped.is_set() or self._draining or self._inbox.ready > 0

    def _leave(self) -> None:
        with self._lock:
            self._workers -= 1
            last = not self._workers
        if last and self._draining and self._is_idle():
            self._on_the_loop(lambda: self._drained.set())
        self._batches.arm_timer()
        self.wake()  # a message may have arrived since the last pop

    def _done(self, message: Message, failed: bool = False, unrouted: bool = False) -> None:
        if self._inbox.done(message, failed=failed, unrouted=unrouted):
            self._on_room()

    def _done_together(self, messages: Sequence[Message], failed: bool) -> None:
        if self._inbox.done_together(messages, failed=failed):
            self._on_room()

    def _discard(self, message: Message) -> None:
        if self._inbox.discard(message, "shutdown" if self._stopped.is_set() else "lease_lost"):
            self._on_room()

    # --- without handlers ---

    @property
    def _is_iterated(self) -> bool:
        """Whether messages go to iterators instead of handlers."""
        return self._is_iterable and not self._handlers.has_message_handlers

    def _is_untaken(self) -> bool:
        """Whether messages wait for iterators, and there is none."""
        return self._is_iterated and not self.iteration.is_used

    def _note_iteration(self) -> None:
        """Wake the iterators, and check whether draining has finished."""
        self.iteration.note_arrival()
        if self._draining:
            self._drop_untaken()
            if self._is_idle():
                self._drained.set()

    def _drop_untaken(self) -> None:
        """Drop the messages without a taker at the end, because no iterator can come anymore."""
        self._inbox.settle_finished()
        if self._is_untaken():
            self._inbox.drop("untaken")

    # --- the end ---

    async def drain(self) -> None:
        """Wait until every received message is handled, or the gate closes; on the loop."""
        self._draining = self._batches.draining = True
        self._thread_rest.end(self._options.concurrency)
        self._drop_untaken()
        self.wake()
        if not self._is_idle():
            await self._drained.wait()

    def _is_idle(self) -> bool:
        """Return whether nothing is left, or the rest must not be handled."""
        if not self._inbox.waiting:
            return True
        return not self._workers and self._batches.are_empty and not self._is_open()

    async def stop(self) -> None:
        """
        Let no worker take another message; end postponed messages and coroutine handlers.

        Blocks the loop's task for at most 1.5 seconds. Synchronous handlers that are running are
        not interrupted.
        """
        self._stopped.set()
        self._stopped_async.set()
        self._batches.stop()
        self._thread_rest.end(self._options.concurrency)
        if self._rest is not None:
            self._rest.stop()
        for caller in list(self._callers):
            caller.cancel()
        await self._take_back_postponed()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        await asyncio.sleep(0)  # workers on threads report to the loop
        self._offering.flush()

    async def _take_back_postponed(self) -> None:
        """
        Wait until threads have returned their postponed messages, which may belong into a spool.
        """
        for _ in range(100):
            if not any(caller.is_postponing for caller in list(self._callers)):
                return
            await asyncio.sleep(0.005)

    def shed(self) -> None:
        """Discard batched messages at the end of the client, or of a tenure; on the loop."""
        self._batches.shed()
        if self._draining and self._is_idle():
            self._drained.set()

    def end_without_loop(self) -> None:
        """End the workers on threads, because the loop is closed. It's thread-safe."""
        self._stopped.set()
        self._batches.stop()
        for caller in list(self._callers):
            caller.fail(RuntimeError("the event loop was closed while the handler ran"))

    def abandon(self) -> None:
        """Stop after a fork, even if the child's only thread is a worker."""
        self._lock = threading.Lock()
        self._batches.abandon()
        self.timings.abandon()
        self._stopped = Latch()
        self._stopped.set()
