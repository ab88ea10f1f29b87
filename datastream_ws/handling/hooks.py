"""
Call connection hooks and report hooks, in two lanes that never wait for each other.

The hooks of a connection are ``on_connect``, ``on_ready`` and ``on_closing``. The task that serves
the connection awaits them, and they end with it. Reports such as ``on_state`` and ``on_error`` are
queued and called one after the other. Synchronous hooks run on a handler thread, coroutine
functions on the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from ..exceptions import HandlerError, NotConnectedError
from ..handlers import Handler, Handlers
from .callers import LoopCaller, ThreadCaller, drive, is_own_cancellation, start_task
from .contexts import HandlerRun
from .current import called_for, handling
from .latch import Latch
from .watchdog import task_stack

__all__ = ["ConnectionHooks", "HookFailure", "Reports", "is_effect"]

MOST_REPORTS = 1000  # most reports that wait behind a slow one
CANCEL_SECONDS = 1.0  # time for a canceled hook to end
GIVE_UP_SECONDS = 0.1  # time for a canceled report; short, because close() waits for it last

Submit = Callable[[Callable[[], Any]], Future[Any]]


class HookFailure(Exception):
    """
    A connection hook has raised an exception.

    Attributes:
        report: The error for ``on_error``. Its cause is the exception.

    """

    def __init__(self, report: HandlerError) -> None:
        super().__init__(str(report))
        self.report = report


def failure_of(kind: str, handler: Handler, error: BaseException) -> HandlerError:
    failure = HandlerError(
        f"{kind} hook {handler.name} failed with {type(error).__name__}", handler=handler.function
    )
    failure.__cause__ = error
    return failure


def is_effect(error: BaseException | None) -> bool:
    """Return whether a hook raised *error* because the connection had ended."""
    while error is not None and not isinstance(error, NotConnectedError):
        error = error.__cause__ or error.__context__
    return error is not None


class HookCalls:
    """Calls single hooks for both lanes of one client."""

    def __init__(self, *, owner: object, handlers: Handlers, submit: Submit) -> None:
        self._owner = owner
        self._handlers = handlers
        self.submit = submit
        self._loop = asyncio.get_running_loop()

    # Created when first used: with a thousand clients, most are never needed.

    @functools.cached_property
    def _stopped(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def _thread_stopped(self) -> Latch:
        return Latch()

    async def call_on_loop(self, kind: str, handler: Handler, *arguments: Any) -> None:
        """Call a coroutine hook in the current task."""
        token = handling.set(self._owner)
        try:
            run = HandlerRun(self._handlers, LoopCaller(self._stopped))
            await _call_and_leave(run, kind, handler, arguments)
        finally:
            handling.reset(token)

    def call_in_thread(self, kind: str, handler: Handler, *arguments: Any) -> None:
        """Call a synchronous hook in the current thread, and block until it returns."""
        token = handling.set(self._owner)
        try:
            run = HandlerRun(self._handlers, ThreadCaller(self._loop, self._thread_stopped))
            drive(_call_and_leave(run, kind, handler, arguments))
        finally:
            handling.reset(token)


async def _call_and_leave(
    run: HandlerRun, kind: str, handler: Handler, arguments: tuple[Any, ...]
) -> None:
    try:
        await run.call(handler, *arguments, hook=kind)
    finally:
        await run.leave()


class ConnectionHooks:
    """
    Calls the hooks of one connection after the other; the awaiting task may be canceled.

    A synchronous hook cannot be stopped. If it is still running when the next connection needs it,
    that call waits. So a hook blocks one thread at most, not one per connection. A coroutine hook
    runs in its own task, so one that ignores its cancellation delays nothing.

    Args:
        submit: Runs a function on a handler thread.
        report: Receives what a hook raises after its call was canceled, from any thread.
        warn: Logs a line.

    """

    def __init__(
        self,
        *,
        owner: object,
        handlers: Handlers,
        submit: Submit,
        report: Callable[[BaseException], None],
        warn: Callable[[str], None],
    ) -> None:
        self._owner = owner
        self._handlers = handlers
        self._report = report
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._calls = HookCalls(owner=owner, handlers=handlers, submit=submit)
        # names of canceled tasks that have not ended
        self._cancelled: dict[asyncio.Task[Any], str] = {}
        self._running: dict[tuple[str, Handler], Future[None]] = {}

    def has(self, kind: str) -> bool:
        return bool(self._handlers.hooks[kind])

    async def call(self, kind: str, connection: object) -> None:
        """
        Call the hooks of *kind* in order.

        Raises:
            HookFailure: From the exception of the first hook that fails.

        """
        for handler in self._handlers.hooks[kind]:
            try:
                await self._call(kind, handler, connection)
            except asyncio.CancelledError as error:
                if is_own_cancellation():
                    raise
                raise HookFailure(failure_of(kind, handler, error)) from error
            except BaseException as error:
                raise HookFailure(failure_of(kind, handler, error)) from error

    async def _call(self, kind: str, handler: Handler, connection: object) -> None:
        is_login = kind == "on_connect"
        if handler.is_async:
            await self._call_on_loop(kind, handler, connection, is_login)
            return
        await self._previous(kind, handler)

        def in_thread() -> None:
            with called_for(self._owner, connection, is_login=is_login):
                self._calls.call_in_thread(kind, handler)

        future = self._running[kind, handler] = self._calls.submit(in_thread)
        future.add_done_callback(lambda _: self._running.pop((kind, handler), None))
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if is_own_cancellation():
                ended_late = functools.partial(self._ended_late, kind, handler)
                future.add_done_callback(lambda _: ended_late(future.exception()))
            raise

    def _task_ended_late(
        self, kind: str, handler: Handler, task: asyncio.Task[BaseException | None]
    ) -> None:
        if not task.cancelled():
            self._ended_late(kind, handler, task.result())

    def _ended_late(self, kind: str, handler: Handler, error: BaseException | None) -> None:
        """Report the failure of a hook that nothing waits for, because its connection has ended."""
        if error is not None and not is_effect(error):
            self._report(failure_of(kind, handler, error))

    async def _call_on_loop(
        self, kind: str, handler: Handler, connection: object, is_login: bool
    ) -> None:
        async def in_task() -> BaseException | None:
            try:
                with called_for(self._owner, connection, is_login=is_login):
                    await self._calls.call_on_loop(kind, handler)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # SystemExit in a task would end the loop
                return error
            return None

        task = self._loop.create_task(in_task())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(functools.partial(self._task_ended_late, kind, handler))
            await self._cancel(task, f"{kind} hook {handler.name}")
            raise
        if (error := task.result()) is not None:
            raise error

    async def _cancel(self, task: asyncio.Task[Any], name: str) -> None:
        """Cancel a hook; log a warning if it does not end soon."""
        if task.done():
            return
        self._cancelled[task] = name
        task.add_done_callback(self._cancelled.pop)
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_SECONDS)
        self._warn_of(task, "was canceled and keeps running")

    def _warn_of(self, task: asyncio.Task[Any], what: str) -> None:
        if not task.done():
            self._warn(f"{self._cancelled[task]} {what}; it is at\n{task_stack(task)}")

    async def finish(self, timeout: float) -> None:
        """Give canceled hooks *timeout* seconds to end, and log those that do not."""
        tasks = list(self._cancelled)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        for task in tasks:
            self._warn_of(task, "ignores its cancellation and outlives the client")

    async def _previous(self, kind: str, handler: Handler) -> None:
        """Wait until the previous call of a synchronous hook has returned."""
        running = self._running.get((kind, handler))
        if running is not None:
            previous = asyncio.wrap_future(running)
            previous.add_done_callback(_retrieve)
            await asyncio.wait([previous])


def _retrieve(future: asyncio.Future[None]) -> None:
    """Retrieve what a hook of an ended connection raised, because asyncio logs it otherwise."""
    if not future.cancelled():
        future.exception()


class Report(NamedTuple):
    kind: str
    handler: Handler
    argument: object


class Reports:
    """
    Calls report hooks in order, independently of everything else; on the loop's thread.

    A slow hook delays later reports only. At most MOST_REPORTS reports wait.

    Args:
        submit: Runs a function on a handler thread.
        report: Receives every :class:`HandlerError`, except those of ``on_error`` hooks, from any
            thread.
        log: Receives the errors of ``on_error`` hooks, from any thread.
        warn: Logs a line.

    Attributes:
        dropped: How many calls found the queue full, or were given up at the end.

    """

    def __init__(
        self,
        *,
        owner: object,
        handlers: Handlers,
        submit: Submit,
        report: Callable[[BaseException], None],
        log: Callable[[BaseException], None],
        warn: Callable[[str], None],
    ) -> None:
        self.dropped = 0
        self._handlers = handlers
        self._report = report
        self._log = log
        self._warn = warn
        self._is_over = False
        self._in_hand: Report | None = None
        self._calls = HookCalls(owner=owner, handlers=handlers, submit=submit)
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[None] | None = None

    @functools.cached_property
    def _waiting(self) -> deque[Report]:
        return deque()

    def put(self, kind: str, argument: object) -> None:
        """Schedule the hooks of *kind*, or count them as dropped if the queue is full."""
        for handler in self._handlers.hooks[kind]:
            if self._is_over or len(self._waiting) >= MOST_REPORTS:
                self.dropped += 1
                continue
            self._waiting.append(Report(kind, handler, argument))
            if self._task is None:
                self._task = start_task(self._work(), self._loop, self._context.copy())

    async def _work(self) -> None:
        try:
            while self._waiting:
                self._in_hand = self._waiting.popleft()
                await self._make(self._in_hand)
        finally:
            self._task = None

    async def _make(self, report: Report) -> None:
        try:
            if report.handler.is_async:
                await self._calls.call_on_loop(*report)
            else:
                await self._make_in_thread(report)
        except asyncio.CancelledError as error:
            if is_own_cancellation():
                raise
            self._failed(report, error)
        except BaseException as error:
            self._failed(report, error)

    async def _make_in_thread(self, report: Report) -> None:
        call = functools.partial(self._calls.call_in_thread, *report)
        future = self._calls.submit(call)
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if is_own_cancellation():
                future.add_done_callback(lambda _: self._ended_late(report, future.exception()))
            raise

    def _ended_late(self, report: Report, error: BaseException | None) -> None:
        """Report the failure of a hook that was given up."""
        if error is not None:
            self._failed(report, error)

    def _failed(self, report: Report, error: BaseException) -> None:
        failure = failure_of(report.kind, report.handler, error)
        if report.kind == "on_error":
            self._log(failure)
        else:
            self._report(failure)

    async def finish(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for all reports, then drop the rest."""
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=timeout)
        self._is_over = True
        if task is not None and not task.done():
            self.dropped += len(self._waiting)
            self._waiting.clear()
            await self._give_up(task)

    async def _give_up(self, task: asyncio.Task[None]) -> None:
        """Cancel the report that is running; log a warning if it does not end."""
        assert self._in_hand is not None
        kind, handler, _ = self._in_hand
        name = f"{kind} handler {handler.name}"
        if not handler.is_async:
            self._warn(f"{name} outlives the client; it is still running in a thread")
        task.cancel()
        await asyncio.wait([task], timeout=GIVE_UP_SECONDS)
        if not task.done():
            self._warn(
                f"{name} ignores its cancellation and outlives the client; "
                f"it is at\n{task_stack(task)}"
            )
