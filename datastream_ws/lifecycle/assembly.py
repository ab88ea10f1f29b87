"""Makes and connects the objects of one ``start()``."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from ..codecs import frame_of
from ..connection.connection import Connection
from ..connection.endpoint import Endpoints
from ..connection.engine import Engine
from ..connection.pacing import Pacing
from ..connection.subscriptions import Subscriptions
from ..events import State
from ..exceptions import NotConnectedError
from ..forks import notice_fork
from ..handlers import Handlers
from ..handling.budget import Budget
from ..handling.dispatcher import Dispatcher
from ..handling.hooks import ConnectionHooks
from ..handling.inbox import Inbox
from ..handling.intake import Intake
from ..handling.timing import Timings
from ..lease import Lease, LeaseRenewal
from ..messages import Origin
from ..options import ClientOptions
from ..process.futures import ErrorBuffer, Observable
from ..process.user_calls import UserCalls
from ..redaction import peer_text
from ..spool import SpooledInbox, SpoolThread
from ..stats import Traffic
from .commands import Commands
from .plan import Attempts
from .rate_limiter import RateLimiter
from .reporter import Reporter
from .tenure import MakeRenewal, Tenure

__all__ = ["Parts", "Place", "Start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    A client's place in a fleet.

    Attributes:
        key: The stream's key in the fleet's source.
        rate_limiter: The rate limit for the connection attempts of the fleet's streams.
        make_renewal: Makes the renewal of the stream's lease, instead of the option ``lease``.
            ``None`` means that the stream needs no lease.

    """

    key: Any
    rate_limiter: RateLimiter
    make_renewal: MakeRenewal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """
    The arguments of one ``start()``.

    Attributes:
        owner: The public client. Its ``close()`` inside a handler must not wait.
        options: The client's options.
        handlers: The client's handlers.
        state: The client's state, which outlives this start.
        errors: The client's errors, which outlive this start.
        subscriptions: The client's subscriptions, which outlive this start.
        epoch: The lowest epoch to use, unless a lease sets another.
        submit: Runs a function on a handler thread and returns a future of its result.
        spawn: Runs a function on a handler thread without a result.
        wait: Blocks a handler thread for a moment until it acquires a lock. Returns whether it did.
        engine: Makes a new engine for each attempt.
        is_iterable: Whether messages wait for an iterator while there are no handlers.
        lease: Decides which process owns the stream. ``None`` means that this process does.
        budget: Limits how many messages are handled. ``None`` means no limit.
        place: The client's place in a fleet. ``None`` means that it belongs to none.

    """

    owner: object
    options: ClientOptions
    handlers: Handlers
    state: Observable[State]
    errors: ErrorBuffer
    subscriptions: Subscriptions
    epoch: int
    submit: Callable[[Callable[[], Any]], Future[Any]]
    spawn: Callable[[Callable[[], None]], None]
    wait: Callable[[Lock], bool]
    engine: Callable[[ClientOptions], Engine]
    is_iterable: bool
    lease: Lease | None = None
    budget: Budget | None = None
    place: Place | None = None

    @property
    def make_renewal(self) -> MakeRenewal | None:
        """Makes the renewal of the lease. ``None`` means that there is no lease."""
        if self.place is not None:
            return self.place.make_renewal
        if self.lease is None:
            return None
        return partial(LeaseRenewal, self.lease, self.options.lease_ttl)


