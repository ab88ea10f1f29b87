"""When to ping, and when a silent connection is dead; the clock is the caller's."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..exceptions import StreamClosedError
from .write_queue import NEVER

__all__ = ["Keepalive"]


class Keepalive:
    """
    Pings of one connection, and the judgement on its silence.

    Any byte from the peer proves life. While reading is paused nothing is judged: what the peer
    sends waits unread.

    Args:
        ping_interval: Seconds between pings. ``None`` means no pings.
        pong_timeout: Seconds without a byte after which the connection is dead; ``None``: never.
        idle_timeout: Seconds without a message, once ready, after which it is replaced.
        ping: Sends a ping with that payload.

    """

    def __init__(
        self,
        *,
        ping_interval: float | None,
        pong_timeout: float | None,
        idle_timeout: float | None,
        ping: Callable[[bytes], None],
        now: float,
    ) -> None:
        self._ping_interval = ping_interval
        self._pong_timeout = pong_timeout
        self._idle_timeout = idle_timeout
        self._ping = ping
        self._heard_at = self._pinged_at = now
        self._message_at = NEVER  # NEVER: not ready yet, nothing is expected
        self._payload = b""
        self._is_paused = False

    def opened(self, now: float) -> None:
        self._heard_at = self._pinged_at = now

    def heard(self, now: float) -> None:
        """Anything at all has arrived."""
        self._heard_at = now

    def message(self, now: float) -> None:
        if self._message_at != NEVER:
            self._message_at = now

    def ready(self, now: float) -> None:
        """Messages are expected from now on."""
        self._message_at = now

    def paused(self) -> None:
        """Reading stops."""
        self._is_paused = True

    def resumed(self, now: float) -> None:
        """Reading goes on; the peer has its whole time from now to be heard."""
        self._is_paused = False
        self._heard_at = now
        self.message(now)

    def pong(self, payload: bytes, now: float) -> float | None:
        """Return the seconds since the ping that is answered; ``None`` for an old one's pong."""
        return now - self._pinged_at if payload == self._payload else None

    def check(self, now: float) -> float:
        """
        Ping if it is time; return when to look again.

        Raises:
            StreamClosedError: If the connection is dead, or idle for too long.

        """
        due = NEVER
        if self._ping_interval is not None:
            if now >= self._pinged_at + self._ping_interval:
                self._pinged_at, self._payload = now, os.urandom(4)
                self._ping(self._payload)
            due = self._pinged_at + self._ping_interval
        if self._is_paused:
            return due
        if self._pong_timeout is not None:
            due = min(due, _judge(now, self._heard_at, self._pong_timeout, "nothing received"))
        if self._idle_timeout is not None and self._message_at != NEVER:
            due = min(due, _judge(now, self._message_at, self._idle_timeout, "no message received"))
        return due


def _judge(now: float, since: float, patience: float, what: str) -> float:
    if now >= since + patience:
        raise StreamClosedError(1006, text=f"{what} for {patience:g} s")
    return since + patience
