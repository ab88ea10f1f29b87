"""The daemon threads that run handlers."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any, TypeVar

__all__ = ["HandlerThreads", "is_handler_thread"]


T = TypeVar("T")

IDLE_THREAD_SECONDS = 10.0
REST_SECONDS = 0.01
MOST_RESTING = 8  # threads, whatever the number of streams

HANDLER_THREAD = "datastream-handler"


class _Worker:
    """A thread of the pool, and the plain lock that it is parked on while it idles."""

    __slots__ = ("call", "thread", "wake")

    def __init__(self, run: Callable[[_Worker], None]) -> None:
        self.thread = threading.Thread(target=run, args=(self,), name=HANDLER_THREAD, daemon=True)
        self.call: Callable[[], None] | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class HandlerThreads:
    """
    A pool of daemon threads without a size limit, which end when idle for 10 seconds.

    The thread that became idle last takes the next call, so that the threads of a burst end
    under steady, light use. While the pool is held, two threads stay however long they idle.
    CPython 3.12 and later start no thread at interpreter exit, and messages that were received
    must still be handled then.

    All methods may be called from any thread. Only :meth:`join` blocks.
    """

    HELD_SIZE = 2

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may call while its thread holds it
        self._calls: deque[Callable[[], None]] = deque()  # calls for which no thread was idle
        self._parked: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._busy: set[_Worker] = set()
        self._resting: set[threading.Lock] = set()
        self._holders = 0

    def hold(self) -> None:
        """Keep two threads until :meth:`let_go` was called as often as this method."""
        with self._lock:
            self._holders += 1
            missing = self._minimum - len(self._alive)
        for _ in range(missing):
            self._start()

    def let_go(self) -> None:
        """End one hold. After the last one, idle threads end immediately."""
        with self._lock:
            self._holders -= 1
            if self._minimum:
                return
            ending, self._parked = self._parked, []
        for worker in ending:
            worker.wake.release()

    @property
    def _minimum(self) -> int:
        return self.HELD_SIZE if self._holders else 0

    def call(self, function: Callable[[], None]) -> None:
        """Run *function* on a thread. It must not raise."""
        with self._lock:
            worker = self._parked.pop() if self._parked else None
            if worker is None:
                self._calls.append(function)
        if worker is None:
            self._start()
        else:
            worker.call = function
            worker.wake.release()

    def rest(self, work: threading.Lock) -> bool:
        """
        Let a call block up to 10 ms for *work*, and return whether it acquired that lock.

        A call that waits for its next work is quicker than a new call. At most eight calls rest at
        once, so that the number of threads does not grow with the number of streams.
        """
        if len(self._resting) >= MOST_RESTING:
            return False
        self._resting.add(work)
        try:
            return work.acquire(timeout=REST_SECONDS)
        finally:
            self._resting.discard(work)

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """
        Run *function* on a thread, and return a future of its result.

        The future cannot be canceled, because the function cannot be stopped.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self.call(lambda: _settle(future, function, args))
        return future

    def _start(self) -> None:
        worker = _Worker(self._run)
        with self._lock:
            self._alive.add(worker)
        try:
            worker.thread.start()
        except RuntimeError:  # at interpreter exit one of the held threads takes the call
            with self._lock:
                self._alive.discard(worker)

    def _run(self, worker: _Worker) -> None:
        while (function := self._next(worker)) is not None:
            self._busy.add(worker)
            function()
            del function  # otherwise an idle thread keeps a client or a message in memory
            self._busy.discard(worker)

    def _next(self, worker: _Worker) -> Callable[[], None] | None:
        """Wait for the next call. ``None`` means that this thread has to end."""
        is_woken = True
        while True:
            with self._lock:
                if self._calls:
                    return self._calls.popleft()
                may_end = not is_woken and len(self._alive) > self._minimum
                if may_end or not self._minimum:
                    self._alive.discard(worker)
                    return None
                self._parked.append(worker)
            is_woken = self._park(worker)
            function, worker.call = worker.call, None
            if function is not None:
                return function

    def _park(self, worker: _Worker) -> bool:
        """Wait for a call or the end. Return false if there was neither for 10 seconds."""
        if worker.wake.acquire(timeout=IDLE_THREAD_SECONDS):
            return True
        with self._lock:
            if worker in self._parked:
                self._parked.remove(worker)
                return False
        return worker.wake.acquire()  # another thread unparked it in this moment

    def join(self, timeout: float) -> None:
        """Wait up to *timeout* seconds for idle threads to end, but not for running calls."""
        deadline = time.monotonic() + timeout
        with self._lock:
            ending = [] if self._minimum else [each.thread for each in self._alive - self._busy]
        for thread in ending:
            # A thread that is not alive yet is about to start, and join() would raise.
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))


def _settle(future: Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        future.set_result(function(*args))
    except StopIteration as error:  # asyncio's futures refuse it, and the waiter would hang
        failure = RuntimeError("a function called on a thread raised StopIteration")
        failure.__cause__ = error
        future.set_exception(failure)
    except BaseException as error:
        future.set_exception(error)


class DaemonExecutor(ThreadPoolExecutor):
    """
    The loop's default executor, on the pool's daemon threads.

    Lookups of the same name share one thread. Otherwise each attempt would add a thread while a
    name server does not respond.
    """

    def __init__(self, pool: HandlerThreads) -> None:
        super().__init__(max_workers=1)
        self._pool = pool
        self._lookups: dict[tuple[Any, ...], Future[Any]] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if fn is not socket.getaddrinfo or kwargs:
            return self._pool.submit(lambda: fn(*args, **kwargs))
        future = self._lookups.get(args)
        if future is None:
            future = self._lookups[args] = self._pool.submit(fn, *args)
            future.add_done_callback(lambda _: self._lookups.pop(args, None))
        return _with_own_error(future)


def _with_own_error(shared: Future[T]) -> Future[T]:
    """Return a future of the same result or a copy of the error, which each attempt modifies."""
    own: Future[T] = Future()
    own.set_running_or_notify_cancel()

    def settle(done: Future[T]) -> None:
        if (error := done.exception()) is None:
            own.set_result(done.result())
        else:
            own.set_exception(copy(error))

    shared.add_done_callback(settle)
    return own


def is_handler_thread() -> bool:
    """Return whether the calling thread is a thread of the pool."""
    return threading.current_thread().name == HANDLER_THREAD
