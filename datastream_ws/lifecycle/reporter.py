"""What a stream says of itself: its state, the log, errors, events; each to all who listen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from ..connection.engine import Ended
from ..events import DisconnectEvent, GapEvent, RecentEvent, State, StateEvent
from ..exceptions import (
    DataStreamError,
    HandlerError,
    InboxOverflowError,
    LeaseError,
    SpoolError,
    said,
)
from ..handlers import Handlers
from ..handling.hooks import Reports
from ..log_fields import about, fields, write
from ..messages import Message
from ..options import ClientOptions
from ..process.futures import ErrorBuffer, Observable
from ..redaction import peer_text
from ..stats import Traffic
from .plan import Attempts, Plan
from .wishes import Wishes

__all__ = ["Reporter"]

MOST_EVENTS = 50  # recent ones that are kept


class Reporter:
    """
    The voice of one ``start()``; on the loop's thread, but for :meth:`report`.

    Args:
        owner: The client that users see.
        state, errors: The owner's, which outlive this object.
        attempts: What counts the attempts.
        wishes: What the verbs have asked for.
        submit: Runs a function on a handler thread.

    """

    def __init__(
        self,
        *,
        owner: object,
        options: ClientOptions,
        handlers: Handlers,
        state: Observable[State],
        errors: ErrorBuffer,
        traffic: Traffic,
        attempts: Attempts,
        wishes: Wishes,
        submit: Callable[[Callable[[], Any]], Future[Any]],
    ) -> None:
        self._options = options
        self._state = state
        self._errors = errors
        self._traffic = traffic
        self._attempts = attempts
        self._wishes = wishes
        self._loop = asyncio.get_running_loop()
        self._lost_at: tuple[float, float] | None = None  # UNIX and monotonic time
        self._events: list[RecentEvent] = []
        self._reports = Reports(
            owner=owner,
            handlers=handlers,
            submit=submit,
            report=self.report,
            log=self._log_error,
            warn=self.warn,
        )

    def on_loop(self, function: Callable[[], None]) -> None:
        """Call *function* on the loop's thread: now if this is it, else soon."""
        if asyncio._get_running_loop() is self._loop:
            function()
        else:
            with suppress(RuntimeError):  # the loop is closed: a handler outlived its client
                self._loop.call_soon_threadsafe(function)

    # --- state and events ---

    def state(
        self, state: State, error: BaseException | None = None, delay: float | None = None
    ) -> None:
        """Change the state; the one place where it does. WAITING again is told again."""
        previous = self._state.value
        if state is previous and state is not State.WAITING:
            return
        self._log_state(state, error, delay)
        event = StateEvent(state, previous, error, self._attempts.number, delay)
        self._note_state(state, error)
        self._state.set(state)
        self._reports.put("on_state", event)

    def _note_state(self, state: State, error: BaseException | None) -> None:
        number = self._traffic.connections
        if state is State.CONNECTED:
            self.note("connected", f"connection {number}")
        elif state is State.READY:
            self.note("ready", f"connection {number}")
        elif state is State.STANDBY:
            self.note("lease", "standby: another process holds the lease")
        elif state is State.FAILED:
            self.note("failed", said(error) if error is not None else "")
        elif state is State.CLOSED:
            self.note("closed", "")

    def note(self, kind: str, text: str = "") -> None:
        """Keep an event for those who look later; *kind*: as :class:`RecentEvent` has them."""
        self._events.append(RecentEvent(time.time(), kind, peer_text(text)))
        if len(self._events) > MOST_EVENTS:
            del self._events[0]

    @property
    def recent_events(self) -> tuple[RecentEvent, ...]:
        """The last events, from old to new; from any thread."""
        return tuple(self._events)

    def _log_state(self, state: State, error: BaseException | None, delay: float | None) -> None:
        if state is State.CONNECTING:
            return  # logged with the address, once per attempt
        if state is not State.WAITING:
            self.log("info", "%s", state.value, state=state.value, **about(error))
            return
        limit = self._options.max_reconnect_attempts
        of_limit = f" of {limit}" if limit else ""
        attempt = self._attempts.number
        self.log(
            "warning",
            "%s; attempt %d%s in %.1f s",
            said(error),
            attempt,
            of_limit,
            delay,
            **{"state": state.value, "attempt": attempt, "delay": delay, **about(error)},
        )

    def lost(self) -> None:
        """A connection has ended: a gap begins."""
        self._lost_at = (time.time(), time.monotonic())

    def gap(self, last_message: Message | None) -> None:
        """A connection is open: the gap before it is over, if there was one."""
        if self._lost_at is None:
            return
        wall, monotonic = self._lost_at
        self._lost_at = None
        seconds = time.monotonic() - monotonic
        self.note("gap", f"{seconds:.1f} s without a connection")
        self._reports.put("on_gap", GapEvent(wall, wall + seconds, seconds, last_message))

    def disconnect(
        self, connection: int, ended: Ended, error: BaseException | None, plan: Plan | None
    ) -> None:
        """
        Tell of the end of a connection.

        Args:
            error: What ended it; ``None``: we did.
            plan: What follows; ``None``: nothing, or what a verb has asked for.

        """
        will_retry = not self._wishes.is_closing and (plan is None or not plan.is_last)
        delay = plan.delay if plan is not None and will_retry else None
        reason = peer_text(ended.reason)
        code = int(ended.code)
        self.note("lost", _ended_text(connection, code, reason, error))
        event = DisconnectEvent(connection, code, reason, error, will_retry, delay)
        self._reports.put("on_disconnect", event)

    async def finish(self, timeout: float) -> None:
        """Give reports that wait *timeout* seconds; nothing is reported any more."""
        await self._reports.finish(timeout)
        self._errors.end()

    @property
    def reports_dropped(self) -> int:
        return self._reports.dropped

    @property
    def errors_dropped(self) -> int:
        return self._errors.lost

    # --- errors and the log ---

    def report(self, error: BaseException) -> None:
        """Log an error, give it to ``on_error`` and ``errors()``; from any thread."""
        self.on_loop(lambda: self._report(error))

    def _report(self, error: BaseException) -> None:
        if isinstance(error, HandlerError):
            self._log_error(error)
        elif isinstance(error, InboxOverflowError | LeaseError | SpoolError):
            self.log("warning", "%s", said(error), **about(error))
        elif not isinstance(error, DataStreamError | OSError):
            self.log("error", "%s", said(error), exc_info=error)
        self._traffic.last_error = said(error)
        self._errors.put(error)
        self._reports.put("on_error", error)

    def _log_error(self, error: BaseException) -> None:
        self.log("error", "%s", error, exc_info=error)

    def warn(self, text: str) -> None:
        """Log a line."""
        self.log("warning", "%s", text)

    def log(
        self, level: str, text: str, *arguments: Any, exc_info: Any = None, **more: Any
    ) -> None:
        """Log; a logger is the user's code: what it raises must not end the stream."""
        with suppress(Exception):
            name = peer_text(self._options.name)
            known: dict[str, Any] = {
                "state": self._state.value.value,
                "connection": self._traffic.connections or None,
                **about(exc_info),
                **more,
            }
            write(
                self._options.logger,
                level,
                "stream %s: " + text,
                name,
                *arguments,
                exc_info=exc_info,
                extra=fields(name, **known),
            )


def _ended_text(connection: int, code: int, reason: str, error: BaseException | None) -> str:
    text = f"connection {connection}: code {code}"
    if reason:
        return f"{text}, {reason}"
    return text if error is None else f"{text}, {said(error)}"
