"""The uses of the loop's thread, which starts with the first client and ends with the last."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol

from ..forks import bury, in_child, notice_fork
from ..log_fields import write
from .handler_threads import HandlerThreads
from .loop_thread import LoopThread

__all__ = [
    "CLOSE_GRACE",
    "LoopUse",
    "abandon_loop",
    "end_loop_use",
    "threads",
    "use_loop",
    "use_responsive_loop",
]

# Seconds that close() may take beyond its timeout, and the part of them for the thread's end.
CLOSE_GRACE = 1.0
STOP_SECONDS = 0.25
START_SECONDS = 5.0  # a loop that takes longer to run a callback counts as blocked


class Closable(Protocol):
    """The methods of a client that the exit handler calls."""

    def _ask_close(self, timeout: float | None) -> float: ...

    def _end_by(self, deadline: float) -> None: ...


class LoopUse:
    """
    One ``start()`` of a client, which keeps the loop's thread until its end.

    Args:
        client: The client.

    Attributes:
        thread: The loop's thread.
        finished: Resolved when the client has ended. ``None`` means that it has not begun.

    """

    thread: LoopThread

    def __init__(self, client: Closable) -> None:
        self.client = client
        self.finished: Future[None] | None = None

    def wait(self, deadline: float) -> bool:
        """
        Block until the client has ended.

        Args:
            deadline: Time of ``time.monotonic()`` by which :func:`end_loop_use` must finish, too.
                The wait therefore ends ``STOP_SECONDS`` earlier.

        Returns:
            Whether the client has ended.

        """
        if self.finished is None:
            return True
        seconds = deadline - STOP_SECONDS - time.monotonic()
        return bool(wait([self.finished], max(0.0, seconds)).done)


class Process:
    """The clients of this process, the loop's thread while there is one, and handler threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finalizer may call while its thread holds it
        self.pool = HandlerThreads()
        self.loop_thread: LoopThread | None = None
        self.uses: set[LoopUse] = set()


_process = Process()


def threads() -> HandlerThreads:
    """Return the handler threads of this process."""
    return _process.pool


def use_loop(client: Closable) -> LoopUse:
    """Begin to use the loop's thread, and start it for the first client."""
    process, use = _process, LoopUse(client)
    with process.lock:
        if process.loop_thread is None:
            process.loop_thread = LoopThread(process.pool)
        use.thread = process.loop_thread  # no call before the next line may end that thread
        process.uses.add(use)
        return use


def use_responsive_loop(client: Closable, on_blocked: Callable[[LoopThread], None]) -> LoopUse:
    """
    Begin to use the loop's thread, or a new one if user code blocks it for START_SECONDS.

    Args:
        client: The client.
        on_blocked: Called with the thread that is blocked.

    """
    use = use_loop(client)
    if use.thread.is_current or use.thread.responds(START_SECONDS):
        return use
    on_blocked(use.thread)
    abandon_loop(use.thread)
    threads().call(lambda: end_loop_use(use))
    return use_loop(client)


def end_loop_use(use: LoopUse, deadline: float | None = None) -> None:
    """
    End a use. The last one ends the loop's thread and idle handler threads.

    The call blocks until they have ended, so it must not run on the loop's thread. Calling it again
    has no effect.

    Args:
        use: The use to end.
        deadline: Latest time of ``time.monotonic()``. ``None`` means one second from now.

    """
    process, thread = _process, use.thread
    if deadline is None:
        deadline = time.monotonic() + CLOSE_GRACE
    with process.lock:
        process.uses.discard(use)
        if any(other.thread is thread for other in process.uses):
            return
        is_current = process.loop_thread is thread
        if is_current:
            process.loop_thread = None
    if not thread.stop(deadline - time.monotonic()) and is_current:
        text = "user code blocks the event loop, which stops once the code returns. It is at:\n%s"
        write(logging.getLogger("datastream_ws"), "warning", text, thread.stack())
    process.pool.join(deadline - time.monotonic())


def abandon_loop(thread: LoopThread) -> None:
    """Make later clients use another thread, because user code blocks this one."""
    process = _process
    with process.lock:
        if process.loop_thread is thread:
            process.loop_thread = None


def _close_all() -> None:
    """Close all clients at interpreter exit, each within its ``close_timeout`` and 1 second."""
    notice_fork()
    clients = {use.client for use in list(_process.uses)}
    deadlines = [(client, client._ask_close(None)) for client in clients]
    for client, deadline in deadlines:
        client._end_by(deadline)


def _renew() -> None:
    """Begin without clients and threads in a forked child."""
    global _process
    remains, _process = _process, Process()
    bury(remains, [])


in_child(_renew)
atexit.register(_close_all)
