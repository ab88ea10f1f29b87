"""SIGINT and SIGTERM for the clients of a process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["signals_to"]


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
