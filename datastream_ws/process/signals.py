"""SIGINT and SIGTERM for the clients of a process, and the pipe of a command's output."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["quiet_in_pipe", "signals_to"]

BROKEN_PIPE = 141  # the exit code of a command that SIGPIPE ends, 128 + 13


@contextmanager
def signals_to(callback: Callable[[int], object]) -> Iterator[None]:
    """
    Pass SIGINT and SIGTERM to *callback* inside the block.

    Outside the main thread this has no effect, because Python allows signal handlers only there.
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
            if handler is not None:  # None means that C code installed it, and cannot be restored
                signal.signal(number, handler)


@contextmanager
def quiet_in_pipe() -> Iterator[None]:
    """
    Exit without a traceback if the reader of stdout exits inside the block, as in ``| head``.

    Python ignores SIGPIPE, so a write raises BrokenPipeError instead.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # At exit, Python flushes stdout again, and would report a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
