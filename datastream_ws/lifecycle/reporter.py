"""Reports the state, errors and events of a stream to its log, callbacks and readers."""

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
from .commands import Commands
from .plan import Attempts, Plan

__all__ = ["Reporter"]

MOST_EVENTS = 50  # recent events that are kept


class Reporter:
    """
    The reports of one ``start()``.

    Call it on the loop's thread. :meth:`on_loop`, :meth:`report`, :meth:`warn` and :meth:`log` may
    be called from any thread.

    Args:
        owner: The public client.
        options: The client's options.
        handlers: The client's handlers.
        state: The client's state, which outlives this object.
        errors: The client's errors, which outlive this object.
        traffic: The client's counters.
        attempts: The count of the attempts.
        commands: The requests of the client's methods.
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
        commands: Commands,
        submit: Callable[[Callable[[], Any]], Future[Any]],
    ) -> None:
        self._options = options
        self._state = state
        self._errors = errors
        self._traffic = traffic
        self._attempts = attempts
        self._commands = commands
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

    def on_loop(self, function: Callable[[], None]) -> bool:
        """
        Call *function* on the loop's thread, immediately if the caller runs there.

        Returns:
            Whether it is called. It is not if the loop is closed and a handler still runs.

        """
        if asyncio._get_running_loop() is self._loop:
            function()
            return True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)
            return True
        return False

    # --- state and events ---

    def state(
        self, state: State, error: BaseException | None = None, delay: float | None = None
    ) -> None:
        """
        Change the state. It is the only method that does.

        Setting the same state again has no effect, except for WAITING, which is reported each time.

        Args:
            state: The new state.
            error: The error that caused the change. ``None`` means that there is none.
            delay: Seconds until the next attempt, for WAITING.

        """
        previous = self._state.value
        if state is previous and state is not State.WAITING:
            return
        self._log_state(state, error, delay)
        event = StateEvent(state, previous, error, self._attempts.number, delay)
        self._note_state(state, error)
        self._state.set(state)
        self._reports.put("on_state", event)

    def final_state(self, error: BaseException | None) -> None:
        """Change the state to FAILED because of *error*, or to CLOSED if it is ``None``."""
        self.state(State.CLOSED if error is None else State.FAILED, error)

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
        """Add to the recent events. *kind* is one of those of :class:`RecentEvent`."""
        self._events.append(RecentEvent(time.time(), kind, peer_text(text)))
        if len(self._events) > MOST_EVENTS:
            del self._events[0]

    @property
    def recent_events(self) -> tuple[RecentEvent, ...]:
        """The latest events from old to new, from any thread."""
        return tuple(self._events)

    def _log_state(self, state: State, error: BaseException | None, delay: float | None) -> None:
        if state is State.CONNECTING:
            return  # Lifecycle logs it with the URL, once per attempt
        if state is not State.WAITING:
            self.log("info", "%s", state.value, state=state.value, **about(error))
            return
        limit, attempt = self._options.max_reconnect_attempts, self._attempts.number
        number = f"{attempt} of {limit}" if limit else attempt
        self.log(
            "warning", "%s; attempt %s in %.1f s", said(error).removesuffix("."), number, delay,
            state=state.value, attempt=attempt, delay=delay, **about(error),
        )  # fmt: skip

    def lost(self) -> None:
        """Begin a gap, because a connection has ended."""
        self._lost_at = (time.time(), time.monotonic())

    def gap(self, last_message: Message | None) -> None:
        """Report the gap before a connection that is now open, if there was one."""
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
        Report the end of a connection.

        Args:
            connection: The number of the connection.
            ended: How it ended.
            error: The cause. ``None`` means that the client closed the connection.
            plan: The consequence. ``None`` means that a method of the client decides it.

        """
        will_retry = not self._commands.is_closing and (plan is None or not plan.is_last)
        delay = plan.delay if plan is not None and will_retry else None
        reason = peer_text(ended.reason)
        code = int(ended.code)
        self.note("lost", _ended_text(connection, code, reason, error))
        event = DisconnectEvent(connection, code, reason, error, will_retry, delay)
        self._reports.put("on_disconnect", event)

    async def finish(self, timeout: float) -> None:
        """Run waiting reports for at most *timeout* seconds, then end ``errors()``."""
        await self._reports.finish(timeout)
        self._errors.end()

    def end_without_loop(self, dropped: int) -> None:
        """
        Set the state to CLOSED and end ``errors()``, because the loop is closed.

        Args:
            dropped: How many unhandled messages were dropped.

        """
        text = "the event loop was closed before the client; unhandled messages dropped: %d. "
        text += "Use 'async with', or await close()."
        self.log("error" if dropped else "warning", text, dropped)
        self._state.set(State.CLOSED)
        self._errors.end()

    @property
    def reports_dropped(self) -> int:
        return self._reports.dropped

    @property
    def errors_dropped(self) -> int:
        return self._errors.lost

    # --- errors and the log ---

    def report(self, error: BaseException) -> None:
        """
        Log an error and pass it to ``on_error`` and ``errors()``, from any thread.

        Once the loop is closed it is only logged.
        """
        if not self.on_loop(lambda: self._report(error)):
            self._log_report(error)

    def _report(self, error: BaseException) -> None:
        self._log_report(error)
        self._traffic.last_error = said(error)
        self._errors.put(error)
        self._reports.put("on_error", error)

    def _log_report(self, error: BaseException) -> None:
        if isinstance(error, HandlerError):
            self._log_error(error)
        elif isinstance(error, InboxOverflowError | LeaseError | SpoolError):
            self.log("warning", "%s", said(error), **about(error))
        elif not isinstance(error, DataStreamError | OSError):
            self.log("error", "%s", said(error), exc_info=error)

    def _log_error(self, error: BaseException) -> None:
        self.log("error", "%s", error, exc_info=error)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self.log("warning", "%s", text)

    def log(
        self, level: str, text: str, *arguments: Any, exc_info: Any = None, **more: Any
    ) -> None:
        """Log a line with the stream's name and structured fields."""
        name = peer_text(self._options.name)
        known: dict[str, Any] = {
            "state": self._state.value.value,
            "connection": self._traffic.connections or None,
            **about(exc_info),
            **more,
        }
        text, extra = f"stream %s: {text}", fields(name, **known)
        write(self._options.logger, level, text, name, *arguments, exc_info=exc_info, extra=extra)


def _ended_text(connection: int, code: int, reason: str, error: BaseException | None) -> str:
    text = f"connection {connection}: code {code}"
    if reason:
        return f"{text}, {reason}"
    return text if error is None else f"{text}, {said(error)}"
