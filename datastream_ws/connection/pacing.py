"""A rate limit for sent messages, as the option ``send_rate`` sets it."""

from __future__ import annotations

import sys
from collections import deque

__all__ = ["Pacing"]

# The network may deliver messages closer together than they were sent.
MARGIN_SHARE = 0.02
MARGIN_SECONDS = 0.01


class Pacing:
    """
    A sliding-window rate limit of *messages* in any *seconds*.

    A token bucket of the same size allows nearly twice as many messages in one window. Servers that
    count them then close the connection. One object serves all connections of a client, because a
    server may count by account.

    All times are seconds of the caller's clock. The object has no lock.
    """

    def __init__(self, messages: int, seconds: float) -> None:
        self.messages = messages
        self._seconds = seconds * (1 + MARGIN_SHARE) + MARGIN_SECONDS
        self._sent_at: deque[float] = deque(maxlen=min(messages, sys.maxsize))

    def allowance(self, now: float) -> int:
        """Return how many messages may be sent now."""
        while self._sent_at and now >= self._sent_at[0] + self._seconds:
            self._sent_at.popleft()  # each once, because a window may hold a million
        return self.messages - len(self._sent_at)

    def due(self, now: float) -> float:
        """Return when the next message may be sent. A time up to *now* means immediately."""
        if len(self._sent_at) < self.messages:
            return now
        return self._sent_at[0] + self._seconds

    def sent(self, messages: int, now: float) -> None:
        self._sent_at.extend([now] * messages)
