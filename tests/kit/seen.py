"""
Record the calls of handlers and hooks, so that a test can wait for them.

::

    states = Seen[StateEvent]()
    client.on_state(states)
    states.wait_for(lambda event: event.state is State.READY)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["FAST", "Seen", "eventually"]

T = TypeVar("T")

# Options of a client that reconnects fast, without a limit and without a proxy.
FAST: dict[str, Any] = {
    "min_reconnect_delay": 0.02,
    "max_reconnect_delay": 0.1,
    "max_reconnect_attempts": None,
    "proxy": None,
}

PATIENCE = 30.0  # seconds, because the machine may be busy


class Seen(Generic[T]):
    """A list of the values with which it was called, as a handler or a hook. It's thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._values: list[T] = []

    def __call__(self, value: T) -> None:
        with self._changed:
            self._values.append(value)
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._values)

    @property
    def all(self) -> list[T]:
        """A copy of the list of all values, in order."""
        with self._changed:
            return list(self._values)

    def wait(self, n: int = 1, timeout: float = PATIENCE) -> list[T]:
        """Return all values once there are *n*. TimeoutError shows the last ones."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._values) >= n, timeout):
                raise TimeoutError(f"{len(self._values)} of {n} came: {self._values[-10:]}")
            return list(self._values)

    def wait_for(self, wanted: Callable[[T], Any], timeout: float = PATIENCE) -> T:
        """Return the first value for which *wanted* is true, even if it's already there."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(map(wanted, self._values)), timeout):
                raise TimeoutError(f"not among {self._values[-10:]}")
            return next(filter(wanted, self._values))


def eventually(
    fact: Callable[[], Any], timeout: float = PATIENCE, report: Callable[[], str] = lambda: ""
) -> Any:
    """
    Return the result of *fact* once it is true. Use it only if there is no event.

    Args:
        fact: A function without side effects.
        timeout: Seconds after which TimeoutError is raised.
        report: A function that returns the text of that error.

    """
    deadline = time.monotonic() + timeout
    while not (found := fact()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {report()}")
        time.sleep(0.01)
    return found
