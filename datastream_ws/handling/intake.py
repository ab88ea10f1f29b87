"""
From received frames to the inbox: numbers, pending requests, back pressure.

All of it on the loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..exceptions import InboxOverflowError, NotConnectedError
from ..messages import Message, Origin
from ..options import ClientOptions
from ..stats import Traffic
from .inbox import Inbox
from .parcel import Parcel

__all__ = ["Intake"]

REPORT_SECONDS = 1.0  # at most one overflow report in this time


class Connection(Protocol):
    """What an intake knows of a connection."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def fail(self, error: Exception) -> None: ...


class Intake:
    """
    Takes the messages of one connection after the other.

    A message that finds the inbox full waits in ``_backlog`` while reading is paused. It has been
    received, so it reaches the inbox in any case, also when its connection is gone by then.

    Args:
        wake: Called when there is something to handle.
        report: Given :class:`InboxOverflowError`.

    """

    def __init__(
        self,
        inbox: Inbox,
        traffic: Traffic,
        options: ClientOptions,
        *,
        wake: Callable[[], None],
        report: Callable[[BaseException], None],
    ) -> None:
        self._inbox = inbox
        self._traffic = traffic
        self._options = options
        self._wake = wake
        self._report = report
        self._connection: Connection | None = None
        self._origin: Origin
        self._backlog: Sequence[Message] = []
        self._requests: list[tuple[Callable[[Message], Any], asyncio.Future[Message]]] = []
        self._blocked_at: float | None = None
        self._lost = 0  # dropped by overflow, not reported yet
        self._reported_at = -REPORT_SECONDS
        self._stopped = False

    def attach(self, connection: Connection, origin: Origin) -> None:
        """The next messages come from *connection*."""
        self._connection = connection
        self._origin = origin

    def detach(self) -> None:
        """The connection is over: what it had delivered is received, whatever the limits."""
        self._connection = None
        self._unblock()
        self._fail_requests()
        held, self._backlog = self._backlog, []
        if held and not self._stopped:
            self._inbox.put(held, force=True)
            self._wake()

    # --- in ---

    def take(self, payloads: list[str | bytes], size: int) -> None:
        """Take whole messages; the callback of a connection."""
        if self._stopped:
            return
        now = time.time()
        self._traffic.bytes_received += size
        self._traffic.last_message_at = now
        seq = self._inbox.taken + len(self._backlog)
        messages: Sequence[Message] = Parcel(payloads, self._origin, seq + 1, now, size)
        if self._requests:
            messages = list(messages)
            self._answer_requests(messages)
        if self._backlog:
            self._backlog = [*self._backlog, *messages]
            self._brake()
        else:
            self._put(messages)

    def _put(self, messages: Sequence[Message]) -> None:
        put = self._inbox.put(messages)
        self._wake()
        if put.dropped:
            self._lost += put.dropped
            self._report_lost()
        if put.disconnect:
            self._disconnect()
        elif put.full:
            self._backlog = messages[put.taken :]
            self._brake()

    def _disconnect(self) -> None:
        error = InboxOverflowError("the inbox is full: connection dropped, see option overflow")
        if self._connection is not None:
            self._connection.fail(error)

    def _report_lost(self) -> None:
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            lost, self._lost = self._lost, 0
            self._report(
                InboxOverflowError(f"the inbox is full: {lost} messages dropped, see overflow")
            )

    # --- back pressure ---

    def _brake(self) -> None:
        """Stop reading; but while a request waits, its reply may be what comes next."""
        if self._blocked_at is None:
            self._blocked_at = time.monotonic()
        enough = len(self._backlog) >= (self._options.inbox_size or 1000)
        if self._connection is not None and (enough or not self._requests):
            self._connection.pause_reading()

    def on_room(self) -> None:
        """The inbox has room again: what is held first, then the socket."""
        if self._stopped:
            return
        self._unblock()
        held, self._backlog = self._backlog, []
        if held:
            self._put(held)
        if not self._backlog and self._blocked_at is None and self._connection is not None:
            self._connection.resume_reading()

    def _unblock(self) -> None:
        if self._blocked_at is not None:
            self._traffic.blocked_seconds += time.monotonic() - self._blocked_at
            self._blocked_at = None

    @property
    def blocked_seconds(self) -> float:
        """Time with reading stopped, the current stop included."""
        running = 0.0 if self._blocked_at is None else time.monotonic() - self._blocked_at
        return self._traffic.blocked_seconds + running

    # --- requests ---

    async def reply(self, match: Callable[[Message], Any], send: Callable[[], None]) -> Message:
        """Call *send*, return the first message from then on that matches."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        pending = (match, future)
        self._requests.append(pending)
        try:
            send()
            if self._blocked_at is not None and self._connection is not None:
                self._connection.resume_reading()
            return await future
        finally:
            if pending in self._requests:
                self._requests.remove(pending)

    def _answer_requests(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for match, future in list(self._requests):
                if not future.done():
                    _try_match(match, future, message)
        self._requests = [pending for pending in self._requests if not pending[1].done()]

    def _fail_requests(self) -> None:
        requests, self._requests = self._requests, []
        for _, future in requests:
            if not future.done():
                future.set_exception(NotConnectedError("the connection ended before the reply"))

    # --- the end ---

    def stop(self) -> None:
        """Receive nothing more; what is held has been received."""
        self._fail_requests()
        self._unblock()
        if self._backlog:
            self._inbox.put(self._backlog, force=True)
            self._backlog = []
        self._stopped = True
        if self._connection is not None:
            self._connection.pause_reading()
        self._wake()


def _try_match(
    match: Callable[[Message], Any], future: asyncio.Future[Message], message: Message
) -> None:
    try:
        if match(message):
            future.set_result(message)
    except Exception as error:
        future.set_exception(error)
