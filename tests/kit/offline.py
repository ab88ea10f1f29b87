"""
A client without a network, threads and delays, on a FakeEngine, a fake clock and a fake lease.

::

    with Story(fatal_delay=5.0) as story:
        story.start()
        story.passes(1.0)
        story.engine.drop()
        assert story.told == [...]
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self

import pytest

from datastream_ws import AsyncClient, LeaseError
from datastream_ws.events import DisconnectEvent, GapEvent, StateEvent
from datastream_ws.exceptions import said
from datastream_ws.lifecycle.retry import Backoff
from kit.fakeengine import FakeEngine, InlineThreads, World
from kit.virtualtime import VirtualLoop

__all__ = ["ENGINE", "FakeLease", "FakeSpool", "Log", "Offline", "Story"]

ENGINE = "datastream_ws.connection.websockets_engine.WebsocketsEngine"
CLOCKED = ("async_client", "lifecycle.machine", "lifecycle.reporter", "handling.intake")


class Offline:
    """A loop and a world, with patches that make a client use them."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.world = World()
        self.patch = patch = pytest.MonkeyPatch()
        self.broken: list[dict[str, Any]] = []  # exceptions of the loop's callbacks
        self.loop.set_exception_handler(lambda _, context: self.broken.append(context))
        patch.setattr(ENGINE, self.world.engine)
        patch.setattr("datastream_ws.async_client.threads", InlineThreads)
        patch.setattr("datastream_ws.lifecycle.assembly.LeaseRenewal", FakeRenewal)
        for module in CLOCKED:
            patch.setattr(f"datastream_ws.{module}.time", self)
        self.time, self.time_ns = time.time, time.time_ns

    def monotonic(self) -> float:
        return self.loop.time()

    def close(self) -> None:
        for _ in range(10):  # some tasks must be canceled again while they end
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.pass_time(1.0)
        self.patch.undo()
        self.loop.close()


