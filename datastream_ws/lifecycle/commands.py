"""
The latest requests of the client's methods to close, pause or reconnect.

Only the state machine reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..exceptions import ConfigurationError
from ..process.futures import LoopEvent

__all__ = ["CloseFrame", "Commands", "close_frame"]


class CloseFrame(NamedTuple):
    """The close code and reason with which to close a connection."""

    code: int = 1000
    reason: str = ""


class Commands:
    """
    The requests that are in force, on the loop's thread.

    There is no queue. A pause and a resume in a row leave nothing to do.

    Args:
        clock: Returns the seconds of the loop's clock.

    Attributes:
        changed: Set at every request.
        deadline: The time by which the client must be closed. ``None`` means that it stays open.
        final_frame: The close code and reason for the shutdown.
        note: Called with the kind and the text of a :class:`RecentEvent` for each request.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause: CloseFrame | None = None
        self._reconnect: CloseFrame | None = None
        self.changed = LoopEvent()
        self.deadline: float | None = None
        self.final_frame = CloseFrame()
        self.note: Callable[[str, str], None] = lambda kind, text: None

    # --- called by the client's methods ---

    def pause(self, close_frame: CloseFrame) -> None:
        if self._pause is None:
            self._pause = close_frame
            self.note("paused", close_frame.reason)
            self.changed.set()

    def resume(self) -> None:
        if self._pause is not None:
            self._pause = None
            self.note("resumed", "")
            self.changed.set()

    def reconnect(self, close_frame: CloseFrame) -> None:
        self._reconnect = close_frame
        self.note("reconnect", close_frame.reason)
        self.changed.set()

    def close(self, timeout: float, final_frame: CloseFrame | None = None) -> None:
        """
        Request to close within *timeout* seconds. A later call can only shorten the time.

        Args:
            timeout: Seconds from now.
            final_frame: The close frame. ``None`` means code 1000. Only the first call sets it.

        """
        deadline = self._clock() + timeout
        if self.deadline is None:
            self.final_frame = final_frame or self.final_frame
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
        self.changed.set()

    # --- called by the state machine ---

    @property
    def is_closing(self) -> bool:
        return self.deadline is not None

    @property
    def is_paused(self) -> bool:
        return self._pause is not None

    @property
    def close_frame(self) -> CloseFrame | None:
        """How to close the connection or the attempt. ``None`` means to keep it."""
        return self._pause or self._reconnect

    @property
    def left(self) -> float:
        """Seconds until the deadline, infinite without one."""
        return float("inf") if self.deadline is None else self.deadline - self._clock()

    def begin_attempt(self) -> None:
        """Fulfill a request to reconnect, because an attempt begins."""
        self._reconnect = None


def close_frame(code: Any, reason: Any) -> CloseFrame:
    """
    Validate a close code and reason.

    Raises:
        ConfigurationError: If a client may not send them (RFC 6455 sections 5.5.1 and 7.4).

    """
    if not isinstance(code, int) or not (code in (1000, 1001) or 3000 <= code <= 4999):
        raise ConfigurationError("code: must be 1000, 1001, or from 3000 to 4999")
    if not isinstance(reason, str) or len(reason.encode(errors="replace")) > 123:
        raise ConfigurationError("reason: must be a string of at most 123 bytes")
    return CloseFrame(code, reason)
