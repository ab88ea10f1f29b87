"""Limit the number of messages that are handled in total."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..messages import Message
from .stores import Store

__all__ = ["Budget"]


class Budget:
    """
    A number of messages that several inboxes may handle together. It's thread-safe.

    Args:
        messages: How many messages may be handled.
        on_spent: Called once, on the thread that spends the last one.

    """

    def __init__(self, messages: int, on_spent: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = messages
        self._on_spent = on_spent

    @property
    def is_spent(self) -> bool:
        return self._left <= 0

    def pop(self, store: Store) -> Message | None:
        """Pop from *store*, unless the budget is spent."""
        with self._lock:
            message = store.pop() if self._left > 0 else None
            spent = message is not None and self._spend()
        if spent:
            self._on_spent()
        return message

    def spend(self) -> None:
        """Count a message that was handled without passing through a store."""
        with self._lock:
            spent = self._spend()
        if spent:
            self._on_spent()

    def _spend(self) -> bool:
        """Return whether this was the last message."""
        self._left -= 1
        return self._left == 0
