"""
A fixture that fails each test that leaks threads, asyncio tasks, descriptors or sockets.

``from kit.guard import leak_guard`` in a conftest.py applies it to every test there. Resources that
end within GRACE seconds after the test are not leaks. Mark a test that must leak with
``@pytest.mark.leaks_allowed("why")``.

It finds tasks in a loop that is closed before they end, and in loops that still run on another
thread. It does not find tasks of uvloop's loops.
"""

from __future__ import annotations

import asyncio
import asyncio.runners
import gc
import os
import socket
import stat
import sys
import threading
import time
from asyncio.base_events import BaseEventLoop
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Snapshot", "leak_guard", "watched_loops"]

GRACE = 2.0
TASK_GRACE = 0.05  # seconds to end for tasks that a runner would cancel

Task = asyncio.Task[Any]


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test at its teardown if it leaks."""
    marker = request.node.get_closest_marker("leaks_allowed")
    if marker is not None:
        if not marker.args and not marker.kwargs.get("reason"):
            pytest.fail("leaks_allowed needs a reason", pytrace=False)
        yield
        return
    before = Snapshot.take()
    with watched_loops() as abandoned:
        yield
    leaks = [f"task {name}" for name in abandoned] + before.leaks(GRACE)
    if leaks:
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@dataclass(frozen=True)
class Snapshot:
    """The threads, the tasks of running loops, and the descriptors of this process."""

    threads: frozenset[threading.Thread]
    tasks: frozenset[Task]
    descriptors: frozenset[Descriptor]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(_threads(), _tasks(), _descriptors())

    def leaks(self, grace: float) -> list[str]:
        """Describe what is new since the snapshot and does not end within *grace* seconds."""
        deadline = time.monotonic() + grace
        for thread in _threads() - self.threads:
            with suppress(RuntimeError):  # it is being started, and is checked again below
                thread.join(max(0.0, deadline - time.monotonic()))
        pause = 0.001
        while (found := self._new()) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
            if pause > 0.01:  # an object that only a reference cycle keeps is not a leak
                gc.collect()
        return found

    def _new(self) -> list[str]:
        return [
            *(f"thread {thread.name}" for thread in _threads() - self.threads),
            *(f"task {_name(task)}" for task in _tasks() - self.tasks),
            *(f"descriptor {found}" for found in _descriptors() - self.descriptors),
        ]


def _threads() -> frozenset[threading.Thread]:
    # A _DummyThread represents a thread that Python did not start, and never ends.
    alive = threading.enumerate()
    return frozenset(t for t in alive if not isinstance(t, threading._DummyThread))


def _tasks() -> frozenset[Task]:
    found: set[Task] = set()
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            loop = _loop_of(frame)
            if loop is not None:
                found |= asyncio.all_tasks(loop)
    return frozenset(found)


def _loop_of(frame: Any) -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this stack, or ``None``."""
    while frame is not None:
        if frame.f_code.co_name == "run_forever":
            loop = frame.f_locals.get("self")
            if isinstance(loop, asyncio.AbstractEventLoop):
                return loop
        frame = frame.f_back
    return None


def _name(task: Task) -> str:
    coroutine = task.get_coro()
    return f"{task.get_name()} ({getattr(coroutine, '__qualname__', coroutine)})"


@dataclass(frozen=True)
class Descriptor:
    """An open descriptor, identified by its number and its file."""

    number: int
    device: int
    inode: int
    kind: str

    def __str__(self) -> str:
        return f"{self.number}: {self._target()}"

    def _target(self) -> str:
        if self.kind == "socket":
            return _socket(self.number)
        with suppress(OSError):
            return f"{self.kind} {Path(f'/proc/self/fd/{self.number}').readlink()}"
        return self.kind


def _descriptors() -> frozenset[Descriptor]:
    found = set()
    for number in _numbers():
        with suppress(OSError):  # the descriptor that listed the others is closed already
            status = os.fstat(number)
            found.add(Descriptor(number, status.st_dev, status.st_ino, _kind(status.st_mode)))
    return frozenset(found)


def _numbers() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return []  # on Windows, only threads and tasks are checked


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "socket"
    return "pipe" if stat.S_ISFIFO(mode) else "file"


def _socket(number: int) -> str:
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
        peer: object = "no peer"
        with suppress(OSError):
            peer = copy.getpeername()
        return f"socket {copy.getsockname()} to {peer}"
    return "socket"


@contextmanager
def watched_loops() -> Iterator[list[str]]:
    """Yield a list of tasks that had not ended when their loop was closed or canceled them."""
    abandoned: list[str] = []
    cancel_all = getattr(asyncio.runners, "_cancel_all_tasks", None)
    close = BaseEventLoop.close

    def watched_cancel(loop: asyncio.AbstractEventLoop) -> None:
        abandoned.extend(_left(loop))
        if cancel_all is not None:
            cancel_all(loop)

    def watched_close(loop: BaseEventLoop) -> None:
        if not loop.is_closed():
            abandoned.extend(_name(task) for task in asyncio.all_tasks(loop))
        close(loop)

    with pytest.MonkeyPatch.context() as patch:
        if cancel_all is not None:
            patch.setattr(asyncio.runners, "_cancel_all_tasks", watched_cancel)
        patch.setattr(BaseEventLoop, "close", watched_close)
        yield abandoned


def _left(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Run a stopped loop briefly, and return the names of the tasks that don't end."""
    tasks = asyncio.all_tasks(loop)
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=TASK_GRACE))
    return [_name(task) for task in tasks if not task.done()]
