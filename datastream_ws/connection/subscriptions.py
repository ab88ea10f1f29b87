"""What is sent now and again on every connection."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from .engine import Frame

__all__ = ["Subscriptions"]


class Subscriptions:
    """The subscriptions of a client, by key, in the order they were made; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: dict[Hashable, tuple[Frame, Frame | None]] = {}

    def add(self, key: Hashable, subscribe: Frame, unsubscribe: Frame | None) -> None:
        """Keep *subscribe* for every connection; the same key again takes the old one's place."""
        with self._lock:
            self._frames[key] = (subscribe, unsubscribe)

    def remove(self, key: Hashable) -> Frame | None:
        """Forget a subscription; return what ends it at the server, if anything does."""
        with self._lock:
            return self._frames.pop(key, (None, None))[1]

    def frames(self) -> list[Frame]:
        with self._lock:
            return [subscribe for subscribe, _ in self._frames.values()]

    def renew_lock(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
