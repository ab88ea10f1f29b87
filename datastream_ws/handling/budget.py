"""How many messages may be handled in all."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..messages import Message
from .stores import Store

__all__ = ["Budget"]


class Budget:
    """How many messages may be handled in all, by whatever inboxes share it."""

    def __init__(self, messages: int, on_spent: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = messages
        self._on_spent = on_spent

    @property
    def is_spent(self) -> bool:
        return self._left <= 0

    def pop(self, store: Store) -> Message | None:
        """Pop from *store* while something is left; *on_spent* is told of the last one."""
        with self._lock:
            message = store.pop() if self._left > 0 else None
            spent = message is not None and self._spend()
        if spent:
            self._on_spent()
        return message

    def spend(self) -> None:
        """A message was handled that no store has had."""
        with self._lock:
            spent = self._spend()
        if spent:
            self._on_spent()

    def _spend(self) -> bool:
        """Return whether this was the last one."""
        self._left -= 1
        return self._left == 0
