"""
Pass received payloads to inline handlers, pending requests and the inbox, with backpressure.

Everything here runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

from ..exceptions import InboxOverflowError, NotConnectedError
from ..handlers import Handlers
from ..messages import Message, Origin, payload_bytes
from ..options import ClientOptions
from ..redaction import peer_text
from ..stats import Traffic
from .inbox import Inbox
from .inline import InlineHandlers
from .lazy_messages import LazyMessages
from .requests import Requests
from .stores import size_of
from .throttle import Throttle
from .timing import Timings
from .unpacking import Unpacking, unpacking_of

__all__ = ["Intake"]

WARN_SECONDS = 5.0  # time without reading after which a warning is logged


class Connection(Protocol):
    """The part of a connection that an intake uses."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def fail(self, error: Exception) -> None: ...


class Intake:
    """
    Receives the messages of one connection after the other.

    A message that finds the inbox full waits in the backlog while reading is paused. It counts as
    received, so it reaches the inbox even if its connection has ended by then.

    Args:
        wake: Called when there are messages to handle.
        report: Receives :class:`InboxOverflowError`, and what inline handlers raise.
        warn: Logs a line.
        running_handlers: Returns the names of the handlers that are being called.
        is_open: Whether inline handlers may be called. ``None`` means always.
        timings: Receives the calls of inline handlers. ``None`` means a private instance.

    Attributes:
        requests: The pending ``request()`` and ``receive()`` calls.

    """

    def __init__(
        self,
        inbox: Inbox,
        traffic: Traffic,
        options: ClientOptions,
        handlers: Handlers | None = None,
        *,
        wake: Callable[[], None],
        report: Callable[[BaseException], None],
        warn: Callable[[str], None] = lambda text: None,
        running_handlers: Callable[[], Sequence[str]] = list,
        is_open: Callable[[], bool] | None = None,
        timings: Timings | None = None,
    ) -> None:
        self._inbox = inbox
        self._traffic = traffic
        self._options = options
        self._wake = wake
        self._report = report
        self._warn = warn
        self._running_handlers = running_handlers
        self._handlers = handlers or Handlers()
        self._is_open = is_open
        self._timings = timings or Timings()
        self.requests = Requests(
            options.inbox_size or 1000, self._read_on_for_requests, peer_text(options.name)
        )
        self._connection: Connection | None = None
        self._origin: Origin
        self._unpacking: Unpacking | None = None
        self._backlog: list[Sequence[Message]] = []
        self._backlog_count = self._backlog_bytes = 0
        self._blocked_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_warned_untaken = False
        self._stopped = False

    # Created when first used. With a thousand clients, most are never needed.

    @cached_property
    def _inline(self) -> InlineHandlers:
        return InlineHandlers(
            self._handlers, self._inbox, self._is_open, self._report, self._timings
        )

    @cached_property
    def _lost(self) -> Throttle:
        return Throttle(self._report_lost)

    def attach(self, connection: Connection, origin: Origin) -> None:
        """Receive from *connection* from now on."""
        self._connection = connection
        self._origin = origin
        self._unpacking = unpacking_of(origin.codec, connection.fail)
        hooks = self._handlers.hooks
        if hooks["on_connect"] or hooks["on_ready"]:
            self.requests.opened()  # only for them, because what is kept stays in memory

    def detach(self) -> None:
        """
        Accept the connection's backlog in spite of the limits, because the connection has ended.
        """
        self._connection = None
        self._unblock()
        self.requests.fail(NotConnectedError("the connection ended before the reply"))
        if not self._stopped:
            self._force_backlog()

    def stop(self) -> None:
        """
        Receive no more messages. The backlog counts as received, so the inbox accepts all of it.
        """
        self.requests.fail(NotConnectedError("the client closed before the reply"))
        self._unblock()
        self._force_backlog()
        self._lost.flush()
        self._stopped = True
        if self._connection is not None:
            self._connection.pause_reading()
        self._wake()

    # --- in ---

    def take(self, payloads: list[str | bytes], size: int) -> None:
        """
        Receive whole messages; the connection calls it.

        Args:
            size: The bytes of all *payloads*.

        """
        if self._stopped:
            return
        now = time.time()
        self._traffic.bytes_received += size
        self._traffic.last_message_at = now
        if self._unpacking is not None:
            payloads = self._unpacking(payloads)
            size = sum(map(payload_bytes, payloads))
        seq = self._inbox.taken + self._backlog_count
        messages: Sequence[Message] = LazyMessages(payloads, self._origin, seq + 1, now, size)
        if self.requests.want_messages:
            messages = list(messages)
            self.requests.answer(messages)
        if self._handlers.inline.handlers:
            messages = self._inline.handle(messages)
        if self._backlog:
            self._hold(messages)
            self._brake()
        elif messages and (rest := self._put(messages)) is not None:
            self._hold(rest)
            self._brake()

    def _put(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """Put messages into the inbox. If it is full, return those that it did not accept."""
        put = self._inbox.put(messages)
        self._wake()
        if put.dropped:
            self._lost.note(put.dropped)
        if put.untaken:
            self._warn_untaken()
        if put.disconnect:
            self._disconnect()
        return messages[put.taken :] if put.full else None

    def _hold(self, messages: Sequence[Message]) -> None:
        if messages:
            self._backlog.append(messages)
            self._backlog_count += len(messages)
            self._backlog_bytes += size_of(messages)

    def _next_held(self) -> Sequence[Message]:
        messages = self._backlog.pop(0)
        self._backlog_count -= len(messages)
        self._backlog_bytes -= size_of(messages)
        return messages

    def _hold_first(self, messages: Sequence[Message]) -> None:
        """Insert messages at the front of the backlog."""
        held, self._backlog = self._backlog, []
        self._hold(messages)
        self._backlog.extend(held)

    def _put_backlog(self) -> None:
        while self._backlog:
            rest = self._put(self._next_held())
            if rest is not None:
                self._hold_first(rest)
                self._brake()
                return

    def _force_backlog(self) -> None:
        if self._backlog:
            while self._backlog:
                self._inbox.put(self._next_held(), force=True)
            self._wake()

    def _disconnect(self) -> None:
        error = InboxOverflowError(
            "the inbox is full, so the connection was closed, because overflow is 'disconnect'. "
            "Make the handlers faster, or set another overflow or a spool."
        )
        if self._connection is not None:
            self._connection.fail(error)

    def _report_lost(self, messages: int) -> None:
        noun = "message was" if messages == 1 else "messages were"
        self._report(
            InboxOverflowError(
                f"the inbox is full; {messages} {noun} dropped. Make the handlers faster, or set "
                "another overflow or a spool."
            )
        )

    def _warn_untaken(self) -> None:
        if not self._has_warned_untaken:
            self._has_warned_untaken = True
            self._warn(
                "no handler takes the received messages, so the oldest are dropped. Register "
                "an on_message handler, or use 'async for message in client'."
            )

    # --- backpressure ---

    def _brake(self) -> None:
        """
        Stop reading, unless a request waits for a message that may be the next one.

        A pending request would otherwise wait for the very handler that makes it. Beyond
        ``inbox_bytes``, reading stops in any case.
        """
        limit = self._options.inbox_bytes
        is_enough = limit is not None and self._backlog_bytes >= limit
        if is_enough or not self.requests.are_waiting:
            self._block()

    def _block(self) -> None:
        if self._connection is None or self._blocked_at is not None:
            return
        self._blocked_at = time.monotonic()
        self._connection.pause_reading()
        self._timer = asyncio.get_running_loop().call_later(WARN_SECONDS, self._warn_blocked)

    def _unblock(self) -> None:
        if self._blocked_at is not None:
            self._traffic.blocked_seconds += time.monotonic() - self._blocked_at
            self._blocked_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read_on(self) -> None:
        self._unblock()
        if self._connection is not None:
            self._connection.resume_reading()

    def _read_on_for_requests(self) -> None:
        """Resume reading for a new request, unless the backlog has reached ``inbox_bytes``."""
        limit = self._options.inbox_bytes
        if self._blocked_at is not None and (limit is None or self._backlog_bytes < limit):
            self._read_on()

    def on_room(self) -> None:
        """Move the backlog into the inbox, then resume reading; called when the inbox has room."""
        if self._stopped:
            return
        was_blocked = self._blocked_at is not None
        self._unblock()
        self._put_backlog()
        if was_blocked and self._blocked_at is None and self._connection is not None:
            self._connection.resume_reading()

    def _warn_blocked(self) -> None:
        """Log a warning once for each long period without reading."""
        names = ", ".join(self._running_handlers()) or "no handler"
        self._warn(
            f"the inbox is full, and nothing has been read for {WARN_SECONDS:g} s; running: "
            f"{names}. Pings are not answered meanwhile, so the server may close the connection. "
            "Make the handler faster, raise concurrency, or set another overflow or a spool."
        )

    @property
    def blocked_seconds(self) -> float:
        """The total seconds that reading was stopped, including the current stop."""
        began = self._blocked_at  # once, because the loop may change it meanwhile
        running = 0.0 if began is None else time.monotonic() - began
        return self._traffic.blocked_seconds + running
