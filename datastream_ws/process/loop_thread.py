"""The event loop on a daemon thread that all clients of the process share."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from asyncio import events
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from .handler_threads import DaemonExecutor, HandlerThreads

__all__ = ["LoopThread"]


T = TypeVar("T")

# What tasks of user code have to end once they are cancelled, and then its generators.
LEFTOVER_SECONDS = 0.5

log = logging.getLogger("datastream_ws")


class LoopThread:
    """
    An event loop on a daemon thread, for all clients of the process.

    The loop is run, shut down and closed by its own thread, and by no other: a caller may run a
    loop itself.
    """

    def __init__(self, pool: HandlerThreads) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(DaemonExecutor(pool))
        self._stopping = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="datastream-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                # Returns early if user code stops the loop, raises if that wants to exit: neither
                # may end the streams of others.
                self.loop.run_forever()
            except BaseException:
                log.exception("the event loop continues after an exception")
        self._wind_up()

    def _wind_up(self) -> None:
        ending = self.loop.create_task(_end_leftovers(self.loop))
        while not ending.done():
            with suppress(BaseException):  # of user code, as above
                self.loop.run_until_complete(ending)
        self.loop.close()

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run *coroutine* on the loop, wait for its result; TimeoutError cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def responds(self, timeout: float) -> bool:
        """Whether the loop, within *timeout* seconds, gets round to a callback."""
        answered = threading.Event()
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(answered.set)
        return answered.wait(timeout)

    def stop(self, timeout: float) -> bool:
        """
        End the loop and its thread; waits up to *timeout* seconds, unless called on it.

        Returns:
            Whether the thread has ended. If user code blocks it, it ends once that returns.

        """
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.is_current:
            self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def stack(self) -> str:
        """Return what the thread is doing, as in a traceback: from the loop's callback on."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        frames = traceback.extract_stack(frame) if frame is not None else []
        start = 0
        for number, entry in enumerate(frames, 1):
            if entry.filename == events.__file__ and number < len(frames):
                start = number
        return "".join(traceback.format_list(frames[start:]))


async def _end_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that user code has left, close its generators."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=LEFTOVER_SECONDS)
        for task in stuck:
            log.warning("the event loop stops with a task that ignores its cancellation: %r", task)
    with suppress(TimeoutError):
        async with asyncio.timeout(LEFTOVER_SECONDS):
            await loop.shutdown_asyncgens()
