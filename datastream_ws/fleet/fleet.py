"""Run many streams as one: the public class of a fleet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from ..async_client import registry_of
from ..client import RESPONSE_SECONDS, Client
from ..events import State
from ..exceptions import ConfigurationError, NotConnectedError, said
from ..forks import bury, notice_fork, watch_forks
from ..handlers import Decorators, check_function
from ..handling.budget import Budget
from ..handling.current import handling
from ..lease import lease_for
from ..lease.shared import SharedLease, SharedStore
from ..lifecycle.assembly import Place
from ..lifecycle.commands import CloseFrame, close_frame
from ..lifecycle.rate_limiter import RateLimiter
from ..log_fields import about, fields, write
from ..option_checks import count, or_none, seconds, send_rate_option
from ..options import ClientOptions, StreamOptions
from ..process.loop_thread import LoopThread
from ..process.loop_use import (
    CLOSE_GRACE,
    LoopUse,
    abandon_loop,
    end_loop_use,
    threads,
    use_responsive_loop,
)
from ..process.signals import signals_to
from ..process.user_calls import UserCalls
from ..redaction import Hidden, hides_arguments, peer_text
from .limit_monitor import LimitMonitor
from .share import Share
from .source import Row, Rows, compare
from .streams import Streams
from .summary import Summary, counted
from .totals import FleetStats, total

__all__ = ["Fleet"]

Source = Callable[[], Mapping[Any, Mapping[str, Any]] | Awaitable[Mapping[Any, Mapping[str, Any]]]]

SOURCE_SECONDS = 60.0  # time for the source to return; the next refresh calls it again
LOOK_SECONDS = 1.0  # most between two flushes of the log
KEY_LENGTH = 200  # the most that stores of leases can hold
LEAVE_SECONDS = 0.5  # minimum time for the store to record the end

# A failed stream must not stay down for good: the process has others, and its row may not change.
DEFAULTS: dict[str, Any] = {"max_reconnect_attempts": None, "fatal_delay": 300.0}


class Fleet(Decorators):
    """
    One stream for each row that a function returns, the *source*.

    The source is called repeatedly. A new row starts a stream, a changed row replaces it, and a
    removed row closes it. If the source raises an exception or hangs, the streams continue
    unchanged. You can call every method from any thread.

    ``fleet[key]`` is the :class:`Client` of a stream that runs in this process. Iterating over the
    fleet returns the keys of these streams. ``len()`` and ``in`` also work.

    Args:
        source: A function, or a coroutine function, that returns a mapping of keys to options:
            ``{42: {"url": "wss://…", "headers": {…}}}``. A synchronous function runs on its own
            thread.
        refresh: Seconds between two calls of the source.
        start_rate: The largest number of connection attempts within a number of seconds, such as
            ``(50, 1.0)``. Reconnections count.
        limit: The largest number of streams in this process. ``None`` means no limit.
        lease: A ``redis://`` URL, or an object that has ``shared_store()``. Processes with the same
            lease and name share the streams, and each stream runs in one of them. ``None`` means
            that this process runs all streams.
        **options: The :class:`ClientOptions` of every stream, which its row overrides. The default
            of ``max_reconnect_attempts`` is ``None`` here, and that of ``fatal_delay`` is 300
            seconds. The streams are called ``name/KEY``.

    Raises:
        ConfigurationError: If an option is unknown or invalid.

    Example::

        fleet = Fleet(accounts, name="accounts")

        @fleet.on_message("order")
        def order(message):
            print(message.key, message.json())

        fleet.run()

    """

    @hides_arguments
    def __init__(
        self,
        source: Source,
        *,
        refresh: float = 30.0,
        start_rate: tuple[int, float] = (50, 1.0),
        limit: int | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        check_function("source", source, "")
        _check("refresh", refresh, seconds)
        _check("start_rate", start_rate, _rate)
        _check("limit", limit, or_none(count))
        given: Any = {**DEFAULTS, **options}
        if given.get("spool") is not None and "{name}" not in str(given["spool"]):
            raise ConfigurationError(
                "spool: each stream requires its own file. Put {name} into the path."
            )
        # Each row has its own URL. This one is never used.
        self.options = ClientOptions("ws://localhost", **given)
        shared_lease(self.options)
        self.handlers = registry_of(self.options)
        self._source = source
        self._refresh = refresh
        self._start_rate = start_rate
        self._limit = limit
        self._budget: Budget | None = None
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._loop_use: LoopUse | None = None
        self._finished: Future[None] | None = None
        self._latest: Work | None = None
        self._close_requested = False

    # --- facts ---

    @property
    def name(self) -> str:
        return self.options.name

    def __getitem__(self, key: Any) -> Client:
        """Return the client of a stream that runs in this process; KeyError if there is none."""
        found = self._running.get(str(key))
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys of the streams that run in this process."""
        work = self._work
        return iter(work.streams.by_key() if work is not None else {})

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: object) -> bool:
        return str(key) in self._running

    def state(self, key: Any) -> State:
        """
        Return the state of a stream, which is STANDBY unless it runs in this process.

        Raises:
            KeyError: If the source has no such key.

        """
        found, work = self._running.get(str(key)), self._work
        if found is not None:
            return found.state
        if work is None or str(key) not in work.rows:
            raise KeyError(key)
        return State.STANDBY

    def owner(self, key: Any) -> str | None:
        """
        Return ``host:pid`` of the process that runs a stream, as this process last read it.

        ``None`` means that no process runs the stream, or that the fleet isn't shared.
        """
        work = self._work
        return None if work is None or work.share is None else work.share.sharing.owner(str(key))

    @property
    def processes(self) -> list[str]:
        """``host:pid`` of each process that shares the fleet. The list is empty without a lease."""
        work = self._work
        return [] if work is None or work.share is None else work.share.sharing.processes

    @property
    def current(self) -> Client:
        """
        The client whose handler or hook is running in this context.

        Raises:
            NotConnectedError: Outside handlers and hooks of this fleet.

        """
        client = handling.get()
        place = client.aio._place if isinstance(client, Client) else None
        if place is None or self._running.get(str(place.key)) is not client:
            raise NotConnectedError(
                f"fleet {peer_text(self.name)}: no handler of its streams runs here. Use "
                "fleet[key] instead of fleet.current."
            )
        assert isinstance(client, Client)
        return client

    @property
    def is_running(self) -> bool:
        notice_fork()
        finished = self._finished
        return finished is not None and not finished.done()

    @property
    def source_size(self) -> int | None:
        """The number of rows of the source. ``None`` before its first result."""
        work = self._work
        return work.source_size if work is not None else None

    def counts(self) -> dict[State, int]:
        """Return how many streams in this process are in each state."""
        work = self._work
        return work.streams.counts() if work is not None else {}

    def stats(self) -> FleetStats:
        """Return the sum of the counters since ``start()``, and those of each stream."""
        work = self._work
        if work is None:
            return FleetStats()
        past, each = work.streams.stats()
        monitor = work.limit_monitor
        return FleetStats(
            **total([past, *each.values()]),
            streams=each,
            streams_beyond_limit=monitor.streams,
            recent_events=monitor.events,
        )

    @property
    def _work(self) -> Work | None:
        """The work since the last ``start()`` in this process. ``None`` before the first one."""
        notice_fork()
        return self._latest

    @property
    def _running(self) -> dict[str, Client]:
        work = self._work
        return work.streams.running if work is not None else {}

    # --- start and end ---

    def start(self) -> None:
        """
        Call the source and run its streams in the background, and return without waiting.

        If user code blocks the event loop for 5 seconds, the fleet uses another loop. It never
        raises for errors of the source or the network. Calling it again has no effect while the
        fleet runs.

        Raises:
            Exception: What ``shared_store()`` of your own lease object raises.

        """
        notice_fork()
        with self._lock:
            if self.is_running:
                return
            lease = shared_lease(self.options)
            store = None if lease is None else lease.shared_store()
            self._close_requested = False
            use = self._loop_use = use_responsive_loop(
                self, lambda thread: self._log_blocked(thread, "this fleet starts on another one")
            )
            finished = use.finished = self._finished = Future()
            finished.add_done_callback(lambda _: threads().call(lambda: end_loop_use(use)))
            use.thread.loop.call_soon_threadsafe(self._begin, finished, store)

    def _share(self, budget: Budget) -> None:
        """Limit the number of handled messages to *budget*, from the next ``start()`` on."""
        self._budget = budget

    def _begin(self, finished: Future[None], store: SharedStore | None) -> None:
        self._latest = Work(self, finished, store)
        self._latest.begin()

    def run(self) -> None:
        """
        Start the fleet, and block until it has closed.

        In the main thread, the first SIGINT or SIGTERM closes the fleet, which handles what it has
        received. A second signal closes it immediately.

        Raises:
            Exception: The internal error that has ended the fleet.

        """
        deadlines: list[float] = []

        def stop(number: int) -> None:
            deadlines.append(self._ask_close(0.0 if deadlines else None))

        with signals_to(stop):
            self.start()
            finished = self._finished
            assert finished is not None
            while not wait([finished], 1.0).done:  # short, so that signal handlers can run
                if deadlines and time.monotonic() >= deadlines[-1] - CLOSE_GRACE:
                    self._end_by(deadlines[-1])
                    return
        finished.result()

    def request_close(self) -> None:
        """
        Request that the fleet closes, without waiting. A second request closes immediately.

        You can call it from any thread.
        """
        self._ask_close(0.0 if self._close_requested else None)

    def wait_closed(self, timeout: float | None = None) -> None:
        """
        Block the calling thread until the fleet has closed.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If it hasn't closed in time.
            Exception: The internal error that has ended the fleet.

        """
        if self._finished is not None:
            self._finished.result(timeout)

    def close(self, timeout: float | None = None, code: int = 1000, reason: str = "") -> None:
        """
        Stop reading, handle what was received, and close all connections.

        It blocks until the fleet has closed, and always returns within *timeout* + 1 seconds.
        Calling it again has no effect. Inside a handler, it requests the shutdown and returns.

        Args:
            timeout: Seconds for all of it. ``None`` means ``close_timeout``.
            code: The close code that the servers receive: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the servers receive, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.

        """
        notice_fork()
        deadline = self._ask_close(timeout, close_frame(code, reason))
        use = self._loop_use
        if use is not None and handling.get() is None and not use.thread.is_current:
            self._end_by(deadline)

    def _ask_close(self, timeout: float | None, final_frame: CloseFrame | None = None) -> float:
        self._close_requested = True
        limit = self.options.close_timeout if timeout is None else timeout
        until = time.monotonic() + limit
        with suppress(NotConnectedError):  # it is not running
            self._on_loop(lambda work: work.close(until, final_frame))
        return until + CLOSE_GRACE

    def _end_by(self, deadline: float) -> None:
        """
        Wait until the fleet has closed, or close it without waiting for user code at *deadline*.
        """
        use, work = self._loop_use, self._work
        if use is None or use.wait(deadline) or work is None:
            return
        if use.thread.responds(RESPONSE_SECONDS):
            work.log.say("warning", "close() returns although streams are still closing")
            return
        self._log_blocked(use.thread, "the fleet is closed without waiting for it")
        self._abandon(use, work)

    def _log_blocked(self, thread: LoopThread, what_follows: str) -> None:
        text = (
            "fleet %s: user code blocks the event loop; %s. Move code that blocks into a "
            "synchronous handler, which runs on a thread. The event loop is at:\n%s"
        )
        arguments = self.name, what_follows, thread.stack()
        write(self.options.logger, "error", text, *arguments, extra=fields(self.name))

    def _abandon(self, use: LoopUse, work: Work) -> None:
        """Mark the fleet as closed. Its leases expire, and its connections are dropped."""
        abandon_loop(use.thread)
        self._latest = None
        if work.share is not None:
            work.share.sharing.abandon()
        for client in work.streams.running.values():
            client._abandon_if_running()
        with suppress(InvalidStateError):  # it has ended at this moment
            if use.finished is not None:
                use.finished.set_result(None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- verbs ---

    def deliver(self, data: Any, robust: bool = False, *, key: Any) -> None:
        """
        Pass a message to the handlers in this thread, without a network.

        Use it in tests. It returns when the handlers have finished, and needs no :meth:`start`.

        Args:
            data: A str or bytes as received. Any other object is encoded first.
            robust: ``True`` reports a handler's exception, as in production. ``False`` raises it.
            key: The key of the message's stream. The source doesn't have to return it.

        """
        client = Client(
            self.options.replace(
                name=f"{self.name}/{key}",
                handlers=self.handlers,
                message_handler=None,  # both are registered in the handlers
                connection_ready_handler=None,
                lease=None,
                spool=None,
            )
        )
        no_limiter: Any = None  # it never connects
        client._join(Place(key=key, rate_limiter=no_limiter))
        client.deliver(data, robust)

    def refresh(self) -> None:
        """
        Request that the source is called now, without waiting for it.

        Raises:
            NotConnectedError: If the fleet isn't running.

        """
        self._on_loop(lambda work: work.refresh())

    def pause(self, code: int = 1000, reason: str = "") -> None:
        """
        Close all connections, and stay offline until :meth:`resume` is called.

        It's thread-safe and never blocks. The arguments are those of :meth:`close`.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.
            NotConnectedError: If the fleet isn't running.

        """
        how = close_frame(code, reason)
        self._on_loop(lambda work: work.streams.pause(how.code, how.reason))

    def resume(self) -> None:
        """
        Connect again after :meth:`pause`.

        It's thread-safe and never blocks. It has no effect unless the fleet is paused.

        Raises:
            NotConnectedError: If the fleet isn't running.

        """
        self._on_loop(lambda work: work.streams.resume())

    def reconnect(self, code: int = 1000, reason: str = "") -> None:
        """
        Drop all connections, and connect again at ``start_rate``.

        It's thread-safe and never blocks. The arguments are those of :meth:`close`.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.
            NotConnectedError: If the fleet isn't running.

        """
        how = close_frame(code, reason)
        self._on_loop(lambda work: work.streams.reconnect(how.code, how.reason))

    def _on_loop(self, function: Callable[[Work], object]) -> None:
        """Call *function* with the running work, on the loop's thread."""
        notice_fork()
        use = self._loop_use
        if use is None or not self.is_running:
            raise NotConnectedError(
                f"fleet {peer_text(self.name)} isn't running in this process. Call fleet.start() "
                "first, or use fleet.run()."
            )

        def call() -> None:
            # A loop that was blocked may call this after the next start, on another loop.
            work = self._work if self._loop_use is use else None
            if work is not None:
                function(work)

        with suppress(RuntimeError):  # the loop has closed at this moment
            use.thread.loop.call_soon_threadsafe(call)

    def _forget_parent(self) -> None:
        """Become idle in a forked child, without touching the parent's resources."""
        remains = (self._latest, self._loop_use)
        self._reset()
        bury(remains, [])

    def __repr__(self) -> str:
        return f"<Fleet {peer_text(self.name)}: {counted(len(self._running))} here>"


class Work:
    """
    One ``start()`` of a fleet, on the loop's thread.

    Attributes:
        source_size: How many rows the source has. ``None`` means that it has not returned yet.
        rows: The rows of the source.
        share: Decides which streams run here. ``None`` means all.
        limit_monitor: Reports streams that run in no process because of ``limit``.

    """

    def __init__(self, fleet: Fleet, finished: Future[None], store: SharedStore | None) -> None:
        self._fleet = fleet
        self._finished = finished
        self._deadline: float | None = None
        self._final_frame = CloseFrame()
        self._wake = asyncio.Event()
        self._called_at = float("-inf")
        self.rows: Rows = {}
        self._failure = ""
        self._reports: set[asyncio.Task[Any]] = set()
        self.source_size: int | None = None
        self.log = Summary(fleet.options.logger, fleet.name, self._states)
        self._defaults = fleet.options.replace(
            handlers=fleet.handlers,
            message_handler=None,  # both are registered in the handlers
            connection_ready_handler=None,
            logger=self.log,
            lease=None,
        )
        self._calls = UserCalls(threads().submit, lambda _: None)
        self._rate_limiter = RateLimiter(*fleet._start_rate)
        self.limit_monitor = LimitMonitor(
            0.0 if store is None else fleet.options.lease_ttl,
            self.log.say,
            is_shared=store is not None,
        )
        self.streams = Streams(
            self._make,
            self._place,
            self._ended,
            self._log_refused,
            fleet._limit if store is None else None,
        )
        self.share = None if store is None else self._make_share(store)

    def _make_share(self, store: SharedStore) -> Share:
        fleet = self._fleet
        dials, seconds = fleet._start_rate
        return Share(
            store,
            fleet.options.lease_ttl,
            fleet._limit,
            streams=self.streams,
            rate_limiter=self._rate_limiter,
            rate=dials / seconds,
            on_news=self._wake.set,
            on_error=self._lease_failed,
        )

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name=f"datastream fleet {self._fleet.name}")

    def refresh(self) -> None:
        self._called_at = float("-inf")
        self._wake.set()

    def close(self, deadline: float, final_frame: CloseFrame | None) -> None:
        """End by *deadline*. A later call can only bring it forward."""
        if self._deadline is None:
            self._final_frame = final_frame or self._final_frame
        elif deadline < self._deadline:
            self.streams.hasten(deadline)
        self._deadline = min(deadline, self._deadline or deadline)
        self._wake.set()

    async def _run(self) -> None:
        failure: Exception | None = None
        try:
            while self._deadline is None:
                self._wake.clear()
                await self._step()
            if self.share is not None:
                await self.share.hand_over(lambda: self._deadline or 0.0, self._follow)
            await self.streams.close(self._deadline, *self._final_frame)
        except Exception as death:
            failure = death
            self.log.say("error", "internal error, please report it: %s", said(death))
            with suppress(Exception):
                await self.streams.close(0.0, *self._final_frame)
        finally:
            if self.share is not None:
                left = (self._deadline or 0.0) - time.monotonic()
                await self.share.close(max(LEAVE_SECONDS, left))
            self._calls.cancel()
            self.log.flush(now=True)
            with suppress(InvalidStateError):  # close() did not wait for user code
                if failure is None:
                    self._finished.set_result(None)
                else:
                    self._finished.set_exception(failure)

    async def _step(self) -> None:
        if time.monotonic() - self._called_at >= self._fleet._refresh:
            self._called_at = time.monotonic()
            await self._call_source()
        else:
            left = self._called_at + self._fleet._refresh - time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, min(LOOK_SECONDS, left)))
        self._follow()
        self._check_limits()
        self.log.flush()

    def _follow(self, changed: tuple[str, ...] = ()) -> None:
        """Start and close streams of a shared fleet so that they match what this process holds."""
        if self.share is None:
            return
        self.share.sharing.report_hang()
        self.share.follow(self.rows, changed)
        if (news := self.share.summary()) is not None:
            processes, here = news
            who = "1 process runs" if processes == 1 else f"{processes} processes share"
            run = "1 runs" if here == 1 else f"{here:,} run"
            self.log.say("info", "%s %s; %s here", who, counted(len(self.rows)), run)

    def _place(self, row: Row) -> Place | None:
        if self.share is None:
            return Place(key=row.key, rate_limiter=self._rate_limiter)
        return self.share.place(row)

    def _ended(self, key: str) -> None:
        if self.share is not None:
            self.share.ended(key)

    def _lease_failed(self, error: BaseException) -> None:
        self.log.say("warning", "%s", said(error))
        self._report(error)

    async def _call_source(self) -> None:
        """Call the source until the fleet closes; an exception or a hang changes nothing."""
        loop = asyncio.get_running_loop()
        asking = loop.create_task(self._update_rows())
        asking.add_done_callback(_retrieve)
        until = loop.time() + SOURCE_SECONDS
        while not asking.done() and self._deadline is None and loop.time() < until:
            waking = loop.create_task(self._wake.wait())
            await asyncio.wait(
                [asking, waking], timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            waking.cancel()
            self.log.flush()
            if self._deadline is None:
                self._wake.clear()
                self._follow()
        if not asking.done():
            asking.cancel()
            if self._deadline is None:
                text = f"the source has not returned within {SOURCE_SECONDS:g} s"
                self._fail(text, TimeoutError(text))
        elif not asking.cancelled() and (error := asking.exception()) is not None:
            self._fail(f"the source failed: {said(error).removeprefix('source: ')}", error)

    async def _update_rows(self) -> None:
        given = Hidden(await self._calls.call(self._fleet._source))
        rows, changes = await asyncio.wrap_future(
            threads().submit(lambda: compare(self.rows, given.reveal(), self._check))
        )
        self._failure = ""
        self.rows = rows
        self.source_size = len(rows)
        for key, error in changes.errors.items():
            self._log_refused(key, error)
        if self.share is None:
            self.streams.apply(rows, changes)
        else:
            self.share.want(rows)
            self._follow(changes.changed)
        if changes:
            self.log.say(
                "info",
                "%s in the source; %d new, %d changed, %d removed",
                counted(len(rows)),
                *(len(changes.added), len(changes.changed), len(changes.gone)),
            )
        self._check_limits()

    def _make(self, row: Row, place: Place) -> Client:
        client = Client(row.options(self._defaults, self._fleet.name))
        client._join(place)
        if self._fleet._budget is not None:
            client._share(self._fleet._budget)
        return client

    def _log_refused(self, key: str, error: BaseException) -> None:
        name = f"{self._fleet.name}/{key}"
        self.log.warning(
            "stream %s: %s", peer_text(name), said(error), extra=fields(name, **about(error))
        )

    def _check(self, row: Any) -> object:
        if self.share is not None and len(str(row.key)) > KEY_LENGTH:
            raise ConfigurationError(
                f"source: the key of a shared stream is too long. Use at most {KEY_LENGTH} "
                "characters."
            )
        return row.options(self._defaults, self._fleet.name)

    def _check_limits(self) -> None:
        if self.share is not None:
            self.limit_monitor.update(self.share.sharing.beyond_limit, self.share.sharing.limits)
        elif self._fleet._limit is not None:
            self.limit_monitor.update(self.streams.beyond_limit, [self._fleet._limit])

    def _fail(self, text: str, error: BaseException) -> None:
        """Log and report a failure of the source, once while it lasts."""
        if text != self._failure:
            self._failure = text
            number = counted(len(self.rows))
            kept = f"the fleet keeps its {number}" if self.rows else "it has no streams yet"
            self.log.say("warning", "%s; %s", text.removesuffix("."), kept)
            self._report(error)

    def _report(self, error: BaseException) -> None:
        """Pass an error of the source or the lease to the ``on_error`` hooks."""
        for hook in self._fleet.handlers.hooks["on_error"]:
            task = asyncio.get_running_loop().create_task(self._calls.call(hook.function, error))
            self._reports.add(task)
            task.add_done_callback(self._reported)

    def _reported(self, task: asyncio.Task[Any]) -> None:
        self._reports.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.say("error", "an on_error hook failed: %s", said(error))

    def _states(self) -> str:
        counts = sorted(self.streams.counts().items(), key=lambda pair: -pair[1])
        text = ", ".join(f"{n:,} {state.value}" for state, n in counts)
        here = f"{counted(len(self.streams.running))} here"
        return f"{here} ({text})" if text else here


def shared_lease(options: ClientOptions) -> SharedLease | None:
    """
    Return the lease through which a fleet is shared. ``None`` means that it is not shared.

    Raises:
        ConfigurationError: If the object cannot share a fleet.

    """
    lease: Any = lease_for(options.lease, options.name)
    if lease is None or callable(getattr(lease, "shared_store", None)):
        found: SharedLease | None = lease
        return found
    raise ConfigurationError(
        "lease: a fleet cannot be shared with this object. Use a redis:// URL, or a lease "
        "that has shared_store()."
    )


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _rate(value: Any) -> str | None:
    if value is None:
        return "must be (dials, seconds), such as (50, 1.0)"
    return send_rate_option(value)


def _check(name: str, value: Any, check: Callable[[Any], str | None]) -> None:
    if wrong := check(value):
        raise ConfigurationError(f"{name}: {wrong} (given: {type(value).__name__})")
