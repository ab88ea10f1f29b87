"""An event loop on a daemon thread, for calls from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["LoopOnThread"]

T = TypeVar("T")


class LoopOnThread:
    """
    An event loop on a daemon thread. You can start it again after ``stop()``.

    Args:
        name: The name of the thread, which is also the name in error messages.

    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def is_running(self) -> bool:
        """Whether the thread is running. It isn't in a forked child."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Start the thread, and return when the loop is running."""
        running: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(running,), name=self.name, daemon=True
        )
        self._thread.start()
        self._loop = running.result()

    def _run(self, running: Future[asyncio.AbstractEventLoop]) -> None:
        # Always asyncio's loop, because resets and half-closed connections need its sockets.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            loop = runner.get_loop()
            loop.call_soon(running.set_result, loop)
            loop.run_forever()

    def stop(self) -> None:
        """End the loop and its tasks, and wait for the thread. Calling it again has no effect."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        self.refuse_own_thread()
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function(*args)`` on the loop, and return its result."""
        self._refuse_stopped()
        if self.is_current:
            return function(*args)
        return self.run(_called(function, args))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* on the loop, and return its result. Don't call it on the loop."""
        try:
            self._refuse_stopped()
            self.refuse_own_thread()
        except RuntimeError:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def refuse_own_thread(self) -> None:
        """Raise RuntimeError on the loop's thread, where waiting for the loop would never end."""
        if self.is_current:
            raise RuntimeError(
                f"{self.name}: this call would block the event loop that it waits for. "
                "Call it from another thread."
            )

    def _refuse_stopped(self) -> None:
        if not self.is_running:
            raise RuntimeError(f"{self.name} is not running. Call start().")


async def _called(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    return function(*args)
