"""Reports handlers that run too long, by name, with the place where they are."""

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

__all__ = ["Watchdog", "task_stack"]

LOOK_SECONDS = 1.0  # the longest between two looks


@dataclass(slots=True)
class RunningCall:
    """A handler call that is looked at."""

    handler: Handler
    messages: tuple[Message, ...]
    started: float
    thread: int
    task: asyncio.Task[Any] | None
    reported: bool = False


@dataclass(slots=True, eq=False)
class WatchedRun:
    """
    A run whose calls are looked at from outside: they are too quick to be noted one by one.

    Attributes:
        at: The message and the handler that were seen last, and *since* when.

    """

    run: HandlerRun
    thread: int
    task: asyncio.Task[Any] | None
    at: tuple[Message | None, Handler | None] = (None, None)
    since: float = 0.0
    reported: bool = False

    def look(self, now: float, limit: float) -> RunningCall | None:
        """Return the call, once, if it has been the same for more than *limit* seconds."""
        message, handler = at = self.run.in_hand, self.run.handler
        if at[0] is not self.at[0] or at[1] is not self.at[1]:
            self.at, self.since, self.reported = at, now, False
        if self.reported or message is None or handler is None or now - self.since <= limit:
            return None
        self.reported = True
        return RunningCall(handler, (message,), self.since, self.thread, self.task)


class Watchdog:
    """
    Looks at the handler calls of one dispatcher.

    Args:
        limit: ``handler_timeout``, in seconds.
        report: Given a :class:`HandlerError` once for a call that runs longer, from the thread
            that watches.

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
        """Look at what is called within; *task*: it is a coroutine of that one."""
        watched = RunningCall(handler, messages, time.monotonic(), threading.get_ident(), task)
        self._watched[id(watched)] = watched
        try:
            yield
        finally:
            del self._watched[id(watched)]

    @contextmanager
    def watching_run(self, run: HandlerRun, task: asyncio.Task[Any] | None) -> Iterator[None]:
        """Look at the calls of a run; a slow one is noticed one look later than by itself."""
        watched = WatchedRun(run, threading.get_ident(), task)
        self._runs[id(watched)] = watched
        try:
            yield
        finally:
            del self._runs[id(watched)]

    def watch(self, stopped: threading.Event) -> None:
        """On a thread of its own, because a blocked loop is one of the things to notice."""
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
    """Return where a task waits, as in a traceback."""
    # Task.get_stack() ends with the outermost coroutine.
    frames = list(_frames_of(task.get_coro()))[-10:]
    summary = traceback.StackSummary.extract((f, f.f_lineno) for f in frames)
    return "".join(summary.format()).rstrip()


def _frames_of(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine that waits, from the outermost to where it does."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None)
