"""What is told, to whom: state, events, errors and the log."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from datastream_ws import ClientOptions, DataStreamError, HandlerError, Handlers, State
from datastream_ws.connection.engine import Ended
from datastream_ws.events import DisconnectEvent, GapEvent, StateEvent
from datastream_ws.exceptions import LeaseError
from datastream_ws.lifecycle.commands import Commands
from datastream_ws.lifecycle.plan import Attempts, Plan
from datastream_ws.lifecycle.reporter import MOST_EVENTS, Reporter
from datastream_ws.process.futures import ErrorBuffer, Observable
from datastream_ws.stats import Traffic
from kit.fakeengine import InlineThreads


class Lines:
    """A logger that keeps the level with each line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.extras: list[dict[str, Any]] = []

    def _log(self, level: str, text: str, *arguments: Any, exc_info: Any = None) -> None:
        traced = " (traced)" if exc_info is not None else ""
        self.lines.append(f"{level} {text % arguments}{traced}")

    def debug(self, *arguments: Any, **more: Any) -> None:
        self._log("debug", *arguments, **more)

    def info(self, *arguments: Any, **more: Any) -> None:
        self._log("info", *arguments, **more)

    def warning(self, *arguments: Any, **more: Any) -> None:
        self._log("warning", *arguments, **more)

    def error(self, *arguments: Any, **more: Any) -> None:
        self._log("error", *arguments, **more)


class Scene:
    """A reporter, and all that it tells."""

    def __init__(self, **options: Any) -> None:
        self.log = Lines()
        self.options = ClientOptions("ws://h", **{"name": "prices", "logger": self.log, **options})
        self.told: list[Any] = []
        handlers = Handlers()
        for register in (
            handlers.on_state, handlers.on_error, handlers.on_disconnect, handlers.on_gap,
        ):  # fmt: skip
            register(self.tell)
        self.state = Observable(State.IDLE)
        self.errors = ErrorBuffer(10, 10_000)
        self.traffic = Traffic()
        self.commands = Commands(asyncio.get_running_loop().time)
        self.reporter = Reporter(
            owner=self,
            options=self.options,
            handlers=handlers,
            state=self.state,
            errors=self.errors,
            traffic=self.traffic,
            attempts=Attempts(self.options),
            commands=self.commands,
            submit=self.submit,
        )

    async def tell(self, event: Any) -> None:
        self.told.append(event)

    def submit(self, function: Any) -> Future[Any]:
        return InlineThreads().submit(function)

    async def all_told(self) -> list[Any]:
        await self.reporter.finish(10.0)
        return self.told


async def test_a_state_is_told_once_and_waiting_each_time() -> None:
    s = Scene(max_reconnect_attempts=5)
    error = DataStreamError("gone")
    for _ in range(2):
        s.reporter.state(State.CONNECTED)
    for delay in (1.0, 2.0):
        s.reporter.state(State.WAITING, error, delay)
    assert s.log.lines == [
        "info stream prices: connected",
        "warning stream prices: gone; attempt 1 of 5 in 1.0 s",
        "warning stream prices: gone; attempt 1 of 5 in 2.0 s",
    ]
    assert await s.all_told() == [
        StateEvent(State.CONNECTED, State.IDLE, None, 1, None),
        StateEvent(State.WAITING, State.CONNECTED, error, 1, 1.0),
        StateEvent(State.WAITING, State.WAITING, error, 1, 2.0),
    ]
    assert s.state.value is State.WAITING


async def test_connecting_is_logged_by_whoever_knows_the_address() -> None:
    s = Scene()
    s.reporter.state(State.CONNECTING)
    assert s.log.lines == []
    assert len(await s.all_told()) == 1


async def test_recent_events() -> None:
    s = Scene()
    s.traffic.connections = 3
    s.reporter.state(State.CONNECTED)
    s.reporter.state(State.READY)
    s.reporter.state(State.STANDBY)
    s.reporter.state(State.FAILED, DataStreamError("for good"))
    s.reporter.state(State.CLOSED)
    assert [(event.kind, event.text) for event in s.reporter.recent_events] == [
        ("connected", "connection 3"),
        ("ready", "connection 3"),
        ("lease", "standby: another process holds the lease"),
        ("failed", "for good"),
        ("closed", ""),
    ]
    s.reporter.state(State.FAILED)
    assert s.reporter.recent_events[-1].text == ""
    for number in range(MOST_EVENTS + 5):
        s.reporter.note("said", f"{number}\x1b[31m")
    events = s.reporter.recent_events
    assert len(events) == MOST_EVENTS
    assert "\x1b" not in events[-1].text
    await s.all_told()


