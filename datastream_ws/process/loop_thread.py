"""The event loop on a daemon thread that all clients of the process share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from .handler_threads import DaemonExecutor, HandlerThreads

__all__ = ["LoopThread"]


T = TypeVar("T")


class LoopThread:
    """An event loop on a daemon thread, for all clients of the process."""

    def __init__(self, pool: HandlerThreads) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(DaemonExecutor(pool))
        self._thread = threading.Thread(target=self._run, name="datastream-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

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

    def stop(self) -> None:
        """End the loop and its thread; waits, unless called on it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self.is_current:
            return
        self._thread.join()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
