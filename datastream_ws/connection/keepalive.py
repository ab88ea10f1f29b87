"""Decides when to send a ping and when a silent connection is dead; the caller has the clock."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..exceptions import StreamClosedError
from .write_queue import NEVER

__all__ = ["Keepalive"]


class Keepalive:
    """
    The pings and the silence limits of one connection.

    Any byte from the server proves that the connection is alive. While reading is paused the limits
    do not apply, because the server's bytes wait unread.

    Args:
        ping_interval: Seconds between pings. ``None`` means no pings.
        pong_timeout: Seconds without a byte after which the connection is dead. ``None`` means no
            limit.
        idle_timeout: Seconds without a message after which a ready connection is replaced. ``None``
            means no limit.
        ping: Called with the payload of a ping to send.
        now: The current time of the caller's clock, in seconds.

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
        self._message_at = NEVER  # until the connection is ready
        self._payload: bytes | None = None  # of the latest ping; None once it was answered
        self._is_paused = False

    def opened(self, now: float) -> None:
        self._heard_at = self._pinged_at = now

    def heard(self, now: float) -> None:
        """Record that bytes have arrived."""
        self._heard_at = now

    def message(self, now: float) -> None:
        if self._message_at != NEVER:
            self._message_at = now

    def ready(self, now: float) -> None:
        """Expect messages from now on."""
        self._message_at = now

    def paused(self) -> None:
        """Record that reading is paused, and suspend the limits."""
        self._is_paused = True

    def resumed(self, now: float) -> None:
        """Record that reading continues, and start the limits again from *now*."""
        self._is_paused = False
        self._heard_at = now
        self.message(now)

    def pong(self, payload: bytes, now: float) -> float | None:
        """
        Return the seconds since the latest ping, or ``None`` if the pong answers another one.

        A pong may also answer no ping at all (RFC 6455 section 5.5.3).
        """
        if payload != self._payload:
            return None
        self._payload = None
        return now - self._pinged_at

    def check(self, now: float) -> float:
        """
        Send a ping if one is due, and return when to check again.

        Raises:
            StreamClosedError: If the connection is dead or was idle for too long.

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
