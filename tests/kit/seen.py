"""
Record the calls of handlers and hooks, so that a test can wait for them.

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

# Options of a client that comes back at once, for ever, and asks no proxy.
FAST: dict[str, Any] = {
    "min_reconnect_delay": 0.02,
    "max_reconnect_delay": 0.1,
    "max_reconnect_attempts": None,
    "proxy": None,
}

# Seconds after which something that should come at once has not come; the machine may be busy.
PATIENCE = 30.0


class Seen(Generic[T]):
    """A list that any thread adds to by calling it: a handler or a hook as it stands."""

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
        """What came so far, in order; a copy."""
        with self._changed:
            return list(self._values)

    def wait(self, n: int = 1, timeout: float = PATIENCE) -> list[T]:
        """Return all values once there are *n*; TimeoutError shows what came."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._values) >= n, timeout):
                raise TimeoutError(f"{len(self._values)} of {n} came: {self._values[-10:]}")
            return list(self._values)

    def wait_for(self, wanted: Callable[[T], Any], timeout: float = PATIENCE) -> T:
        """Return the first value, past ones included, that is wanted."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(map(wanted, self._values)), timeout):
                raise TimeoutError(f"not among {self._values[-10:]}")
            return next(filter(wanted, self._values))


def eventually(fact: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Return what ``fact()`` returns once that is true; for facts that no event announces."""
    deadline = time.monotonic() + timeout
    while not (found := fact()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come true")
        time.sleep(0.005)
    return found
