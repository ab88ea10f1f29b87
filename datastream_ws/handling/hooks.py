"""The hooks of one stream, called one after the other, beside the message handlers."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..exceptions import HandlerError
from ..handlers import Handler, Handlers
from .callers import LoopCaller, ThreadCaller, drive
from .contexts import HandlerRun
from .current import called_for, handling

__all__ = ["Hooks"]

LONGEST_QUEUE = 1000  # on_error calls that may wait for a slow hook


@dataclass(slots=True, eq=False)
class HookCall:
    """One call to come; *result* for those who wait, *connection*: where what it sends may go."""

    kind: str
    handler: Handler
    arguments: tuple[Any, ...]
    connection: object | None = None
    result: asyncio.Future[None] | None = None


class Hooks:
    """
    Calls hooks in order; on the loop's thread.

    Plain hooks run on a handler thread, coroutine hooks on the loop.

    Args:
        owner: The client; a ``close()`` of it inside a hook must not wait.
        submit: Runs a function on a handler thread.
        report: Given every :class:`HandlerError` but those of ``on_error`` itself.
        log: Given the latter.

    """

    def __init__(
        self,
        *,
        owner: object,
        handlers: Handlers,
        submit: Callable[[Callable[[], Any]], Future[Any]],
        report: Callable[[BaseException], None],
        log: Callable[[BaseException], None],
    ) -> None:
        self._owner = owner
        self._handlers = handlers
        self._submit = submit
        self._report = report
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[None] | None = None

    # Made at need: a thousand clients have them, and few use them.

    @functools.cached_property
    def _calls(self) -> deque[HookCall]:
        return deque()

    @functools.cached_property
    def _stopped(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def _thread_stopped(self) -> threading.Event:
        return threading.Event()

    def call(self, kind: str, *arguments: Any, connection: object | None = None) -> None:
        """Have the hooks of *kind* called soon; what they send goes over *connection*, if given."""
        if kind == "on_error" and len(self._calls) >= LONGEST_QUEUE:
            return
        for handler in self._handlers.hooks[kind]:
            self._add(HookCall(kind, handler, arguments, connection))

    async def call_and_wait(self, kind: str, connection: object | None = None) -> None:
        """Call the hooks of *kind* after those that wait; raise the first one's HandlerError."""
        handlers = self._handlers.hooks[kind]
        calls = [HookCall(kind, h, (), connection, self._loop.create_future()) for h in handlers]
        for each in calls:
            self._add(each)
        try:
            for each in calls:
                assert each.result is not None
                await each.result
        finally:
            for each in calls:
                if each.result is not None and not each.result.done():
                    each.result.cancel()
                elif each.result is not None and not each.result.cancelled():
                    each.result.exception()  # retrieved: no complaint about a second failure

    def _add(self, call: HookCall) -> None:
        self._calls.append(call)
        if self._task is None:
            self._task = self._loop.create_task(self._work(), context=self._context.copy())

    async def _work(self) -> None:
        handling.set(self._owner)
        try:
            while self._calls:
                call = self._calls.popleft()
                if call.result is None or not call.result.done():
                    await self._make(call)
        finally:
            self._task = None

    async def _make(self, call: HookCall) -> None:
        if call.result is not None and call.handler.is_async:
            await self._make_cancellable(call)
            return
        try:
            await self._run(call)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._is_cancelled():
                raise
            self._failed(call, error)
        else:
            if call.result is not None and not call.result.done():
                call.result.set_result(None)

    def _is_cancelled(self) -> bool:
        """Tell the end of all hooks from one that let a CancelledError of its own escape."""
        return self._task is not None and self._task.cancelling() > 0

    async def _make_cancellable(self, call: HookCall) -> None:
        """Whoever waits for a coroutine hook no more cancels it."""
        assert call.result is not None
        task = self._loop.create_task(self._run(call))
        call.result.add_done_callback(lambda _: task.cancel())
        await asyncio.wait([task])
        if task.cancelled():
            if not call.result.done():
                self._failed(call, asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._failed(call, error)
        elif not call.result.done():
            call.result.set_result(None)

    async def _run(self, call: HookCall) -> None:
        if call.handler.is_async:
            with called_for(self._owner, call.connection):
                await self._run_in(HandlerRun(self._handlers, LoopCaller(self._stopped)), call)
            return
        run = HandlerRun(self._handlers, ThreadCaller(self._loop, self._thread_stopped))
        await asyncio.wrap_future(self._submit(lambda: self._run_in_thread(run, call)))

    def _run_in_thread(self, run: HandlerRun, call: HookCall) -> None:
        token = handling.set(self._owner)
        try:
            with called_for(self._owner, call.connection):
                drive(self._run_in(run, call))
        finally:
            handling.reset(token)

    async def _run_in(self, run: HandlerRun, call: HookCall) -> None:
        try:
            await run.call(call.handler, *call.arguments, hook=call.kind)
        finally:
            await run.leave()

    def _failed(self, call: HookCall, error: BaseException) -> None:
        failure = HandlerError(
            f"{call.kind} hook {call.handler.name} failed with {type(error).__name__}",
            handler=call.handler.function,
        )
        failure.__cause__ = error
        if call.result is not None:
            # It ends the attempt, and is reported there; unless that had ended before.
            if not call.result.done():
                call.result.set_exception(failure)
        elif call.kind == "on_error":
            self._log(failure)
        else:
            self._report(failure)

    async def finish(self, timeout: float) -> None:
        """Wait until every call is made, at most *timeout* seconds; then give up the rest."""
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        if not done and self._task is not None:
            self._calls.clear()
            self._task.cancel()