class Log:
    """A value of the option ``logger`` that keeps all lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *arguments: Any, exc_info: Any = None) -> None:
        self.lines.append(text % arguments)

    debug = warning = error = info


class FakeLease:
    """
    A lease with its store, which reports every change immediately.

    Attributes:
        is_free: Whether no other process holds it.
        ended: The number of releases.
        epoch: The epoch of the latest holder.
        renewal: The client's side of the lease. ``None`` before the client starts.

    """

    def __init__(self, *, is_free: bool = True) -> None:
        self.is_free = is_free
        self.ended = 0
        self.epoch = 0
        self.renewal: FakeRenewal | None = None

    def grant(self) -> None:
        """Let the other process release the lease."""
        self.is_free = True
        if self.renewal is not None:
            self.renewal.look()

    def take_away(self) -> None:
        """Let another process take the lease."""
        self.is_free = False
        if self.renewal is not None and self.renewal.is_held:
            self.renewal.end(float("-inf"))

    def hang(self) -> None:
        """Let the store hang, so that the client gives up the lease before it expires."""
        self.is_free = False
        if self.renewal is not None and self.renewal.is_held:
            self.renewal.end(self.renewal.now())

    # The protocol, which the check of options requires.

    def acquire(self, ttl: float) -> int | None: ...

    def renew(self, ttl: float) -> bool:
        raise NotImplementedError

    def release(self) -> None: ...


class FakeRenewal:
    """A :class:`datastream_ws.lease.LeaseRenewal` without a thread."""

    def __init__(
        self,
        lease: FakeLease,
        ttl: float,
        *,
        on_change: Callable[[], None],
        report: Callable[[BaseException], None],
    ) -> None:
        lease.renewal = self
        self.now = asyncio.get_running_loop().time
        self.slack = ttl / 10
        self.epoch = 0
        self.is_refused = False
        self.looks = 0
        self._lease = lease
        self._ttl = ttl
        self._ends_at: float | None = float("-inf")  # None while it is renewed in time
        self._wanted = False
        self._on_change = on_change
        self._report = report

    def start(self) -> None: ...
    def look_for_hang(self) -> None:
        self.looks += 1

    @property
    def left(self) -> float:
        return self._ttl * 0.7 if self._ends_at is None else self._ends_at - self.now()

    @property
    def is_held(self) -> bool:
        return self.left > 0

    def tenure(self) -> int | None:
        if self.is_held:
            return self.epoch
        return None if self.epoch else 0

    def campaign(self) -> None:
        self._wanted = True
        self.look()

    def rest(self) -> None:
        self._wanted = False

    def look(self) -> None:
        """Take the lease if it is wanted and free."""
        if not self._wanted or self.is_held:
            return
        was_refused, self.is_refused = self.is_refused, not self._lease.is_free
        if self._lease.is_free:
            self._wanted, self._ends_at = False, None
            self.epoch = self._lease.epoch = self._lease.epoch + 1_000_000_000_000
            self._on_change()
        elif not was_refused:
            self._on_change()

    def end(self, at: float) -> None:
        self._ends_at = at
        self._report(LeaseError("lease lost: another process holds it; standing by"))
        self._on_change()

    def close(self) -> Future[None]:
        self._ends_at = float("-inf")
        self._lease.ended += 1
        closed: Future[None] = Future()
        closed.set_result(None)
        return closed


class FakeSpool:
    """
    A :class:`datastream_ws.spool.SpoolThread` without a file and a thread.

    Args:
        answers: The results of the next calls of ``open()``, each an error or SLOW, which never
            ends. Later calls succeed.

    """

    SLOW = TimeoutError("does not come to an end")

    def __init__(self, answers: list[BaseException]) -> None:
        self._answers = answers
        self.is_open = False
        self.is_slow_to_close = False
        self.epoch = self.unfinished = self.opened = self.closed = self.nudges = 0

    def open(self) -> Future[None]:
        self.opened += 1
        future: Future[None] = Future()
        error = self._answers.pop(0) if self._answers else None
        if error is None:
            self.is_open = True
            future.set_result(None)
        elif error is not self.SLOW:
            future.set_exception(error)
        return future

    def close(self) -> Future[int]:
        self.closed += 1
        future: Future[int] = Future()
        if not self.is_slow_to_close:
            future.set_result(0)
        return future

    def nudge(self) -> None:
        self.nudges += 1


class Story(Offline):
    """
    A client without a network, and everything that it reports.

    Delays between attempts are the shortest that the options allow. The end of the ``with`` block
    closes the client, and asserts that nothing is left.

    Args:
        options: The options of the client.

    Attributes:
        told: The states, errors and events in order, as lines.
        messages: The payloads that the handler was called with.
        spools: The argument of :class:`FakeSpool`.

    """

    spool: FakeSpool

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.spools: list[BaseException] = []
        self.patch.setattr("datastream_ws.lifecycle.assembly.SpoolThread", self._spool)
        shortest = functools.partial(Backoff, uniform=lambda low, high: low)
        self.patch.setattr("datastream_ws.lifecycle.plan.Backoff", shortest)
        self.told: list[str] = []
        self.messages: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.client = AsyncClient("ws://fake", **{"close_timeout": 2.0, **options})
        self.client.on_state(self._tell_state)
        self.client.on_error(lambda error: self.told.append(f"error {said(error)}"))
        self.client.on_disconnect(self._tell_disconnect)
        self.client.on_gap(self._tell_gap)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                self.ends()
        finally:
            self.close()

    def ends(self) -> None:
        """Close the client, and assert that nothing is left."""
        self.call(self.client.close(1.0))
        self.passes(1.0)
        assert self.client.state.is_final
        assert self.world.open_engines == []
        assert [task for task in self.tasks if not task.done()] == []
        assert [t for t in asyncio.all_tasks(self.loop) if "datastream" in t.get_name()] == []
        assert self.broken == []

    def _spool(self, *_: Any, **__: Any) -> FakeSpool:
        self.spool = FakeSpool(self.spools)
        return self.spool

    # --- reports ---

    def _tell_state(self, event: StateEvent) -> None:
        delay = "" if event.delay is None else f" {event.delay:g} s"
        self.told.append(f"{event.state.value}{delay}")

    def _tell_disconnect(self, event: DisconnectEvent) -> None:
        error = "" if event.error is None else f" ({said(event.error)})"
        after = "" if event.will_retry else ", the last"
        self.told.append(f"disconnect {event.connection}: {event.code}{error}{after}")

    def _tell_gap(self, event: GapEvent) -> None:
        self.told.append(f"gap of {event.seconds:.1f} s")

    def news(self) -> list[str]:
        """Return the lines in ``told``, and clear it."""
        told, self.told = self.told, []
        return told

    # --- events ---

    @property
    def engine(self) -> FakeEngine:
        """The engine of the latest connection."""
        return self.world.engines[-1]

    def start(self) -> None:
        """Start the client, and let a second pass, in which it becomes ready."""
        self.client.on_message(lambda message: self.messages.append(message.data))
        self.begin()
        self.passes(1.0)

    def begin(self) -> None:
        self.call(self.client.start())

    def call(self, verb: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine until it returns."""
        return self.loop.run_until_complete(verb)

    def soon(self, verb: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Schedule a coroutine, which starts when time passes."""
        task = self.loop.create_task(verb)
        self.tasks.append(task)
        return task

    def happens(self, what: Callable[..., object], *arguments: Any, **more: Any) -> None:
        """Schedule a call, which is made when time passes."""
        self.loop.call_soon(functools.partial(what, *arguments, **more))

    def passes(self, seconds: float) -> None:
        self.loop.pass_time(seconds)
