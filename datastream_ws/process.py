"""
What a process has once: the loop's thread, the handler threads, the fork and exit rules.

Everything runs on daemon threads of our own. An executor's threads would be joined at
interpreter exit, and a hung name look-up or handler would hang the exit with them.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol, TypeVar

__all__ = [
    "LoopThread",
    "Threads",
    "claim_loop",
    "is_handler_thread",
    "notice_fork",
    "signals_to",
    "threads",
]

T = TypeVar("T")

IDLE_THREAD_SECONDS = 10.0
HANDLER_THREAD = "datastream-handler"


class Threads:
    """
    Daemon threads that run one call after another and end when idle for 10 seconds.

    While somebody holds the pool two of them stay however idle: at interpreter exit no thread
    can be started any more (CPython ≥ 3.12), and what was received must still be handled then.
    """

    KEPT = 2

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
            missing = self._keep - len(self._alive)
        for _ in range(missing):
            self._start()

    def let_go(self) -> None:
        """End one hold."""
        with self._wake:
            self._holders -= 1
            self._wake.notify_all()

    @property
    def _keep(self) -> int:
        return self.KEPT if self._holders else 0

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
        except RuntimeError:  # at interpreter exit: a kept thread takes the call
            with self._wake:
                self._alive.discard(thread)

    def _run(self) -> None:
        thread = threading.current_thread()
        while (function := self._next()) is not None:
            self._busy.add(thread)
            function()
            self._busy.discard(thread)

    def _next(self) -> Callable[[], None] | None:
        with self._wake:
            while not self._calls:
                self._idle += 1
                # Those that may go leave at once when nothing runs in this process any more.
                woken = self._wake.wait(IDLE_THREAD_SECONDS) if self._keep else False
                self._idle -= 1
                if not woken and not self._calls and len(self._alive) > self._keep:
                    self._alive.discard(threading.current_thread())
                    return None
            return self._calls.popleft()

    def join(self, timeout: float) -> None:
        """Wait for the idle threads to end; not for one whose handler is stuck."""
        with self._wake:
            ending = [] if self._keep else list(self._alive - self._busy)
        for thread in ending:
            # is_alive: one that is only about to start cannot be joined
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(timeout)


def _settle(future: Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        future.set_result(function(*args))
    except BaseException as error:
        future.set_exception(error)


class DaemonExecutor(ThreadPoolExecutor):
    """
    The loop's default executor, on our daemon threads.

    Look-ups of one name that hang share one thread instead of piling up.
    """

    def __init__(self, pool: Threads) -> None:
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


class LoopThread:
    """An event loop on a daemon thread, for all clients of the process."""

    def __init__(self, kind: str, pool: Threads) -> None:
        self.kind = kind
        self.loop = _new_loop(kind)
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


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Closable(Protocol):
    """A running client, as the exit rule sees it."""

    def _ask_close(self, timeout: float | None) -> None: ...

    def close(self) -> None: ...


class Forkable(Protocol):
    """A client, as the fork rule sees it."""

    def forget_parent(self) -> None:
        """In a forked child: become idle without touching the parent's objects."""
        ...


class Claim:
    """
    What keeps the loop's thread: one ``start()`` of a client, until the end that belongs to it.

    Attributes:
        finished: Done when that life has ended; ``None``: it has not begun.

    """

    def __init__(self, client: Closable, thread: LoopThread) -> None:
        self.client = client
        self.thread = thread
        self.finished: Future[None] | None = None


class Process:
    """The clients of this process, and the loop's thread while there is one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.stopping = threading.Lock()
        self.pool = Threads()
        self.loop_thread: LoopThread | None = None
        self.claims: set[Claim] = set()


_process = Process()
# The parent's objects, kept alive in a child: their finalisers would touch what is shared.
_graveyard: list[Any] = []
_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


def threads() -> Threads:
    """Return the handler threads of this process."""
    return _process.pool


def is_handler_thread() -> bool:
    """Whether the calling thread is one of ours that handlers are called in."""
    return threading.current_thread().name == HANDLER_THREAD


def claim_loop(client: Closable, kind: str) -> Claim:
    """Claim the loop's thread for a client that starts; the first one decides its kind."""
    process = _process
    with process.lock:
        if process.loop_thread is None:
            process.loop_thread = LoopThread(kind, process.pool)
        claim = Claim(client, process.loop_thread)
        process.claims.add(claim)
        return claim


def release_loop(claim: Claim) -> None:
    """
    Give up a claim, or nothing if it was; the last one ends the loop's thread and the others.

    Waits for them; not to be called on the loop's thread.
    """
    process = _process
    with process.stopping:
        with process.lock:
            process.claims.discard(claim)
            if process.claims or process.loop_thread is None:
                return
            ended, process.loop_thread = process.loop_thread, None
        ended.stop()
    process.pool.join(1.0)  # outside, because one of them may be about to give up the same claim


def watch_forks(client: Forkable) -> None:
    """Have *client* told in forked children; holds no reference to it."""
    _forkable.add(client)


def notice_fork() -> None:
    """Do what the hook does, where a fork in C (uWSGI's) has called no hook."""
    if _process.pid != os.getpid():
        _after_fork_in_child()


def _close_all() -> None:
    """At interpreter exit: all clients drain together, each within its ``close_timeout``."""
    notice_fork()
    clients = {claim.client for claim in list(_process.claims)}
    for client in clients:
        client._ask_close(None)
    for client in clients:
        client.close()


def _after_fork_in_child() -> None:
    global _process
    _graveyard.append(_process)
    _process = Process()
    for client in list(_forkable):
        client.forget_parent()


def bury(remains: Any, descriptors: list[int]) -> None:
    """
    In a forked child: keep the parent's objects alive, and let go of its sockets.

    The descriptors are pointed at /dev/null.
    A plain close would free the numbers, and a later finaliser of the parent's objects would
    close whatever had been given one of them since.
    """
    _graveyard.append(remains)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in filter(lambda number: number >= 0, descriptors):
        with suppress(OSError):
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def signals_to(callback: Callable[[int], None]) -> Iterator[None]:
    """
    Give SIGINT and SIGTERM to *callback* inside the block; elsewhere than in the main thread,
    where Python allows no signal handlers, do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        callback(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:  # None: installed by C code, cannot be put back from here
                signal.signal(number, handler)
