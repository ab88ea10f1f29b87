"""Who uses the loop's thread: it starts with the first client and ends with the last."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

from .handler_threads import HandlerThreads
from .loop_thread import LoopThread

__all__ = ["notice_fork", "threads", "use_loop"]


class Closable(Protocol):
    """A running client, as the exit rule sees it."""

    def _ask_close(self, timeout: float | None) -> None: ...

    def close(self) -> None: ...


class Forkable(Protocol):
    """A client, as the fork rule sees it."""

    def forget_parent(self) -> None:
        """In a forked child: become idle without touching the parent's objects."""
        ...


class LoopUse:
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
        self.pool = HandlerThreads()
        self.loop_thread: LoopThread | None = None
        self.uses: set[LoopUse] = set()


_process = Process()

# The parent's objects, kept alive in a child: their finalisers would touch what is shared.
_graveyard: list[Any] = []

_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


def threads() -> HandlerThreads:
    """Return the handler threads of this process."""
    return _process.pool


def use_loop(client: Closable) -> LoopUse:
    """Take the loop's thread into use for a client that starts."""
    process = _process
    with process.lock:
        if process.loop_thread is None:
            process.loop_thread = LoopThread(process.pool)
        use = LoopUse(client, process.loop_thread)
        process.uses.add(use)
        return use


def end_loop_use(use: LoopUse) -> None:
    """
    End a use, or do nothing if it has ended; the last one ends the loop's thread and the others.

    Waits for them; not to be called on the loop's thread.
    """
    process = _process
    with process.stopping:
        with process.lock:
            process.uses.discard(use)
            if process.uses or process.loop_thread is None:
                return
            ended, process.loop_thread = process.loop_thread, None
        ended.stop()
    process.pool.join(1.0)  # outside, because one of them may be about to end the same use


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
    clients = {use.client for use in list(_process.uses)}
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
