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

from ..log_fields import write
from .handler_threads import DaemonExecutor, HandlerThreads

__all__ = ["LoopThread"]


T = TypeVar("T")

# Seconds for canceled tasks of user code to end, and again for its asynchronous generators.
LEFTOVER_SECONDS = 0.5

log = logging.getLogger("datastream_ws")


class LoopThread:
    """
    An event loop on a daemon thread, for all clients of the process.

    Only this thread runs, shuts down and closes the loop. The calling thread may have a running
    loop of its own, and then cannot run another.

    Args:
        pool: The handler threads, which also run the loop's default executor.

    """

    def __init__(self, pool: HandlerThreads) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(DaemonExecutor(pool))
        self._stopping = False
        self._lock = threading.RLock()  # a finalizer may call while its thread holds it
        self._thread = threading.Thread(target=self._run, name="datastream-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                # User code may stop the loop, or raise SystemExit. Neither may end other streams.
                self.loop.run_forever()
            except BaseException:
                write(log, "error", "the event loop continues after an exception", exc_info=True)
        self._wind_up()

    def _wind_up(self) -> None:
        ending = self.loop.create_task(_end_leftovers(self.loop))
        while not ending.done():
            with suppress(BaseException):  # user code may raise SystemExit here also
                self.loop.run_until_complete(ending)
        self.loop.close()

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """
        Run *coroutine* on the loop and block until it returns its result.

        Call it from another thread. If the wait ends early, the coroutine is canceled.

        Args:
            coroutine: The coroutine to run.
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If there is no result after *timeout* seconds.
            Exception: If the coroutine raised it.

        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def responds(self, timeout: float) -> bool:
        """Block up to *timeout* seconds, and return whether the loop runs a callback in time."""
        answered = threading.Event()
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(answered.set)
        return answered.wait(timeout)

    def stop(self, timeout: float) -> bool:
        """
        End the loop and its thread, and wait up to *timeout* seconds.

        On the loop's own thread the method does not wait. Calling it again only waits.

        Returns:
            Whether the thread has ended. A thread that user code blocks ends once the code returns.

        """
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.is_current:
            self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def stack(self) -> str:
        """Return the thread's current stack as text, beginning with the loop's callback."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        frames = traceback.extract_stack(frame) if frame is not None else []
        start = 0
        for number, entry in enumerate(frames, 1):
            if entry.filename == events.__file__ and number < len(frames):
                start = number
        return "".join(traceback.format_list(frames[start:]))


async def _end_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the remaining tasks of user code, and close its asynchronous generators."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=LEFTOVER_SECONDS)
        for task in stuck:
            text = "the event loop stops with a task that ignores its cancellation: %r"
            write(log, "warning", text, task)
    with suppress(TimeoutError):
        async with asyncio.timeout(LEFTOVER_SECONDS):
            await loop.shutdown_asyncgens()
