"""
The state machine of a client, a loop of attempt, serve, plan and wait.

There is one object per ``start()``, which lives until CLOSED or FAILED. One task on the loop's
thread runs it. The client's methods only record a request in ``commands``. The task reads it, and
either keeps the connection or closes it.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from ..codecs import frame_of
from ..connection.connection import Connection
from ..connection.engine import Ended
from ..connection.subscriptions import SubscriptionFeed
from ..events import State
from ..exceptions import (
    ConfigurationError,
    DataStreamError,
    LeaseError,
    SpoolError,
    StreamClosedError,
)
from ..handling.hooks import HookFailure, is_effect
from ..process.futures import retrieve
from ..spool import SpoolThread
from ..stats import Stats
from .assembly import Parts, Start
from .closing import Closing
from .commands import CloseFrame, close_frame
from .plan import ASKED, Outcome, Plan
from .rate_limiter import RateLimiter

__all__ = ["Lifecycle"]

NO_CLOSE_FRAME = 1006  # RFC 6455 section 7.4.1
HOOK_GRACE = 0.1  # seconds in which a hook may still raise after the connection has ended
RETRY_SECONDS = 10.0  # time limit for the user's retry callable
WITHOUT_HANDLERS_SECONDS = 1.0  # seconds for a program to make its first request


class Lifecycle:
    """
    The state machine of one ``start()``. Call it on the loop's thread, except :meth:`stats`.

    Attributes:
        error: The error that the client failed with, or the latest fatal one with ``fatal_delay``.
        connection: The current connection, which may have just ended. ``None`` means that there is
            none.
        finished: Resolved when the client is CLOSED or FAILED.

    """

    def __init__(self, start: Start) -> None:
        parts = self.parts = Parts(start)
        self.options = start.options
        self.traffic = parts.traffic
        self.loop = parts.loop
        self.commands = parts.commands
        self.inbox = parts.inbox
        self.dispatcher = parts.dispatcher
        self.intake = parts.intake
        self.epoch = start.epoch
        self.error: BaseException | None = None
        self.finished: Future[None] = Future()
        self.connection: Connection | None = None
        self._lingering: Connection | None = None  # ended by a close frame, with an open socket
        self._is_iterable = start.is_iterable
        self._has_warned = False  # that no handler takes the messages
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the task."""
        self.parts.reporter.state(State.CONNECTING)
        self._task = self.loop.create_task(self._live(), name=f"datastream {self.options.name}")

    # --- the task ---

    async def _live(self) -> None:
        error: BaseException | None = None
        try:
            error = await self._stay_connected()
            error = self.parts.death if error is None else error
        except asyncio.CancelledError:
            self.commands.close(0.0)
        except GeneratorExit:
            raise  # the loop was closed, so nothing can be awaited
        except BaseException as death:
            self.parts.fail(death)
            error = death
        try:
            await self._finish(error)
        finally:
            if not self.parts.state.value.is_final:
                self.parts.reporter.final_state(self.error)
            if not self.finished.done():
                self.finished.set_result(None)

    async def _stay_connected(self) -> Exception | None:
        """Make attempts until the client is to close, or return the fatal error that ends them."""
        while not self.commands.is_closing:
            if self.parts.has_lost_lease:
                self._stand_by()
            if self.commands.is_paused:
                await self._stay_paused()
                continue
            outcome = await self._attempt()
            if self.connection is not None:  # Closing needs it
                return None
            plan = await self._plan(outcome)
            self._report_end(outcome, plan)
            if plan is None:
                continue
            if plan.is_last:
                return plan.fatal
            if plan.fatal is not None:
                self.error = plan.fatal
            self.parts.reporter.state(State.WAITING, outcome.error, plan.delay)
            await self._first(timeout=plan.delay)
        return None

    async def _stay_paused(self) -> None:
        self.parts.reporter.state(State.PAUSED)
        while self.commands.is_paused and not self.commands.is_closing:
            if self.parts.has_lost_lease:
                return
            await self.commands.changed.wait()

    def _stand_by(self) -> None:
        """Drop all messages of a lost lease, and wait for the next."""
        assert self.parts.tenure is not None
        self.parts.drop_lost()
        self.parts.tenure.give_up()
        self.parts.reporter.note("lease", "lost")
        self.parts.reporter.state(State.STANDBY)

    async def _finish(self, error: BaseException | None) -> None:
        """Close everything, at once if the loop shuts down meanwhile and cancels all tasks."""
        self.error = error
        closing = Closing(self.parts, self.connection, error)
        if self._lingering is not None:
            self._lingering.fail(DataStreamError("closed"))
        try:
            await self._close_all(closing)
        except asyncio.CancelledError:
            self.commands.close(0.0)
            await self._close_all(closing)

    async def _close_all(self, closing: Closing) -> None:
        await closing.run()
        if (connection := self.connection) is not None:
            self._report_end(Outcome(None, self._note_end(connection), connection.number), None)
        await closing.release()
        self.error = closing.error
        await closing.report()

    # --- waiting ---

    @property
    def _is_interrupted(self) -> bool:
        """Whether the current attempt or connection must end."""
        commands = self.commands
        return commands.is_closing or commands.close_frame is not None or self.parts.has_lost_lease

    async def _first(self, *things: asyncio.Future[Any], timeout: float | None = None) -> bool:
        """
        Wait for one of *things*, at most *timeout* seconds.

        Returns:
            Whether the wait was interrupted. ``None`` as *timeout* means no limit.

        """
        until = None if timeout is None else self.loop.time() + timeout
        while not self._is_interrupted:
            if any(thing.done() for thing in things):
                return False
            left = None if until is None else until - self.loop.time()
            if left is not None and left <= 0:
                return False
            await self.commands.changed.wait(*things, timeout=left)
        return True

    # --- one attempt ---

    async def _attempt(self) -> Outcome:
        """Connect, get ready and serve. Return how the attempt ended."""
        self.commands.begin_attempt()
        outcome = await self._open_spool() or await self._acquire_lease()
        if outcome is not None:
            return outcome
        await self._end_lingering()
        assert self.connection is None, "two connections"
        self.parts.reporter.state(State.CONNECTING)
        limiter = self.parts.rate_limiter
        if limiter is not None and await self._is_interrupted_before(limiter):
            return ASKED
        self.traffic.attempts += 1
        connection = self._make_connection()
        # The tasks of _open() and _prepare() are freed before the connection is served.
        return await self._open(connection) or await self._serve(connection)

    async def _open(self, connection: Connection) -> Outcome | None:
        """Open the connection. Return the outcome if that failed or was interrupted."""
        dialing = self.loop.create_task(self._dial(connection))
        dialing.add_done_callback(retrieve)
        try:
            interrupted = await self._first(dialing)
        except asyncio.CancelledError:  # the loop is shutting down and cancels all tasks
            # A canceled attempt closes its own socket. One that has just succeeded does not.
            if not (dialing.cancel() or dialing.cancelled() or dialing.exception()):
                connection.fail(DataStreamError("no longer wanted"))
            raise
        if not dialing.done():
            dialing.cancel()
            await asyncio.wait([dialing])
        if (failure := _failure_of(dialing)) is not None:
            return ASKED if self._is_interrupted else Outcome(_explained(failure)[0])
        if interrupted:
            connection.fail(DataStreamError("no longer wanted"))
            await asyncio.wait([connection.closed])
            return ASKED
        return None

    async def _open_spool(self) -> Outcome | None:
        """Open the spool unless it is open. Return the outcome if that failed, or ``None``."""
        spool = self.parts.spool
        if spool is None:
            return None
        if not spool.is_open and (outcome := await self._wait_for(spool)) is not None:
            return outcome
        if self.parts.tenure is None:  # otherwise the lease sets the epoch
            self.epoch = max(self.epoch, spool.epoch + 1)
        return None

    async def _wait_for(self, spool: SpoolThread) -> Outcome | None:
        parts = self.parts
        if parts.spool_opened is None or parts.spool_opened.done():
            parts.spool_opened = asyncio.wrap_future(spool.open())
            parts.spool_opened.add_done_callback(retrieve)
        if await self._first(parts.spool_opened):
            return ASKED
        error = parts.spool_opened.exception()
        if error is not None:
            return Outcome(error if isinstance(error, Exception) else SpoolError(str(error)))
        return None

    async def _acquire_lease(self) -> Outcome | None:
        """Wait for the lease. Return the outcome if that was interrupted, or ``None``."""
        tenure = self.parts.tenure
        if tenure is None:
            return None
        if not tenure.is_ours:
            stand_by = partial(self.parts.reporter.state, State.STANDBY)
            acquiring = self.loop.create_task(tenure.acquire(stand_by))
            interrupted = await self._first(acquiring)
            acquiring.cancel()
            if interrupted:
                return ASKED
            acquiring.result()  # without the lease there must be no connection
        if self.epoch != tenure.epoch:
            self.epoch = tenure.epoch
            self.parts.reporter.note("lease", f"held, epoch {tenure.epoch}")
            self.dispatcher.wake()  # messages of an earlier tenure may wait in the spool
            if self.parts.spool is not None:
                self.parts.spool.nudge()
        return None

    async def _end_lingering(self) -> None:
        """Abort a connection whose server has sent a close frame but not closed the socket."""
        lingering, self._lingering = self._lingering, None
        if lingering is not None and not lingering.closed.done():
            lingering.fail(
                DataStreamError("the server has sent a close frame but keeps its socket open")
            )
            await asyncio.wait([lingering.closed])

    async def _is_interrupted_before(self, rate_limiter: RateLimiter) -> bool:
        """Wait until the fleet's rate limit allows an attempt. Return whether to give it up."""
        permit = rate_limiter.acquire()
        try:
            return await self._first(permit)
        finally:
            permit.cancel()

    def _make_connection(self) -> Connection:
        return Connection(
            self.parts.make_engine(self.options),
            self.options,
            number=self.traffic.connections + 1,
            pacing=self.parts.pacing,
            gated=self.parts.hooks.has("on_connect"),
            on_messages=self.intake.take,
            on_round_trip=self._note_round_trip,
            on_sent=self.traffic.note_sent,
        )

    def _note_round_trip(self, seconds: float) -> None:
        self.traffic.note_round_trip(seconds)
        for listener in tuple(self.parts.handlers.on_round_trip):
            try:
                listener(seconds)
            except Exception as error:
                self.parts.reporter.report(error)

    async def _dial(self, connection: Connection) -> None:
        limit = self.options.open_timeout
        try:
            async with asyncio.timeout(limit) as opening:
                endpoint = await self.parts.endpoints.make(self.parts.attempts.url_number)
                self.parts.reporter.log("info", "connecting to %s", endpoint.shown)
                await connection.open(endpoint)
        except TimeoutError:
            if not opening.expired():
                raise  # a timeout of the network
            raise TimeoutError(f"no connection within open_timeout ({limit} s)") from None

    # --- serving ---

    async def _serve(self, connection: Connection) -> Outcome:
        """Get ready, and serve until the connection has ended or must be closed."""
        self._opened(connection)
        feed = self._feed(connection)
        beating: asyncio.Task[None] | None = None
        ready_at: float | None = None
        try:
            is_ready, failure = await self._prepare(connection, feed)
            if is_ready:
                ready_at = time.monotonic()
                beating = self._ready(connection)
                await self._first(connection.end)
        finally:
            if beating is not None:
                beating.cancel()
            feed.close()
        ready_for = 0.0 if ready_at is None else time.monotonic() - ready_at
        return await self._leave(connection, failure, ready_for)

    async def _prepare(
        self, connection: Connection, feed: SubscriptionFeed
    ) -> tuple[bool, BaseException | None]:
        """Get ready. Return whether the connection is, and why a hook or a subscription failed."""
        getting_ready = self.loop.create_task(self._get_ready(connection, feed))
        getting_ready.add_done_callback(retrieve)
        try:
            interrupted = await self._first(connection.end, getting_ready)
            if connection.end.done() and not interrupted:
                await asyncio.wait([getting_ready], timeout=HOOK_GRACE)
        finally:
            getting_ready.cancel()  # has no effect if it's done
        if not getting_ready.done():
            return False, None
        failure = _failure_of(getting_ready)
        return failure is None and not connection.end.done(), failure

    def _opened(self, connection: Connection) -> None:
        self.connection = connection
        self.parts.attempts.opened()
        self.traffic.connections += 1
        self.traffic.connected_since = time.time()
        self.parts.reporter.state(State.CONNECTED)
        self.parts.reporter.gap(self.inbox.last_message)
        self.intake.attach(connection, self.parts.opened(connection, self.epoch))
        connection.start_delivery()  # last, because inline handlers run now and may send

    def _feed(self, connection: Connection) -> SubscriptionFeed:
        return SubscriptionFeed(
            self.parts.subscriptions,
            connection,
            frame_of=lambda obj: frame_of(obj, self.options.codec),
            call=self.parts.user_calls.call,
            report=self.parts.reporter.report,
        )

    async def _get_ready(self, connection: Connection, feed: SubscriptionFeed) -> None:
        """
        Run the hooks and send the subscriptions.

        Only the time in the hooks counts for ``ready_timeout``.
        """
        left = await self._call_hooks("on_connect", connection, self.options.ready_timeout)
        connection.open_gate()
        await feed.begin()
        if connection.has_unsent and (written := connection.flushed()) is not None:
            await asyncio.wrap_future(written)  # send_rate may delay the subscriptions
        await self._call_hooks("on_ready", connection, left)

    async def _call_hooks(
        self, kind: str, connection: Connection, left: float | None
    ) -> float | None:
        """
        Call hooks within *left* seconds. ``None`` means no limit.

        Returns:
            The seconds that are left, or ``None``.

        Raises:
            TimeoutError: If the hooks took longer.
            HookFailure: If a hook raised.

        """
        began = self.loop.time()
        try:
            async with asyncio.timeout(left):
                await self.parts.hooks.call(kind, connection)
        except TimeoutError:
            limit = self.options.ready_timeout
            raise TimeoutError(f"{kind} took longer than ready_timeout ({limit} s)") from None
        return None if left is None else max(0.001, left - (self.loop.time() - began))

    def _ready(self, connection: Connection) -> asyncio.Task[None] | None:
        """Enter READY, and return the task of the option ``heartbeat``, if it is set."""
        self.error = None
        self.parts.attempts.ready()
        self.intake.requests.ready()
        connection.ready()
        self.parts.reporter.state(State.READY)
        self._warn_without_handlers()
        if self.options.heartbeat is None:
            return None
        return self.loop.create_task(self._beat(connection, self.options.heartbeat))

    def _warn_without_handlers(self) -> None:
        """Schedule one warning if there is no handler, as with a misspelled handler module."""
        if self._is_iterable or self._has_warned or self.parts.handlers.has_message_handlers:
            return
        self._has_warned = True
        self.loop.call_later(WITHOUT_HANDLERS_SECONDS, self._warn_if_nothing_takes_messages)

    def _warn_if_nothing_takes_messages(self) -> None:
        """Warn, unless the program has made requests, which need no handler, or is closing."""
        handles = self.parts.handlers.has_message_handlers or self.intake.requests.were_made
        if handles or self.commands.is_closing or self.parts.state.value.is_final:
            return
        self.parts.reporter.warn(
            "no handler is registered for its messages, so they are only counted. Register one "
            "with @client.on_message (Django: in the module datastreams of an installed app)"
        )

    async def _beat(self, connection: Connection, heartbeat: Any) -> None:
        while True:
            await asyncio.sleep(self.options.heartbeat_interval)
            try:
                obj = heartbeat
                if callable(heartbeat):
                    obj = await self.parts.user_calls.call(heartbeat)
                if (room := connection.room()) is not None:  # send_rate may be slower
                    await asyncio.wrap_future(room)
                connection.send(frame_of(obj, self.options.codec))
            except Exception as error:  # the callable may raise NotConnectedError of another client
                if not connection.is_open:
                    return
                self.parts.reporter.report(error)

    # --- leaving ---

    async def _leave(
        self, connection: Connection, failure: BaseException | None, ready_for: float
    ) -> Outcome:
        """Close a connection that has not ended, except during shutdown. Return the outcome."""
        if connection.end.done():
            ended = self._note_end(connection)
            error, reported = _because(ended, failure)
            return Outcome(error, ended, connection.number, ready_for, reported)
        if self.commands.is_closing:
            return ASKED
        if self.parts.has_lost_lease:
            return await self._leave_lease(connection)
        close_timeout = self.options.close_timeout
        if failure is not None:
            error, reported = _explained(failure)
            ended = await self._close(connection, _close_frame_for(error), close_timeout)
            return Outcome(error, ended, connection.number, reported=reported)
        frame = self.commands.close_frame
        assert frame is not None
        ended = await self._close(connection, frame, close_timeout)
        return Outcome(None, ended, connection.number)

    async def _leave_lease(self, connection: Connection) -> Outcome:
        """End the connection before the lease expires and another process may connect."""
        assert self.parts.tenure is not None
        left = max(0.0, self.parts.tenure.left)
        ended = await self._close(connection, CloseFrame(), left / 2)
        return Outcome(None, ended, connection.number)

    async def _close(self, connection: Connection, frame: CloseFrame, timeout: float) -> Ended:
        """Close a connection, and abort it once the client is to close or has lost the lease."""
        has_lost_lease = self.parts.has_lost_lease
        closing = self.loop.create_task(connection.close(timeout, *frame))
        while not closing.done():
            if self.commands.is_closing or self.parts.has_lost_lease is not has_lost_lease:
                connection.fail(DataStreamError("closed while hanging up"))
                await closing
            else:
                await self.commands.changed.wait(closing)
        return self._note_end(connection)

    def _note_end(self, connection: Connection) -> Ended:
        ended: Ended = connection.end.result()
        self.connection = None
        if not connection.closed.done():
            self._lingering = connection
        self.traffic.connected_since = None
        self.parts.reporter.lost()
        self.intake.detach()
        return ended

    # --- what follows ---

    async def _plan(self, outcome: Outcome) -> Plan | None:
        """Return the plan after a failure, or ``None`` after an end that was asked for."""
        if outcome.error is None:
            return None
        return self.parts.attempts.plan(outcome, await self._decision(outcome.error))

    async def _decision(self, error: Exception) -> bool | None:
        """Return the decision of the user's ``retry``, or ``None`` if it made none."""
        if self.options.retry is None:
            return None
        deciding = self.loop.create_task(self._ask_retry(self.options.retry, error))
        try:
            while not deciding.done():
                if self.commands.is_closing:
                    return True  # the user closes the client, so it does not fail
                await self.commands.changed.wait(deciding)
            return deciding.result()
        finally:
            deciding.cancel()

    async def _ask_retry(self, retry: Any, error: Exception) -> bool | None:
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                decided = await self.parts.user_calls.call(retry, error)
            return None if decided is None else bool(decided)
        except Exception as failure:
            self.parts.reporter.report(failure)
            return None

    def _report_end(self, outcome: Outcome, plan: Plan | None) -> None:
        """Report the end of an attempt. It is the only method that does."""
        reporter = self.parts.reporter
        if outcome.error is not None:
            reporter.report(outcome.reported or outcome.error)
        if outcome.ended is not None:
            error = outcome.error
            if error is None and self.parts.has_lost_lease:
                error = LeaseError("the lease is lost")
            reporter.disconnect(outcome.connection, outcome.ended, error, plan)

    # --- facts ---

    def stats(self) -> Stats:
        """Return a snapshot of the metrics, from any thread."""
        reporter = self.parts.reporter
        return self.traffic.snapshot(
            self.inbox.counts(),
            blocked_seconds=self.intake.blocked_seconds,
            errors_dropped=reporter.errors_dropped,
            reports_dropped=reporter.reports_dropped,
            oldest_waiting=self.inbox.oldest_waiting(),
            handlers=self.parts.timings.stats(),
            recent_events=reporter.recent_events,
            inbox_share=self.inbox.share(),
            spool_share=self.inbox.spool_share(),
        )

    def end_without_loop(self) -> None:
        """
        End what outlives a loop that was closed before the client. It's thread-safe.

        These are the handler threads, the spool and the lease. Nothing waits for them.
        """
        if self.finished.done():
            return
        parts = self.parts
        parts.dispatcher.end_without_loop()
        dropped = parts.inbox.close()
        if parts.spool is not None:
            parts.spool.close()
        if parts.tenure is not None:
            parts.tenure.end_without_loop()
        parts.reporter.end_without_loop(dropped)
        self.finished.set_result(None)

    def abandon(self) -> list[int]:
        """Stop all work in a forked child, and return the descriptors of the parent's sockets."""
        self.inbox.abandon()
        self.dispatcher.abandon()
        connections = filter(None, (self.connection, self._lingering))
        return [connection.abandon() for connection in connections]


