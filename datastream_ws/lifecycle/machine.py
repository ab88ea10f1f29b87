"""
The one state machine: connect, get ready, read, wait, again; joins connection and inbox.

One object per ``start()``, alive until CLOSED or FAILED. Everything here runs on the loop's
thread. One task does it all; the verbs of a client only leave
word for it (:meth:`Lifecycle.ask`), so that no two of them can meet halfway.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from ..codecs import frame_of
from ..connection.connection import Connection
from ..connection.endpoint import Endpoints
from ..connection.engine import Ended, Engine
from ..connection.subscriptions import Subscriptions
from ..events import State
from ..exceptions import DataStreamError, LeaseError, NotConnectedError, SpoolError, said
from ..handlers import Handlers
from ..handling.budget import Budget
from ..handling.dispatcher import Dispatcher
from ..handling.inbox import Inbox
from ..handling.intake import Intake
from ..lease import Lease
from ..messages import Origin
from ..options import ClientOptions
from ..process.futures import ErrorBuffer, LoopEvent, Observable
from ..process.user_calls import call_user
from ..spool import SpooledInbox, SpoolThread
from ..stats import Stats, Traffic
from .plan import Attempts, Outcome, Plan
from .reporter import Reporter
from .tenure import Tenure

__all__ = ["Lifecycle"]


class Asked(Exception):
    """A verb wants the task's attention."""


