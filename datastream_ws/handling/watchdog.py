"""Report handlers that run too long, with their name and stack."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..exceptions import HandlerError
from ..handlers import Handler
from ..messages import Message
from .contexts import HandlerRun
from .latch import Latch

__all__ = ["Watchdog", "task_stack"]

LOOK_SECONDS = 1.0  # maximum time between two checks


@dataclass(slots=True)
class RunningCall:
    """
    A handler call that the watchdog observes.

    Attributes:
        started: When it began, of ``time.monotonic()``.
        thread: The identifier of the calling thread.
        task: The task that awaits the handler. ``None`` means that it runs in the thread itself.

    """

    handler: Handler
    messages: tuple[Message, ...]
    started: float
    thread: int
    task: asyncio.Task[Any] | None
    reported: bool = False


@dataclass(slots=True, eq=False)
class WatchedRun:
    """
    A run whose calls the watchdog samples, because recording each would be too slow.

    Attributes:
        at: The message and the handler of the last sample.
        since: When that pair was first sampled.

    """

    run: HandlerRun
    thread: int
    task: asyncio.Task[Any] | None
    at: tuple[Message | None, Handler | None] = (None, None)
    since: float = 0.0
    reported: bool = False

    def look(self, now: float, limit: float) -> RunningCall | None:
        """Return the current call if it has run for more than *limit* seconds, but only once."""
        message, handler = at = self.run.in_hand, self.run.handler
        if at[0] is not self.at[0] or at[1] is not self.at[1]:
            self.at, self.since, self.reported = at, now, False
        if self.reported or message is None or handler is None or now - self.since <= limit:
            return None
        self.reported = True
        return RunningCall(handler, (message,), self.since, self.thread, self.task)


class Watchdog:
    """
    Reports the slow handler calls of one dispatcher.

    Args:
        limit: The option ``handler_timeout``, in seconds.
        report: Receives one :class:`HandlerError` per slow call, on the watching thread.

    """

    def __init__(self, limit: float, report: Callable[[BaseException], None]) -> None:
        self._limit = limit
        self._report = report
        self._watched: dict[int, RunningCall] = {}
        self._runs: dict[int, WatchedRun] = {}

    @contextmanager
    def watching(
        self, handler: Handler, messages: tuple[Message, ...], task: asyncio.Task[Any] | None
    ) -> Iterator[None]:
        """
        Observe the handler call within.

        Args:
            task: The task that awaits the handler. ``None`` means that it runs in this thread.

        """
        watched = RunningCall(handler, messages, time.monotonic(), threading.get_ident(), task)
        self._watched[id(watched)] = watched
        try:
            yield
        finally:
            del self._watched[id(watched)]

    @contextmanager
    def watching_run(self, run: HandlerRun, task: asyncio.Task[Any] | None) -> Iterator[None]:
        """Sample the direct calls of a run. A slow one is reported up to one check later."""
        watched = WatchedRun(run, threading.get_ident(), task)
        self._runs[id(watched)] = watched
        try:
            yield
        finally:
            del self._runs[id(watched)]

    def watch(self, stopped: Latch) -> None:
        """
        Check the calls until *stopped* is set; runs on its own thread, because a loop may block.
        """
        while not stopped.wait(min(LOOK_SECONDS, self._limit / 4)):
            now = time.monotonic()
            for watched in list(self._watched.values()):
                if not watched.reported and now - watched.started > self._limit:
                    watched.reported = True
                    self._report_slow(watched)
            for run in list(self._runs.values()):
                if (call := run.look(now, self._limit)) is not None:
                    self._report_slow(call)

    def _report_slow(self, watched: RunningCall) -> None:
        failure = HandlerError(
            f"{watched.handler.name} is slow",
            handler=watched.handler.function,
            messages=watched.messages,
            still_running=True,
        )
        where = _stack_of(watched)
        failure.__cause__ = TimeoutError(
            f"still running after {self._limit:g} s; it is at\n{where}"
        )
        self._report(failure)


def _stack_of(watched: RunningCall) -> str:
    task = watched.task
    if task is not None and asyncio.current_task(task.get_loop()) != task:
        return task_stack(task)
    frame = sys._current_frames().get(watched.thread)
    summary = traceback.extract_stack(frame, limit=10) if frame else traceback.StackSummary()
    return "".join(summary.format()).rstrip()


def task_stack(task: asyncio.Task[Any]) -> str:
    """Return the stack of a waiting task, formatted as in a traceback."""
    # Task.get_stack() ends with the outermost coroutine.
    frames = list(_frames_of(task.get_coro()))[-10:]
    summary = traceback.StackSummary.extract((f, f.f_lineno) for f in frames)
    return "".join(summary.format()).rstrip()


def _frames_of(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a waiting coroutine, from the outermost to the innermost."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None)