def _failure_of(task: asyncio.Task[None]) -> BaseException | None:
    """Return why a part of the attempt failed. It also fails if user code cancels the task."""
    if task.cancelled():
        return DataStreamError("a task of the attempt was canceled")
    return task.exception()


def _explained(failure: BaseException) -> tuple[Exception, Any]:
    """Return the exception that a hook raised, and the error to report instead of it."""
    if isinstance(failure, HookFailure):
        cause = failure.__cause__
        error = cause if isinstance(cause, Exception) else failure.report
        return error, failure.report
    return failure if isinstance(failure, Exception) else DataStreamError(repr(failure)), None


def _because(ended: Ended, failure: BaseException | None) -> tuple[Exception, Any]:
    """
    Return the error that explains a connection's end, and the error to report instead of it.

    A close code is a better explanation than the hook that failed because of it. Without a close
    code the hook's error is better, because it may hold the server's refusal of a login.
    """
    error = ended.error or DataStreamError(f"the connection ended with code {ended.code}")
    if failure is None:
        return error, None
    cause, reported = _explained(failure)
    if is_effect(cause):
        return error, None
    if isinstance(error, StreamClosedError) and error.code == NO_CLOSE_FRAME:
        return cause, reported
    error.__cause__ = error.__cause__ or cause
    return error, None


def _close_frame_for(error: Exception) -> CloseFrame:
    """Return the close code and reason for a failed attempt, which a hook's error may set."""
    if isinstance(error, StreamClosedError):
        with suppress(ConfigurationError):
            return close_frame(error.code, error.reason)
    return CloseFrame()
