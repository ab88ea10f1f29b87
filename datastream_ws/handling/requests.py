"""Match incoming messages with pending ``request()`` and ``receive()`` calls."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..messages import Message

__all__ = ["Requests"]

Match = Callable[[Message], Any] | None


@dataclass(slots=True, eq=False)
class Pending:
    """
    A call that waits for a message.

    Attributes:
        receives: Whether it is a ``receive()``, which consumes the messages it examines.
        looked_at: How many messages did not match.

    """

    match: Match
    future: asyncio.Future[Message]
    receives: bool
    looked_at: int = 0

    def offer(self, message: Message) -> None:
        try:
            if self.match is None or self.match(message):
                self.future.set_result(message)
            else:
                self.looked_at += 1
        except BaseException as error:
            self.future.set_exception(_settable(error))


def _settable(error: BaseException) -> Exception:
    """Return *error* unless asyncio refuses it, or it would end the loop or look like a cancel."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failure = RuntimeError(f"match raised {type(error).__name__}")
    failure.__cause__ = error
    return failure


class Requests:
    """
    The pending requests and receives of one connection after the other; on the loop's thread.

    Until a connection is ready, its messages are kept for ``receive()``, because a hook may call it
    after its message has arrived. A kept message is examined by one ``receive()`` only.

    Args:
        most: Maximum number of messages kept. Beyond that, the oldest are discarded.
        on_wait: Called when a call begins to wait, because reading must then continue.
        name: The stream's name, for error messages.

    Attributes:
        were_made: Whether any call has been made since the client started.

    """

    were_made = False

    def __init__(self, most: int, on_wait: Callable[[], None], name: str) -> None:
        self._name = name
        self._most = min(most, sys.maxsize)
        self._on_wait = on_wait
        self._pending: list[Pending] = []
        self._kept: deque[Message] | None = None

    @property
    def are_waiting(self) -> bool:
        return bool(self._pending)

    @property
    def want_messages(self) -> bool:
        """Whether :meth:`answer` must be called with incoming messages."""
        return bool(self._pending) or self._kept is not None

    def opened(self) -> None:
        """Keep the messages of a new connection."""
        self._kept = deque(maxlen=self._most)

    def ready(self) -> None:
        """Discard the kept messages and keep no more, because the connection's hooks have ended."""
        self._kept = None

    async def first(
        self,
        match: Match,
        send: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Message:
        """
        Return the first message for which ``match(message)`` is true.

        With *send*, only messages that arrive after the call count. Without it, the kept messages
        are examined first.

        Args:
            match: Returns whether a message matches. ``None`` accepts any message.
            send: Called once the call is registered, so that no reply can be missed.
            timeout: Seconds to wait. ``None`` means as long as the connection lasts.

        Raises:
            TimeoutError: If no message matched in time. Its text has the number of messages
                examined.
            NotConnectedError: If the connection ends first.
            Exception: Whatever *match* or *send* raised.

        """
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        pending = Pending(match, future, receives=send is None)
        self.were_made = True
        if pending.receives:
            self._look_at_kept(pending)
        if future.done():
            return future.result()
        self._pending.append(pending)
        try:
            if send is not None:
                send()
            self._on_wait()
            return await self._within(timeout, pending)
        finally:
            if pending in self._pending:
                self._pending.remove(pending)

    async def _within(self, timeout: float | None, pending: Pending) -> Message:
        try:
            async with asyncio.timeout(timeout) as limit:
                return await pending.future
        except TimeoutError:
            if not limit.expired():
                raise
            what = "no message that matches" if pending.receives else "no reply"
            raise TimeoutError(
                f"stream {self._name}: {what} within {timeout:g} s; "
                f"messages received meanwhile: {pending.looked_at}"
            ) from None

    def _look_at_kept(self, pending: Pending) -> None:
        while self._kept and not pending.future.done():
            pending.offer(self._kept.popleft())

    def answer(self, messages: Sequence[Message]) -> None:
        """
        Offer incoming messages to the pending calls; keep those that no ``receive()`` examined.
        """
        for message in messages:
            looked_at = False
            for pending in self._pending:
                if not pending.future.done():
                    pending.offer(message)
                    looked_at |= pending.receives
            if self._kept is not None and not looked_at:
                self._kept.append(message)
        self._pending = [each for each in self._pending if not each.future.done()]

    def fail(self, error: Exception) -> None:
        """Fail all pending calls with *error*, because the connection has ended."""
        pending, self._pending = self._pending, []
        self._kept = None
        for each in pending:
            if not each.future.done():
                each.future.set_exception(error)
