"""
The one state machine: attempt, serve, plan, wait, again.

One object per ``start()``, alive until CLOSED or FAILED. One task does it all, on the loop's
thread. Verbs only leave their wishes, and the task reads them where it holds the connection: what
is asked for ends in one of two things, to serve on or to hang up.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
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
    NotConnectedError,
    SpoolError,
    StreamClosedError,
)
from ..handling.hooks import HookFailure
from ..stats import Stats, Traffic
from .assembly import Parts, Start
from .closing import Closing
from .plan import ASKED, Outcome, Plan
from .turns import Turns
from .wishes import hang_up

__all__ = ["Lifecycle"]

NO_CLOSE_FRAME = 1006  # RFC 6455 section 7.4.1
HOOK_GRACE = 0.1  # seconds in which a hook may say why, once the connection is over
RETRY_SECONDS = 10.0  # how long the user's retry may take to decide
WITHOUT_HANDLERS_SECONDS = 1.0  # in which a program may make its first request


class Lifecycle:
    """
    The life of a client from ``start()`` on; on the loop's thread.

    Attributes:
        error: Why it failed, or with ``fatal_delay`` cannot connect now.
        connection: The one there is; it may have ended a moment ago.
        finished: Done at the very end.

    """

    def __init__(self, start: Start) -> None:
        parts = self.parts = Parts(start)
        self.options = start.options
        self.loop = parts.loop
        self.wishes = parts.wishes
        self.inbox = parts.inbox
        self.dispatcher = parts.dispatcher
        self.intake = parts.intake
        self.epoch = start.epoch
        self.error: BaseException | None = None
        self.finished: Future[None] = Future()
        self.connection: Connection | None = None
        self._lingering: Connection | None = None  # over, but its socket is not gone yet
        self._spool_opened: asyncio.Future[None] | None = None
        self._is_iterable = start.is_iterable
        self._has_warned = False  # that nobody takes the messages
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the task."""
        self.parts.reporter.state(State.CONNECTING)
        self._task = self.loop.create_task(self._live(), name=f"datastream {self.options.name}")

    # --- the task ---

    async def _live(self) -> None:
        error: BaseException | None = None
        try:
            error = await self._stay_connected() or self.parts.death
        except asyncio.CancelledError:
            self.wishes.close(0.0)
        except GeneratorExit:
            raise  # the loop was closed amid it all: nothing can be done there any more
        except BaseException as death:
            self.parts.die(death)
            error = death
        try:
            await self._finish(error)
        finally:
            if not self.parts.state.value.is_final:
                self.parts.reporter.state(State.FAILED if error else State.CLOSED, error)
            if not self.finished.done():
                self.finished.set_result(None)

    async def _stay_connected(self) -> Exception | None:
        """Make attempts until told to close (``None``), or until it makes no sense any more."""
        while not self.wishes.is_closing:
            if self.parts.has_lost_lease:
                self._stand_by()
            if self.wishes.is_paused:
                await self._stay_paused()
                continue
            outcome = await self._attempt()
            if self.connection is not None:  # it is served to the end while closing
                return None
            plan = await self._plan(outcome)
            self._tell_end(outcome, plan)
            if plan is None:
                continue
            if plan.is_last:
                return plan.fatal
            self.error = plan.fatal or self.error
            self.parts.reporter.state(State.WAITING, outcome.error, plan.delay)
            await self._first(timeout=plan.delay)
        return None

    async def _stay_paused(self) -> None:
        self.parts.reporter.state(State.PAUSED)
        while self.wishes.is_paused and not self.wishes.is_closing:
            if self.parts.has_lost_lease:
                return
            self.wishes.changed.clear()
            await self.wishes.change()

    def _stand_by(self) -> None:
        """A tenure is over, and so is everything that belonged to it."""
        assert self.parts.tenure is not None
        self._drop_lost()
        self.parts.tenure.give_up()
        self.parts.reporter.note("lease", "lost")
        self.parts.reporter.state(State.STANDBY)

    def _drop_lost(self) -> None:
        if dropped := self.inbox.drop("lease_lost"):
            self.parts.reporter.log(
                "warning", "the lease is lost; %d unhandled messages dropped", dropped
            )
        self.dispatcher.shed()

    async def _finish(self, error: BaseException | None) -> None:
        self.error = error
        closing = Closing(self.parts, self.connection, self._spool_opened, self._drop_lost)
        if self._lingering is not None:
            self._lingering.fail(DataStreamError("closed"))
        await closing.run(error)
        if (connection := self.connection) is not None:
            self._tell_end(Outcome(None, self._note_end(connection), connection.number), None)
        await closing.finish(error)

    # --- waiting ---

    @property
    def _is_interrupted(self) -> bool:
        """Whether what goes on now is not wanted any more."""
        wishes = self.wishes
        return wishes.is_closing or wishes.hang_up is not None or self.parts.has_lost_lease

    async def _first(self, *things: asyncio.Future[Any], timeout: float | None = None) -> bool:
        """Wait for one of *things*, or *timeout* seconds; True: a wish came in between."""
        until = None if timeout is None else self.loop.time() + timeout
        while not self._is_interrupted:
            if any(thing.done() for thing in things):
                return False
            left = None if until is None else until - self.loop.time()
            if left is not None and left <= 0:
                return False
            self.wishes.changed.clear()
            await self.wishes.change(*things, timeout=left)
        return True

    # --- one attempt ---

    async def _attempt(self) -> Outcome:
        """Connect, get ready, serve; return how it ended."""
        self.wishes.begin_attempt()
        outcome = await self._open_spool() or await self._acquire_lease()
        if outcome is not None:
            return outcome
        await self._end_lingering()
        assert self.connection is None, "two connections"
        self.parts.reporter.state(State.CONNECTING)
        if self.parts.turns is not None and await self._is_interrupted_before(self.parts.turns):
            return ASKED
        self.traffic.attempts += 1
        connection = self._make_connection()
        dialling = self.loop.create_task(self._dial(connection))
        dialling.add_done_callback(_error_of)  # retrieved, whoever is there to look
        try:
            interrupted = await self._first(dialling)
        except asyncio.CancelledError:  # the loop ends, and this task with it
            # It may have been cancelled before this task was, and then it has opened nothing.
            if not (dialling.cancel() or dialling.cancelled() or dialling.exception()):
                connection.fail(DataStreamError("no longer wanted"))
            raise
        if not dialling.done():
            dialling.cancel()
            await asyncio.wait([dialling])
        if dialling.cancelled() or (error := dialling.exception()) is not None:
            return self._not_opened(None if dialling.cancelled() else error)
        if interrupted:
            connection.fail(DataStreamError("no longer wanted"))
            await asyncio.wait([connection.gone])
            return ASKED
        return await self._serve(connection)

    def _not_opened(self, error: BaseException | None) -> Outcome:
        if self._is_interrupted:
            return ASKED
        if not isinstance(error, Exception):
            error = DataStreamError("the attempt was canceled")
        return Outcome(error)

    async def _open_spool(self) -> Outcome | None:
        """Open the spool if there is one and it is not; return what is in the way."""
        spool = self.parts.spool
        if spool is None or spool.is_open:
            return None
        if self._spool_opened is None or self._spool_opened.done():
            self._spool_opened = asyncio.wrap_future(spool.open())
        if await self._first(self._spool_opened):
            return ASKED
        error = self._spool_opened.exception()
        if error is not None:
            return Outcome(error if isinstance(error, Exception) else SpoolError(str(error)))
        self.epoch = max(self.epoch, spool.epoch + 1)
        return None

    async def _acquire_lease(self) -> Outcome | None:
        """Stand by until the stream is ours; return what is in the way."""
        tenure = self.parts.tenure
        if tenure is None:
            return None
        if not tenure.is_ours:
            stand_by = lambda: self.parts.reporter.state(State.STANDBY)  # noqa: E731
            acquiring = self.loop.create_task(tenure.acquire(stand_by))
            interrupted = await self._first(acquiring)
            acquiring.cancel()
            if interrupted:
                return ASKED
        if self.epoch != tenure.epoch:
            self.epoch = tenure.epoch
            self.parts.reporter.note("lease", f"held, epoch {tenure.epoch}")
            self.dispatcher.wake()  # what an earlier tenure has left in the spool
            if self.parts.spool is not None:
                self.parts.spool.nudge()
        return None

    async def _end_lingering(self) -> None:
        """A peer that has said goodbye has had its time to end the socket."""
        lingering, self._lingering = self._lingering, None
        if lingering is not None and not lingering.gone.done():
            lingering.fail(
                DataStreamError("the server has sent a close frame but keeps its socket open")
            )
            await asyncio.wait([lingering.gone])

    async def _is_interrupted_before(self, turns: Turns) -> bool:
        """Wait until a fleet lets this stream dial; return whether that is not wanted any more."""
        turn = turns.next()
        try:
            return await self._first(turn)
        finally:
            turn.cancel()

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
                raise  # the network's own
            raise TimeoutError(f"no connection within open_timeout ({limit} s)") from None

    # --- serving ---

    async def _serve(self, connection: Connection) -> Outcome:
        """Get ready, and stay until the connection is over or not wanted any more."""
        self._opened(connection)
        feed = self._feed(connection)
        getting_ready = self.loop.create_task(self._get_ready(connection, feed))
        getting_ready.add_done_callback(_error_of)  # retrieved, whoever is there to look
        beating: asyncio.Task[None] | None = None
        ready_at: float | None = None
        try:
            interrupted = await self._first(connection.over, getting_ready)
            if connection.over.done() and not interrupted:
                await asyncio.wait([getting_ready], timeout=HOOK_GRACE)
            if getting_ready.done() and not connection.over.done() and not _error_of(getting_ready):
                ready_at = time.monotonic()
                beating = self._ready(connection)
                await self._first(connection.over)
        finally:
            for task in filter(None, (getting_ready, beating)):
                task.cancel()
            feed.close()
        failure = _error_of(getting_ready) if getting_ready.done() else None
        ready_for = 0.0 if ready_at is None else time.monotonic() - ready_at
        return await self._leave(connection, failure, ready_for)

    def _opened(self, connection: Connection) -> None:
        self.connection = connection
        self.parts.attempts.opened()
        traffic = self.traffic
        traffic.connections += 1
        traffic.reconnects = traffic.connections - 1
        traffic.connected_since = time.time()
        self.parts.reporter.state(State.CONNECTED)
        self.parts.reporter.gap(self.inbox.last_message)
        self.intake.attach(connection, self.parts.opened(connection, self.epoch))
        connection.hand_over()  # from here on: a handler may send what it likes

    def _feed(self, connection: Connection) -> SubscriptionFeed:
        return SubscriptionFeed(
            self.parts.subscriptions,
            connection,
            frame_of=lambda obj: frame_of(obj, self.options.codec),
            call=self.parts.user_calls.call,
            report=self.parts.reporter.report,
        )

    async def _get_ready(self, connection: Connection, feed: SubscriptionFeed) -> None:
        """Log in, subscribe, resume; only the time in the hooks counts for ``ready_timeout``."""
        left = await self._call_hooks("on_connect", connection, self.options.ready_timeout)
        connection.open_gate()
        await feed.begin()
        if connection.has_unsent and (written := connection.flushed()) is not None:
            await asyncio.wrap_future(written)  # what is queued may have to wait for send_rate
        await self._call_hooks("on_ready", connection, left)

    async def _call_hooks(
        self, kind: str, connection: Connection, left: float | None
    ) -> float | None:
        """Call hooks within *left* seconds; return what is left of them."""
        began = self.loop.time()
        try:
            async with asyncio.timeout(left):
                await self.parts.hooks.call(kind, connection)
        except TimeoutError:
            limit = self.options.ready_timeout
            raise TimeoutError(f"{kind} took longer than ready_timeout ({limit} s)") from None
        return None if left is None else max(0.001, left - (self.loop.time() - began))

    def _ready(self, connection: Connection) -> asyncio.Task[None] | None:
        """The way to READY is over; return the task of the application's heartbeat."""
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
        """Say once what a misspelt module of handlers does not say: nobody takes the messages."""
        if self._is_iterable or self._has_warned or self.parts.handlers.has_message_handlers:
            return
        self._has_warned = True
        self.loop.call_later(WITHOUT_HANDLERS_SECONDS, self._warn_if_nothing_takes_messages)

    def _warn_if_nothing_takes_messages(self) -> None:
        """A program that only makes requests needs no handler, nor one that has ended by now."""
        handles = self.parts.handlers.has_message_handlers or self.intake.requests.were_made
        if handles or self.wishes.is_closing or self.parts.state.value.is_final:
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
                connection.send(frame_of(obj, self.options.codec))
            except NotConnectedError:
                return
            except Exception as error:
                self.parts.reporter.report(error)

    # --- leaving ---

    async def _leave(
        self, connection: Connection, failure: BaseException | None, ready_for: float
    ) -> Outcome:
        """Hang up what is not over yet; return the outcome. While closing it is kept."""
        if connection.over.done():
            ended = self._note_end(connection)
            error, reported = _because(ended, failure)
            return Outcome(error, ended, connection.number, ready_for, reported)
        if self.wishes.is_closing:
            return ASKED
        if self.parts.has_lost_lease:
            return await self._leave_lease(connection)
        if failure is not None:
            error, reported = _explained(failure)
            await self._hang_up(connection, *_farewell(error))
            ended = self._note_end(connection)
            return Outcome(error, ended, connection.number, reported=reported)
        wish = self.wishes.hang_up
        assert wish is not None
        await self._hang_up(connection, wish.code, wish.reason)
        return Outcome(None, self._note_end(connection), connection.number)

    async def _leave_lease(self, connection: Connection) -> Outcome:
        """End the connection before somebody else begins with one."""
        assert self.parts.tenure is not None
        left = self.parts.tenure.left
        if left > 0:
            await connection.close(left / 2)
        else:
            connection.fail(LeaseError("the lease is lost"))
            await asyncio.wait([connection.gone])
        return Outcome(None, self._note_end(connection), connection.number)

    async def _hang_up(self, connection: Connection, code: int, reason: str) -> None:
        """Close a connection; without ceremony once the client is to close."""
        closing = self.loop.create_task(connection.close(self.options.close_timeout, code, reason))
        while not closing.done():
            if self.wishes.is_closing or self.parts.has_lost_lease:
                connection.fail(DataStreamError("closed while hanging up"))
                await closing
            else:
                self.wishes.changed.clear()
                await self.wishes.change(closing)

    def _note_end(self, connection: Connection) -> Ended:
        ended: Ended = connection.over.result()
        self.connection = None
        if not connection.gone.done():
            self._lingering = connection
        self.traffic.connected_since = None
        self.parts.reporter.lost()
        self.intake.detach()
        return ended

    # --- what follows ---

    async def _plan(self, outcome: Outcome) -> Plan | None:
        """Return what follows; ``None``: what was asked for."""
        if outcome.error is None:
            return None
        return self.parts.attempts.plan(outcome, await self._decision(outcome.error))

    async def _decision(self, error: Exception) -> bool | None:
        """Ask the user's ``retry``; ``None``: it has nothing to say."""
        if self.options.retry is None:
            return None
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                decided = await self.parts.user_calls.call(self.options.retry, error)
        except Exception as failure:
            self.parts.reporter.report(failure)
            return None
        return None if decided is None else bool(decided)

    def _tell_end(self, outcome: Outcome, plan: Plan | None) -> None:
        """The one place that tells of an end."""
        reporter = self.parts.reporter
        if outcome.error is not None:
            reporter.report(outcome.reported or outcome.error)
        if outcome.ended is not None:
            error = outcome.error
            if error is None and self.parts.has_lost_lease:
                error = LeaseError("the lease is lost")
            reporter.disconnect(outcome.connection, outcome.ended, error, plan)

    # --- facts ---

    @property
    def traffic(self) -> Traffic:
        return self.parts.traffic

    def stats(self) -> Stats:
        """Return a snapshot; from any thread."""
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

    def abandon(self) -> list[int]:
        """Stop all work in a forked child, and return the parent's descriptors."""
        self.inbox.abandon()
        self.dispatcher.abandon()
        connections = filter(None, (self.connection, self._lingering))
        return [connection.disown() for connection in connections]


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _explained(failure: BaseException) -> tuple[Exception, Any]:
    """Return what a hook raised, as it is, and what is reported in its place."""
    if isinstance(failure, HookFailure):
        cause = failure.__cause__
        error = cause if isinstance(cause, Exception) else failure.report
        return error, failure.report
    return failure if isinstance(failure, Exception) else DataStreamError(repr(failure)), None


def _because(ended: Ended, failure: BaseException | None) -> tuple[Exception, Any]:
    """
    Return what explains a connection's end, and what is reported in its place.

    A close code says more than the hook that fails on it. A peer that refuses a login and hangs up
    without one has told the hook why.
    """
    error = ended.error or _unexplained(ended)
    if failure is None:
        return error, None
    cause, reported = _explained(failure)
    if _is_effect(cause):
        return error, None
    if isinstance(error, StreamClosedError) and error.code == NO_CLOSE_FRAME:
        return cause, reported
    error.__cause__ = error.__cause__ or cause
    return error, None


def _is_effect(cause: BaseException | None) -> bool:
    """Whether a hook raised because the connection was over."""
    while cause is not None and not isinstance(cause, NotConnectedError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _farewell(error: Exception) -> tuple[int, str]:
    """Return close code and reason of a failed attempt: those that the hook raised, if any."""
    if isinstance(error, StreamClosedError):
        with suppress(ConfigurationError):
            chosen = hang_up(error.code, error.reason)
            return chosen.code, chosen.reason
    return 1000, ""


def _unexplained(ended: Ended) -> Exception:
    return DataStreamError(f"the connection ended with code {ended.code}")
