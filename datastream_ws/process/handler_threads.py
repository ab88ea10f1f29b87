"""The daemon threads that handlers run on."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["HandlerThreads", "is_handler_thread"]


T = TypeVar("T")

IDLE_THREAD_SECONDS = 10.0

HANDLER_THREAD = "datastream-handler"


class HandlerThreads:
    """
    Daemon threads that run one call after another and end when idle for 10 seconds.

    While somebody holds the pool two of them stay however idle: at interpreter exit no thread
    can be started any more (CPython ≥ 3.12), and what was received must still be handled then.
    """

    HELD_SIZE = 2

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._idle = 0
        self._alive: set[threading.Thread] = set()
        self._busy: set[threading.Thread] = set()
        self._holders = 0

    def hold(self) -> None:
        """Keep two threads from now on, until as many :meth:`let_go` as holds."""
        with self._wake:
            self._holders += 1
            missing = self._minimum - len(self._alive)
        for _ in range(missing):
            self._start()

    def let_go(self) -> None:
        """End one hold."""
        with self._wake:
            self._holders -= 1
            self._wake.notify_all()

    @property
    def _minimum(self) -> int:
        return self.HELD_SIZE if self._holders else 0

    def call(self, function: Callable[[], None]) -> None:
        """Run *function* on a thread soon; it must not raise."""
        with self._wake:
            self._calls.append(function)
            if self._idle >= len(self._calls):
                self._wake.notify()
                return
        self._start()

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Run *function* on a thread; return the future of its result."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self.call(lambda: _settle(future, function, args))
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=HANDLER_THREAD, daemon=True)
        with self._wake:
            self._alive.add(thread)
        try:
            thread.start()
        except RuntimeError:  # at interpreter exit: one that is there takes the call
            with self._wake:
                self._alive.discard(thread)

    def _run(self) -> None:
        thread = threading.current_thread()
        while (function := self._next()) is not None:
            self._busy.add(thread)
            function()
            del function  # else the client or message in it would live as long as the thread idles
            self._busy.discard(thread)

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while not self._calls:
                self._idle += 1
                # Those that may go leave at once when nothing runs in this process any more.
                woken = self._wake.wait(IDLE_THREAD_SECONDS) if self._minimum else False
                self._idle -= 1
                if not woken and not self._calls and len(self._alive) > self._minimum:
                    self._alive.discard(threading.current_thread())
                    return None
            return self._calls.popleft()

    def join(self, timeout: float) -> None:
        """Wait up to *timeout* seconds for idle threads to end; not for one that is at work."""
        deadline = time.monotonic() + timeout
        with self._wake:
            ending = [] if self._minimum else list(self._alive - self._busy)
        for thread in ending:
            # is_alive: one that is only about to start cannot be joined
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))


def _settle(future: Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        future.set_result(function(*args))
    except StopIteration as error:  # asyncio's futures refuse it, and whoever awaits would hang
        failure = RuntimeError("a function called on a thread raised StopIteration")
        failure.__cause__ = error
        future.set_exception(failure)
    except BaseException as error:
        future.set_exception(error)


class DaemonExecutor(ThreadPoolExecutor):
    """
    The loop's default executor, on our daemon threads.

    Look-ups of one name that hang share one thread instead of piling up.
    """

    def __init__(self, pool: HandlerThreads) -> None:
        super().__init__(max_workers=1)
        self._pool = pool
        self._lookups: dict[tuple[Any, ...], Future[Any]] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if fn is not socket.getaddrinfo or kwargs:
            return self._pool.submit(lambda: fn(*args, **kwargs))
        if args not in self._lookups:
            future = self._lookups[args] = self._pool.submit(fn, *args)
            future.add_done_callback(lambda _: self._lookups.pop(args, None))
            return future
        return self._lookups[args]


def is_handler_thread() -> bool:
    """Whether the calling thread is one of ours that handlers are called in."""
    return threading.current_thread().name == HANDLER_THREAD
