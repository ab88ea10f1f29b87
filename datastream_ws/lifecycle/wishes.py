"""What the verbs have asked for: close, pause, reconnect. Read in one place, by the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from ..exceptions import ConfigurationError
from ..process.futures import LoopEvent

__all__ = ["HangUp", "Wishes", "hang_up"]


class HangUp(NamedTuple):
    """How to close a connection that is not wanted any more."""

    code: int = 1000
    reason: str = ""


class Wishes:
    """
    The last word of the verbs, on the loop's thread.

    Nothing is a queue here: pause and resume, back to back, leave nothing to do.

    Args:
        clock: Seconds of the loop's clock.

    Attributes:
        changed: Set at every word; whoever waits clears it before looking.
        deadline: When closing must be over, by the clock; ``None``: nobody has asked to close.
        farewell: How the connection is closed at the end.
        note: Told of each change that a verb has made: kind and text of a :class:`RecentEvent`.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause: HangUp | None = None
        self._reconnect: HangUp | None = None
        self.changed = LoopEvent()
        self.deadline: float | None = None
        self.farewell = HangUp()
        self.note: Callable[[str, str], None] = lambda kind, text: None

    # --- the verbs ---

    def pause(self, hang_up: HangUp) -> None:
        if self._pause is None:
            self._pause = hang_up
            self.note("paused", hang_up.reason)
            self.changed.set()

    def resume(self) -> None:
        if self._pause is not None:
            self._pause = None
            self.note("resumed", "")
            self.changed.set()

    def reconnect(self, hang_up: HangUp) -> None:
        self._reconnect = hang_up
        self.note("reconnect", hang_up.reason)
        self.changed.set()

    def close(self, timeout: float, farewell: HangUp | None = None) -> None:
        """Ask to close within *timeout* seconds; a later call may only shorten it."""
        deadline = self._clock() + timeout
        if self.deadline is None:
            self.farewell = farewell or self.farewell
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
        self.changed.set()

    # --- the machine ---

    @property
    def is_closing(self) -> bool:
        return self.deadline is not None

    @property
    def is_paused(self) -> bool:
        return self._pause is not None

    @property
    def hang_up(self) -> HangUp | None:
        """How to end the connection there is, or the step towards one; ``None``: serve on."""
        return self._pause or self._reconnect

    @property
    def left(self) -> float:
        """Seconds until the deadline; infinite when nobody has asked to close."""
        return float("inf") if self.deadline is None else self.deadline - self._clock()

    def begin_attempt(self) -> None:
        """The attempt that begins now is what a reconnect has asked for."""
        self._reconnect = None

    async def change(self, *things: asyncio.Future[Any], timeout: float | None = None) -> bool:
        """Wait for another word, or for one of *things*; False when *timeout* ends first."""
        done, _ = await asyncio.wait(
            [self.changed.wait(), *things], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        return bool(done)


def hang_up(code: Any, reason: Any) -> HangUp:
    """
    Return how a connection is closed.

    Raises:
        ConfigurationError: If no close frame can say that (RFC 6455 sections 5.5.1 and 7.4).

    """
    is_code = isinstance(code, int) and not isinstance(code, bool)
    if not is_code or not (code in (1000, 1001) or 3000 <= code <= 4999):
        raise ConfigurationError("code: must be 1000, 1001, or from 3000 to 4999")
    if not isinstance(reason, str) or len(reason.encode(errors="replace")) > 123:
        raise ConfigurationError("reason: must be a string of at most 123 bytes")
    return HangUp(code, reason)
