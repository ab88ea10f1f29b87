"""How many messages may be sent in which time: the option ``send_rate``."""

from __future__ import annotations

from collections import deque

__all__ = ["Pacing"]

# A network may bring messages closer together than they were sent.
MARGIN_SHARE = 0.02
MARGIN_SECONDS = 0.01


class Pacing:
    """
    A window that slides: at most *messages* in any *seconds*.

    A token bucket of the same figures would let nearly twice as many through in one window, and
    servers that count close the connection for that. One object serves all connections of a
    client, because a server may count by account.
    """

    def __init__(self, messages: int, seconds: float) -> None:
        self._messages = messages
        self._seconds = seconds * (1 + MARGIN_SHARE) + MARGIN_SECONDS
        self._sent_at: deque[float] = deque(maxlen=messages)

    @property
    def messages(self) -> int:
        return self._messages

    def allowance(self, now: float) -> int:
        """Return how many messages may be sent now."""
        busy = sum(now < at + self._seconds for at in self._sent_at)
        return self._messages - busy

    def due(self, now: float) -> float:
        """Return when the next message may be sent; *now* or earlier means at once."""
        if len(self._sent_at) < self._messages:
            return now
        return self._sent_at[0] + self._seconds

    def sent(self, messages: int, now: float) -> None:
        self._sent_at.extend([now] * messages)