async def test_a_gap_is_told_once_there_was_a_connection() -> None:
    s = Scene()
    s.reporter.gap(None)
    s.reporter.lost()
    s.reporter.gap(None)
    s.reporter.gap(None)
    [event] = await s.all_told()
    assert isinstance(event, GapEvent)
    assert event.ended_at == event.started_at + event.seconds


async def test_what_follows_an_end() -> None:
    """A delay is told only where another attempt follows."""
    s = Scene()
    ended = Ended(1006, "bye\n", None)
    error = DataStreamError("lost")
    for plan in (Plan(2.5), Plan(is_last=True), None):
        s.reporter.disconnect(7, ended, error, plan)
    s.reporter.disconnect(8, Ended(1006, "", None), None, None)
    s.commands.close(1.0)
    s.reporter.disconnect(9, ended, None, Plan(2.5))
    told = await s.all_told()
    assert [(e.connection, e.will_retry, e.delay) for e in told] == [
        (7, True, 2.5),
        (7, False, None),
        (7, True, None),
        (8, True, None),
        (9, False, None),
    ]
    assert all(isinstance(e, DisconnectEvent) and "\n" not in e.reason for e in told)
    lost = [event.text for event in s.reporter.recent_events if event.kind == "lost"]
    assert lost[0].startswith("connection 7: code 1006, bye")
    assert lost[3] == "connection 8: code 1006"


async def test_the_text_of_an_error_that_is_a_sentence_goes_on_in_the_line() -> None:
    s = Scene()
    s.reporter.state(State.WAITING, DataStreamError("too big. Raise max_size to accept it."), 1.0)
    assert s.log.lines == [
        "warning stream prices: too big. Raise max_size to accept it; attempt 1 of 10 in 1.0 s"
    ]
    await s.all_told()


async def test_each_kind_of_error_has_its_line() -> None:
    s = Scene()
    s.reporter.report(HandlerError("a handler failed", handler=None))
    s.reporter.report(LeaseError("the store is away"))
    s.reporter.report(OSError("the network's: the state says it"))
    s.reporter.report(LookupError("a callable of the user's"))
    assert s.log.lines == [
        "error stream prices: a handler failed (traced)",
        "warning stream prices: the store is away",
        "error stream prices: LookupError: a callable of the user's (traced)",
    ]
    assert s.traffic.last_error == "LookupError: a callable of the user's"
    assert len(await s.all_told()) == 4


async def test_from_any_thread() -> None:
    s = Scene()
    thread = threading.Thread(target=s.reporter.report, args=[LeaseError("away")])
    thread.start()
    thread.join()
    assert s.log.lines == []
    await asyncio.sleep(0)
    assert s.log.lines == ["warning stream prices: away"]
    await s.all_told()


async def test_a_logger_that_raises_ends_nothing() -> None:
    class Broken(Lines):
        def _log(self, *arguments: Any, **more: Any) -> None:
            raise RuntimeError("a full disk")

    s = Scene(logger=Broken())
    s.reporter.state(State.READY)
    s.reporter.warn("x")
    assert s.state.value is State.READY
    assert len(await s.all_told()) == 1


async def test_nothing_is_told_after_the_end() -> None:
    s = Scene()
    await s.reporter.finish(1.0)
    s.reporter.report(LeaseError("late"))
    await asyncio.sleep(0.01)
    assert s.told == []
    assert s.reporter.reports_dropped == 1


def test_an_error_after_the_loop_was_closed_is_logged() -> None:
    """A handler or hook on a thread may outlive the loop, and nobody reads errors() then."""

    async def make() -> Scene:
        return Scene()

    scene = asyncio.run(make())
    scene.reporter.report(HandlerError("late failed", handler=None))
    assert scene.log.lines == ["error stream prices: late failed (traced)"]
