"""Who waits for a message: ``request()`` and ``receive()``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..messages import Message

__all__ = ["Requests"]

Match = Callable[[Message], Any] | None


@dataclass(slots=True, eq=False)
class Pending:
    """Somebody who waits; *looked_at*: how many messages were none of theirs."""

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
        except Exception as error:
            self.future.set_exception(error)


class Requests:
    """
    The pending requests and receives of one connection after the other; on the loop's thread.

    Until a connection is ready its messages are kept for ``receive()``: a hook may ask for the
    first of them after it has come. One that a receive has looked at is looked at by no other.

    Args:
        most: How many messages are kept at most; then the oldest go.
        on_wait: Called when somebody begins to wait: reading must go on.
        name: Of the stream, for texts.

    Attributes:
        were_made: Somebody has waited for a message, if only once.

    """

    were_made = False

    def __init__(self, most: int, on_wait: Callable[[], None], name: str) -> None:
        self._name = name
        self._most = most
        self._on_wait = on_wait
        self._pending: list[Pending] = []
        self._kept: deque[Message] | None = None

    @property
    def are_waiting(self) -> bool:
        return bool(self._pending)

    @property
    def want_messages(self) -> bool:
        """Whether :meth:`answer` is to be called."""
        return bool(self._pending) or self._kept is not None

    def opened(self) -> None:
        """There is a new connection: keep what comes over it."""
        self._kept = deque(maxlen=self._most)

    def ready(self) -> None:
        """The hooks of the connection are through: keep nothing any more."""
        self._kept = None

    async def first(
        self,
        match: Match,
        send: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> Message:
        """
        Return the first message from now on for which ``match(message)`` is true.

        Without *send* it begins with those that are kept.

        Args:
            match: ``None``: any message.
            send: Called once nothing can be missed.
            timeout: In seconds; ``None``: as long as the connection.

        Raises:
            TimeoutError: With the number of messages that were looked at.
            NotConnectedError: If the connection ends before.
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
        """Show messages that came to those who wait; keep what no receive has looked at."""
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
        """The connection is over."""
        pending, self._pending = self._pending, []
        self._kept = None
        for each in pending:
            if not each.future.done():
                each.future.set_exception(error)