class Lifecycle:
    """
    The life of a client from ``start()`` on.

    Args:
        owner: The client that users see; a ``close()`` of it inside a handler must not wait.
        state, errors: The owner's, which outlive this object.
        submit: Runs a function on a handler thread, ``spawn`` without a result.
        engine: Makes a new engine for each attempt.
        held: Whether messages wait while there are no handlers (they may be iterated over).
        lease: What says whether the stream is ours; ``None``: it is.
        budget: How many messages may be handled; ``None``: no limit.

    """

    def __init__(
        self,
        *,
        owner: object,
        options: ClientOptions,
        handlers: Handlers,
        state: Observable[State],
        errors: ErrorBuffer,
        subscriptions: Subscriptions,
        epoch: int,
        submit: Callable[[Callable[[], Any]], Future[Any]],
        spawn: Callable[[Callable[[], None]], None],
        engine: Callable[[ClientOptions], Engine],
        held: bool,
        lease: Lease | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.options = options
        self.epoch = epoch
        self.error: BaseException | None = None
        self.finished: Future[None] = Future()
        self.connection: Connection | None = None
        self.traffic = Traffic()
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._errors = errors
        self._subscriptions = subscriptions
        self._submit = submit
        self._make_engine = engine
        self._endpoints = Endpoints(options, lambda function: call_user(function, submit))
        self._attempts = Attempts(options, lambda error: self.reporter.report(error))
        self.reporter = Reporter(
            owner=owner,
            options=options,
            handlers=handlers,
            state=state,
            errors=errors,
            traffic=self.traffic,
            attempt=lambda: self._attempts.number,
            submit=submit,
        )

        self._asked = LoopEvent()
        self._closing = False
        self._paused = False
        self._reconnect = False
        self._deadline: float | None = None

        self._last_ended: Connection | None = None  # whose end has not been told yet
        self._task: asyncio.Task[None] | None = None

        self.lease: Tenure | None = None
        if lease is not None:
            self.lease = Tenure(
                lease, options.lease_ttl, on_lost=self._on_lease_lost, report=self.reporter.report
            )
        self._tenure = self.lease.tenure if self.lease is not None else always_ours
        self.spool: SpoolThread | None = None
        self.inbox = self._make_inbox(options, budget)
        self.dispatcher = Dispatcher(
            owner=owner,
            inbox=self.inbox,
            handlers=handlers,
            options=options,
            loop=self._loop,
            spawn=spawn,
            report=self.reporter.report,
            on_room=lambda: self.reporter.on_loop(self.intake.on_room),
            on_death=lambda death: self.reporter.on_loop(lambda: self._die(death)),
            gate=_gate(budget, None if self.lease is None else self._tenure),
            tenure=self._tenure,
            held=held,
        )
        self.intake = Intake(
            self.inbox,
            self.traffic,
            options,
            handlers,
            wake=self.dispatcher.wake,
            report=self.reporter.report,
            warn=lambda text: self.reporter.log("warning", "%s", text),
            at_work=lambda: self.dispatcher.at_work,
            is_open=_gate(budget, self._tenure) or always_open,
        )

    def _make_inbox(self, options: ClientOptions, budget: Budget | None) -> Inbox:
        limits: dict[str, Any] = {
            "size": options.inbox_size,
            "size_bytes": options.inbox_bytes,
            "overflow": options.overflow,
            "ordering_key": options.ordering_key if options.concurrency > 1 else None,
            "report": self.reporter.report,
            "budget": budget,
        }
        if options.spool is None:
            return Inbox(conflate=options.conflate, **limits)
        inbox = SpooledInbox(
            journal=options.journal,
            spool_bytes=options.spool_bytes,
            gate=lambda: self._tenure() is not None,
            origin=self._origin,
            **limits,
        )
        self.spool = SpoolThread(
            options.spool,
            options.name,
            inbox,
            journal=options.journal,
            wake=lambda: self.dispatcher.wake(),
            on_room=lambda: self.reporter.on_loop(lambda: self.intake.on_room()),
            report=self.reporter.report,
        )
        return inbox

    def _origin(self, epoch: int, connection: int) -> Origin:
        codec: Any = self.options.codec
        return Origin(self.options.name, connection, epoch, codec, self.options.route)

    # --- word from outside ---

    @functools.cached_property
    def _deadline_changed(self) -> asyncio.Event:
        return asyncio.Event()

    def begin(self) -> None:
        """Start the task."""
        self.reporter.state(State.CONNECTING)
        self._task = self._loop.create_task(self._live(), name=f"datastream {self.options.name}")

    def ask(self, *, pause: bool | None = None, reconnect: bool = False) -> None:
        """Leave word: pause, resume, dial anew."""
        if pause is not None and pause is not self._paused:
            self._paused = pause
            self._asked.set()
        if reconnect:
            self._reconnect = True
            self._asked.set()

    def ask_close(self, timeout: float) -> None:
        """Leave word to close within *timeout* seconds; a later call may only shorten it."""
        deadline = self._loop.time() + timeout
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            self._deadline_changed.set()
        self._closing = True
        self._asked.set()

    def _die(self, death: BaseException) -> None:
        """An internal part has ended: so does the client, and it says so."""
        self.reporter.log("error", "internal error, please report it", exc_info=death)
        self._death = death
        self.ask_close(0.0)

    _death: BaseException | None = None

    # --- the task ---

    async def _live(self) -> None:
        error: BaseException | None = None
        try:
            error = await self._stay_connected() or self._death
        except asyncio.CancelledError:
            self._closing = True
            self._deadline = self._loop.time()
            error = None
        except BaseException as death:
            self._die(death)
            error = death
        try:
            await self._finish(error)
        finally:
            if not self._state.value.is_final:
                self.reporter.state(State.FAILED if error else State.CLOSED, error)
            if not self.finished.done():
                self.finished.set_result(None)

    async def _stay_connected(self) -> Exception | None:
        """Make attempts until told to close (``None``), or until it makes no sense any more."""
        while not self._closing:
            await self._settle_lease()
            if self._paused:
                await self._stay_paused()
                continue
            self._asked.clear()
            self._reconnect = False
            try:
                outcome = await self._attempt()
                plan = self._attempts.plan(outcome)
                self._tell_end(outcome, plan)
                if plan.is_last:
                    return plan.fatal
                self.error = plan.fatal or self.error
                await self._wait(plan.delay, outcome.error)
            except Asked:
                await self._obey()
        return None

    async def _obey(self) -> None:
        """End the connection that a pause or reconnect does not want any more."""
        await self._settle_lease()
        connection = self.connection
        if self._closing or connection is None:
            return
        if self._paused or self._reconnect:
            await self._hang_up(connection)
            self._note_end(connection)
            self.reporter.disconnect(connection.closed.result(), None, will_retry=True, delay=None)

    async def _stay_paused(self) -> None:
        self.reporter.state(State.PAUSED)
        while self._paused and not self._closing and not self._has_lost_lease:
            self._asked.clear()
            await self._asked.wait()

    # --- one attempt ---

    async def _attempt(self) -> Outcome:
        """Connect, get ready, stay; return how it ended. Raises Asked."""
        try:
            await self._open_spool()
        except SpoolError as error:
            return Outcome(error)
        await self._acquire_lease()
        self.reporter.state(State.CONNECTING)
        self.traffic.attempts += 1
        try:
            connection = await self._unless_asked(self._dial())
        except Asked:
            raise
        except Exception as error:
            return Outcome(error)
        self._attempts.opened()
        if self._has_lost_lease:  # this process was stopped while it dialled
            connection.fail(LeaseError("the lease is lost"))
            raise Asked
        self._opened(connection)
        return await self._serve(connection)

    async def _open_spool(self) -> None:
        """Open the spool if there is one and it is not. Raises SpoolError, Asked."""
        if self.spool is None or self.spool.is_open:
            return
        if self._spool_opened is None or self._spool_opened.done():
            self._spool_opened = asyncio.wrap_future(self.spool.open())
        await self._first(self._spool_opened)
        self._spool_opened.result()
        self.epoch = max(self.epoch, self.spool.epoch + 1)

    _spool_opened: asyncio.Future[None] | None = None

    # --- the lease ---

    async def _acquire_lease(self) -> None:
        """Stand by until the stream is ours. Raises Asked."""
        lease = self.lease
        if lease is None:
            return
        if not lease.is_ours:
            step = self._loop.create_task(lease.acquire(lambda: self.reporter.state(State.STANDBY)))
            try:
                await self._first(step)
            finally:
                step.cancel()
        if self.epoch != lease.epoch:
            self.epoch = lease.epoch
            self.dispatcher.wake()  # what an earlier tenure has left in the spool
            if self.spool is not None:
                self.spool.nudge()

    @property
    def _has_lost_lease(self) -> bool:
        return self.lease is not None and self.lease.is_lost

    def _on_lease_lost(self) -> None:
        self._asked.set()
        if self._closing:
            if self.connection is not None:
                self.connection.fail(LeaseError("the lease is lost"))
            self._drop_lost()

    async def _settle_lease(self) -> None:
        """End what the end of a tenure forbids, before somebody else begins with it."""
        lease, connection = self.lease, self.connection
        if lease is None or not lease.is_lost or self._closing:
            return
        if connection is not None:
            error = LeaseError("the lease is lost")
            if lease.left > 0:
                await connection.close(lease.left / 2)
            else:
                connection.fail(error)
            await asyncio.wait([connection.closed])
            self._note_end(connection)
            ended = connection.closed.result()
            self.reporter.disconnect(ended, error, will_retry=True, delay=None)
        self._drop_lost()
        lease.give_up()
        self.reporter.state(State.STANDBY)

    def _drop_lost(self) -> None:
        if dropped := self.inbox.drop("lease_lost"):
            self.reporter.log(
                "warning", "the lease is lost: %d unhandled messages dropped", dropped
            )
        self.dispatcher.shed()

    async def _dial(self) -> Connection:
        options = self.options
        connection = Connection(
            self._make_engine(options),
            options,
            on_messages=self.intake.take,
            on_round_trip=self._note_round_trip,
            on_sent=self._note_sent,
        )
        try:
            async with asyncio.timeout(options.open_timeout):
                endpoint = await self._endpoints.current()
                self.reporter.log("info", "connecting to %s", endpoint.shown)
                await connection.open(endpoint)
        except TimeoutError:
            limit = options.open_timeout
            raise TimeoutError(f"not open within open_timeout ({limit} s)") from None
        return connection

    def _opened(self, connection: Connection) -> None:
        self.connection = connection
        traffic = self.traffic
        traffic.connections += 1
        traffic.reconnects = traffic.connections - 1
        traffic.connected_since = time.time()
        with suppress(NotConnectedError):  # lost already: the attempt ends right after
            for frame in self._subscriptions.frames():
                connection.send(frame)
        self.reporter.state(State.CONNECTED)
        self.reporter.hooks.call("on_connect", connection=connection)
        self.reporter.gap(self.inbox.last_message)
        self.intake.attach(connection, self._origin(self.epoch, traffic.connections))
        connection.hand_over()  # from here on: a handler may send what it likes

    async def _serve(self, connection: Connection) -> Outcome:
        """Get ready and stay until the connection ends. Raises Asked."""
        getting_ready = self._loop.create_task(self._get_ready(connection))
        try:
            await self._first(getting_ready, connection.closed)
            if not connection.closed.done() and (failure := getting_ready.exception()):
                await self._hang_up(connection)
                return self._ended(connection, failure)
            if connection.closed.done():
                return self._ended(connection)
            return await self._stay_ready(connection)
        finally:
            getting_ready.cancel()
            if getting_ready.done() and not getting_ready.cancelled():
                getting_ready.exception()  # retrieved, else asyncio complains

    async def _get_ready(self, connection: Connection) -> None:
        limit = self.options.ready_timeout
        try:
            async with asyncio.timeout(limit):
                await self.reporter.hooks.call_and_wait("on_ready", connection)
        except TimeoutError:
            raise TimeoutError(f"on_ready took longer than ready_timeout ({limit} s)") from None

    async def _stay_ready(self, connection: Connection) -> Outcome:
        since = time.monotonic()
        self.error = None
        self.intake.requests.ready()
        self.reporter.state(State.READY)
        heartbeat = self.options.heartbeat
        beating: asyncio.Task[None] | None = None
        if heartbeat is not None:
            beating = self._loop.create_task(self._beat(connection, heartbeat))
        try:
            await self._first(connection.closed)
            return self._ended(connection, ready_for=time.monotonic() - since)
        finally:
            if beating is not None:
                beating.cancel()

    async def _beat(self, connection: Connection, heartbeat: Any) -> None:
        """Send the application's heartbeat."""
        while True:
            await asyncio.sleep(self.options.heartbeat_interval)
            try:
                obj = await call_user(heartbeat, self._submit) if callable(heartbeat) else heartbeat
                connection.send(frame_of(obj, self.options.codec))
            except NotConnectedError:
                return
            except Exception as error:
                self.reporter.report(error)

    def _ended(
        self,
        connection: Connection,
        failure: BaseException | None = None,
        ready_for: float = 0.0,
    ) -> Outcome:
        self._note_end(connection)
        ended = connection.closed.result()
        error = failure if isinstance(failure, Exception) else ended.error
        return Outcome(error or _unexplained(ended), ready_for, ended.peer_fault)

    def _note_end(self, connection: Connection) -> None:
        self.connection = None
        self.traffic.connected_since = None
        self.reporter.lost()
        self.intake.detach()
        self._last_ended = connection

    # --- what follows ---

    def _tell_end(self, outcome: Outcome, plan: Plan) -> None:
        self.reporter.report(outcome.error)
        ended = self._last_ended
        if ended is not None:
            self._last_ended = None
            delay = None if plan.is_last else plan.delay
            self.reporter.disconnect(
                ended.closed.result(), outcome.error, will_retry=not plan.is_last, delay=delay
            )

    async def _wait(self, delay: float, error: Exception) -> None:
        self.reporter.state(State.WAITING, error, delay)
        await self._first(timeout=delay)

    # --- waiting for several things ---

    async def _first(self, *things: asyncio.Future[Any], timeout: float | None = None) -> None:
        """Wait for one of *things*, or *timeout* seconds. Raises Asked as soon as word is left."""
        await asyncio.wait(
            [self._asked.wait(), *things], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if self._asked.is_set():
            raise Asked

    async def _unless_asked(self, step: Coroutine[Any, Any, Connection]) -> Connection:
        """Take a step that is cancelled, and its connection closed, when word is left."""
        task = self._loop.create_task(step)
        try:
            await self._first(task)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if self._asked.is_set() and not task.cancelled() and task.exception() is None:
                task.result().fail(DataStreamError("no longer wanted"))

    async def _hang_up(self, connection: Connection) -> None:
        """Close a connection; without ceremony once the client is to close."""
        closing = self._loop.create_task(connection.close(self.options.close_timeout))
        while not closing.done():
            self._asked.clear()
            with suppress(Asked):
                await self._first(closing)
            if self._closing:
                connection.fail(DataStreamError("closed while hanging up"))
                await closing

    # --- the end ---

    async def _finish(self, error: BaseException | None) -> None:
        """Handle what was received, flush, close, then be CLOSED or FAILED."""
        self.error = error
        if self._deadline is None:
            self.ask_close(self.options.close_timeout)
        self.intake.stop()
        if self.inbox.waiting or self.connection is not None:
            self.reporter.state(State.CLOSING, error)
            await self._until_deadline(self.dispatcher.drain(), "messages are still unhandled")
            await self._close_connection()
        dropped = self.inbox.close()
        await self.dispatcher.stop()
        dropped += await self._close_spool()
        if self.lease is not None:
            await self.lease.release(max(1.0, self._left()))
        if dropped:
            self.reporter.log("error", "closed with %d messages unhandled: dropped", dropped)
        if error is not None:
            self.reporter.log("error", "gave up: %s", said(error))
        self.reporter.state(State.FAILED if error else State.CLOSED, error)
        await self.reporter.hooks.finish(max(0.5, self._left()))
        self._errors.end()

    async def _close_connection(self) -> None:
        connection = self.connection
        if connection is None:
            return
        if connection.is_open:
            await self._until_deadline(connection.flush(), "messages are still unsent")
        # However late it is, the peer is sent a close frame.
        await connection.close(max(0.0, self._left()))
        self._note_end(connection)
        self.reporter.disconnect(connection.closed.result(), None, will_retry=False, delay=None)

    async def _close_spool(self) -> int:
        """Have what is unhandled written; return how many messages could not be."""
        if self.spool is None or self._spool_opened is None:
            return 0
        limit = max(1.0, self._left())
        await asyncio.wait([self._spool_opened], timeout=limit)
        if not self.spool.is_open:
            return 0
        closed = asyncio.wrap_future(self.spool.close())
        if not (await asyncio.wait([closed], timeout=limit))[0]:
            self.reporter.report(SpoolError("spool: the file could not be closed in time"))
            return 0
        if kept := self.spool.unfinished:
            self.reporter.log(
                "warning", "%d messages in handlers: they come again from the spool", kept
            )
        return closed.result()

    def _left(self) -> float:
        """Seconds until the close deadline."""
        return (self._deadline or 0.0) - self._loop.time()

    async def _until_deadline(self, step: Coroutine[Any, Any, None], else_: str) -> None:
        """Take a step, until a tenth of the time (at most 1 s) is left for what follows."""
        reserve = min(1.0, 0.1 * max(0.0, self._left()))
        task = self._loop.create_task(step)
        while not task.done() and (left := self._left() - reserve) > 0:
            self._deadline_changed.clear()
            changed = self._loop.create_task(self._deadline_changed.wait())
            await asyncio.wait([task, changed], timeout=left, return_when="FIRST_COMPLETED")
            changed.cancel()
        if not task.done():
            task.cancel()
            self.reporter.log("warning", "close_timeout is over: %s", else_)
        elif (error := task.exception()) is not None and not isinstance(error, DataStreamError):
            raise error

    # --- facts ---

    def _note_round_trip(self, seconds: float) -> None:
        self.traffic.round_trip_time = seconds

    def _note_sent(self, messages: int, size: int) -> None:
        self.traffic.messages_sent += messages
        self.traffic.bytes_sent += size

    def stats(self) -> Stats:
        """Return a snapshot; from any thread."""
        blocked, lost = self.intake.blocked_seconds, self._errors.lost
        return self.traffic.snapshot(self.inbox.counts(), blocked, lost)

    def abandon(self) -> list[int]:
        """In a forked child: stop whatever goes on here; return the parent's descriptors."""
        self.inbox.abandon()
        self.dispatcher.abandon()
        connection = self.connection
        return [] if connection is None else [connection.disown()]


def always_ours() -> int:
    """The tenure of a stream without a lease."""
    return 0


def always_open() -> bool:
    """Nothing holds messages back."""
    return True


def _gate(
    budget: Budget | None, tenure: Callable[[], int | None] | None
) -> Callable[[], bool] | None:
    """Return what the dispatcher looks at before each message; ``None``: nothing."""
    if tenure is None:
        return None if budget is None else lambda: not budget.is_spent
    return lambda: tenure() is not None and (budget is None or not budget.is_spent)


def _unexplained(ended: Ended) -> Exception:
    return DataStreamError(f"the connection ended with code {ended.code}")