class Parts:
    """
    The objects of one ``start()``, made on the loop's thread.

    Attributes:
        death: The exception that ended an internal task. ``None`` means that all are running.
        spool_opened: Resolved once the spool is open. ``None`` means that it was never opened.

    """

    def __init__(self, start: Start) -> None:
        options = self.options = start.options
        self.loop = asyncio.get_running_loop()
        self.state = start.state
        self.handlers = start.handlers
        self.subscriptions = start.subscriptions
        self.make_engine = start.engine
        self.traffic = Traffic()
        self.commands = Commands(self.loop.time)
        self.death: BaseException | None = None
        self.attempts = Attempts(options)
        self.reporter = Reporter(
            owner=start.owner,
            options=options,
            handlers=start.handlers,
            state=start.state,
            errors=start.errors,
            traffic=self.traffic,
            attempts=self.attempts,
            commands=self.commands,
            submit=start.submit,
        )
        self.commands.note = self.reporter.note
        self.user_calls = UserCalls(start.submit, self._on_slow)
        self.endpoints = Endpoints(options, self.user_calls.call)
        self.pacing = Pacing(*options.send_rate) if options.send_rate is not None else None
        self.hooks = ConnectionHooks(
            owner=start.owner,
            handlers=start.handlers,
            submit=start.submit,
            report=self.reporter.report,
            warn=self.reporter.warn,
        )
        self.tenure: Tenure | None = None
        if start.make_renewal is not None:
            self.tenure = Tenure(
                start.make_renewal,
                on_lost=self.commands.changed.set,
                report=self.reporter.report,
            )
        place = start.place
        self.rate_limiter = None if place is None else place.rate_limiter
        self._key = None if place is None else place.key
        self._origin: Origin | None = None  # of the latest connection
        self.spool: SpoolThread | None = None
        self.spool_opened: asyncio.Future[None] | None = None
        self.timings = Timings()
        self.inbox = self._inbox(start)
        self.dispatcher = self._dispatcher(start)
        self.intake = self._intake(start)

    def fail(self, death: BaseException) -> None:
        """Log the exception that ended an internal task, and close the client."""
        self.reporter.log("error", "internal error, please report it", exc_info=death)
        self.death = death
        self.commands.close(0.0)

    def _on_slow(self, function: Callable[..., Any]) -> None:
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        text = "%s has not returned from its latest call; it is not called again until it does"
        self.reporter.log("warning", text, peer_text(name))

    def current_tenure(self) -> int | None:
        """
        Return the number of the current tenure, from any thread.

        A tenure is a period in which this process holds the lease. ``None`` means that it does not.
        """
        return 0 if self.tenure is None else self.tenure.tenure()

    @property
    def has_lost_lease(self) -> bool:
        return self.tenure is not None and self.tenure.is_lost

    def drop_lost(self) -> None:
        """Drop the messages that must not be handled after the lease is lost."""
        if dropped := self.inbox.drop("lease_lost"):
            text = "the lease is lost; unhandled messages dropped: %d"
            self.reporter.log("warning", text, dropped)
        self.dispatcher.shed()

    def opened(self, connection: Connection, epoch: int) -> Origin:
        """Return the origin of the messages of *connection*, which has just been opened."""
        reply = reply_over(connection, self.options)
        self._origin = self._make_origin(epoch, connection.number, reply)
        return self._origin

    def origin(self, epoch: int, number: int) -> Origin:
        """
        Return the origin of messages that come from the spool.

        It may be called from any thread. Messages of an earlier connection get no ``reply``.
        """
        latest = self._origin
        if latest is not None and (latest.epoch, latest.connection) == (epoch, number):
            return latest
        return self._make_origin(epoch, number, None)

    def _make_origin(self, epoch: int, number: int, reply: Callable[[Any], None] | None) -> Origin:
        codec: Any = self.options.codec
        options = self.options
        return Origin(options.name, number, epoch, codec, options.route, reply, self._key)

    def _inbox(self, start: Start) -> Inbox:
        options = self.options
        limits: dict[str, Any] = {
            "size": options.inbox_size,
            "size_bytes": options.inbox_bytes,
            "overflow": options.overflow,
            "ordering_key": options.ordering_key if options.concurrency > 1 else None,
            "report": self.reporter.report,
            "budget": start.budget,
        }
        if options.spool is None:
            return Inbox(conflate=options.conflate, **limits)
        inbox = SpooledInbox(
            journal=options.journal,
            spool_bytes=options.spool_bytes,
            gate=lambda: self.current_tenure() is not None,
            origin=self.origin,
            **limits,
        )
        self.spool = SpoolThread(
            options.spool,
            options.name,
            inbox,
            journal=options.journal,
            wake=lambda: self.dispatcher.wake(),
            on_room=self._on_room,
            report=self.reporter.report,
        )
        return inbox

    def _dispatcher(self, start: Start) -> Dispatcher:
        return Dispatcher(
            owner=start.owner,
            inbox=self.inbox,
            handlers=start.handlers,
            options=self.options,
            loop=self.loop,
            spawn=start.spawn,
            wait=start.wait,
            report=self.reporter.report,
            on_room=self._on_room,
            on_death=self._on_death,
            gate=self._gate(start.budget),
            tenure=self.current_tenure,
            is_iterable=start.is_iterable,
            timings=self.timings,
        )

    def _intake(self, start: Start) -> Intake:
        return Intake(
            self.inbox,
            self.traffic,
            self.options,
            start.handlers,
            wake=self.dispatcher.wake,
            report=self.reporter.report,
            warn=self.reporter.warn,
            running_handlers=lambda: self.dispatcher.running_handlers,
            is_open=self._gate(start.budget),
            timings=self.timings,
        )

    def _on_death(self, death: BaseException) -> None:
        self.reporter.on_loop(lambda: self.fail(death))

    def _on_room(self) -> None:
        self.reporter.on_loop(self.intake.on_room)

    def _gate(self, budget: Budget | None) -> Callable[[], bool] | None:
        """
        Return a function that tells whether the next message may be handled.

        ``None`` means that every message may be. Then no call is spent on it for each message.
        """
        if self.tenure is None:
            return None if budget is None else lambda: not budget.is_spent
        return lambda: self.current_tenure() is not None and (budget is None or not budget.is_spent)


def reply_over(connection: Connection, options: ClientOptions) -> Callable[[Any], None]:
    """
    Return the function behind ``message.reply()``, which sends over *connection* only.

    It refers to the connection weakly, because users may keep messages longer than connections.
    """
    found = weakref.ref(connection)

    def reply(obj: Any) -> None:
        notice_fork()
        frame = frame_of(obj, options.codec)
        connection = found()
        if connection is None or not connection.is_open:
            raise NotConnectedError(
                f"stream {peer_text(options.name)}: the connection of this message has ended"
            )
        connection.send(frame, passes_gate=True)

    return reply
