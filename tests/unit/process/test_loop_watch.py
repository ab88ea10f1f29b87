"""User code that blocks a loop is told of while it does, once, by its name and line."""

from __future__ import annotations

import asyncio
import functools
import logging
import pdb
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws import Message
from datastream_ws.handlers import Handlers
from datastream_ws.process.handler_threads import HandlerThreads
from datastream_ws.process.loop_thread import LoopThread
from datastream_ws.process.loop_watch import LoopWatch, WatchedClient, Watches


class Stage:
    """A loop on a thread, a look at it whenever the test wants one, and what blocks it."""

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread
        self.handlers = Handlers()
        self.lines = list[str]()
        self.entered = threading.Event()
        self.released = threading.Event()
        self.watch = thread.run(self._make())

    async def _make(self) -> LoopWatch:
        watch = LoopWatch(self.thread.loop)
        watch.clients.add(WatchedClient(self.handlers, self.lines.append, print))
        return watch

    @contextmanager
    def blocked(self, make: Callable[[], Any]) -> Iterator[None]:
        """Within, the loop runs the coroutine that *make* returns, which calls ``wait``."""
        self.entered.clear()
        self.released.clear()
        done: Future[Any] = asyncio.run_coroutine_threadsafe(make(), self.thread.loop)
        assert self.entered.wait(10)
        try:
            yield
        finally:
            self.released.set()
            done.result(10)

    def wait(self) -> None:
        self.entered.set()
        assert self.released.wait(10)

    def answer(self) -> None:
        """Wait until the loop has come to what it was asked for."""
        assert self.thread.responds(10)


@pytest.fixture
def stage() -> Iterator[Stage]:
    thread = LoopThread(HandlerThreads())
    yield Stage(thread)
    assert thread.stop(10)


def test_it_is_told_once_a_block_with_the_handlers_name_and_line(stage: Stage) -> None:
    @stage.handlers.on_message
    async def tick(message: object) -> None:
        stage.wait()

    line = tick.__code__.co_firstlineno + 2
    for block in (1, 2):
        with stage.blocked(lambda: tick(None)):
            stage.watch.look(10.0, late=False)
            stage.watch.look(10.5, late=False)
            assert len(stage.lines) == block - 1, "too early"
            for now in (10.8, 11.1, 60.0):
                stage.watch.look(now, late=False)
            assert len(stage.lines) == block, "once a block, while it blocks"
        stage.answer()
    name = f"{__name__}.test_it_is_told_once_a_block_with_the_handlers_name_and_line.<locals>.tick"
    begin = f"{name} has blocked the event loop for 0.8 s, at {__file__}:{line}, in threading."
    assert stage.lines[0].startswith(begin)
    assert stage.lines[0].endswith(
        "; use await, or define it with def, so that it runs on a thread"
    )


def test_a_logger_that_raises_does_not_end_the_watch(stage: Stage) -> None:
    """Where several clients share the loop, the package's logger tells it."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stage.lines.append(record.getMessage())
            raise LookupError

    @stage.handlers.on_message
    async def tick(message: object) -> None:
        stage.wait()

    stage.watch.clients.add(WatchedClient(stage.handlers, print, print))
    logging.getLogger("datastream_ws").addHandler(broken := Broken())
    try:
        with stage.blocked(lambda: tick(None)):
            for now in (10.0, 10.8):
                stage.watch.look(now, late=False)
    finally:
        logging.getLogger("datastream_ws").removeHandler(broken)
    assert len(stage.lines) == 1


def wrapped(function: Callable[[Any], Any]) -> Any:
    @functools.wraps(function)
    async def wrapper(message: Any) -> Any:
        return await function(message)

    return wrapper


def test_a_decorated_handler_has_its_own_name(stage: Stage) -> None:
    @stage.handlers.on_message
    @wrapped
    async def tick(message: object) -> None:
        stage.wait()

    with stage.blocked(lambda: tick(None)):
        stage.watch.look(0.0, late=False)
        stage.watch.look(1.0, late=False)
    assert ".<locals>.tick has blocked" in stage.lines[0]


def test_an_inline_handler_is_told_what_to_leave_out(stage: Stage) -> None:
    @stage.handlers.on_message(inline=True)
    def tick(message: Message) -> None:
        stage.wait()

    async def receive() -> None:
        stage.thread.loop.call_soon(lambda: tick(None))  # type: ignore[arg-type]

    with stage.blocked(receive):
        stage.watch.look(0.0, late=False)
        stage.watch.look(1.0, late=False)
    assert ".<locals>.tick has blocked" in stage.lines[0]
    assert stage.lines[0].endswith("; make it faster, or remove inline=True")


def test_what_is_no_handler_is_told_by_the_functions_name(stage: Stage) -> None:
    async def poll() -> None:
        stage.wait()

    with stage.blocked(poll):
        stage.watch.look(0.0, late=False)
        stage.watch.look(1.0, late=False)
    assert ".<locals>.poll has blocked" in stage.lines[0]
    assert stage.lines[0].endswith("; run blocking calls with asyncio.to_thread()")


def test_a_process_that_did_not_run_was_not_blocked(stage: Stage) -> None:
    """Stopped by SIGSTOP or a debugger, or starved: the look itself comes late then."""

    async def poll() -> None:
        stage.wait()

    with stage.blocked(poll):
        stage.watch.look(0.0, late=False)
        stage.watch.look(100.0, late=True)
        stage.watch.look(100.5, late=False)
        assert not stage.lines
        stage.watch.look(101.0, late=False)
        assert len(stage.lines) == 1, "it goes on being blocked"


def test_whoever_stands_at_a_breakpoint_is_left_alone(stage: Stage) -> None:
    class Keyboard:
        def readline(self) -> str:
            stage.wait()
            return "continue\n"

    async def poll() -> None:
        pdb.Pdb(stdin=Keyboard(), stdout=sys.stderr).set_trace()  # type: ignore[arg-type]
        await asyncio.sleep(0)

    with stage.blocked(poll):
        stage.watch.look(0.0, late=False)
        stage.watch.look(1.0, late=False)
    assert not stage.lines


def test_a_loop_that_waits_is_not_called_blocked(stage: Stage) -> None:
    stage.watch.look(0.0, late=False)
    stage.answer()
    stage.watch.look(1.0, late=False)
    stage.answer()
    stage.watch.look(2.0, late=False)
    assert not stage.lines


def test_a_loop_that_does_not_run_between_two_calls_is_not_called_blocked() -> None:
    lines = list[str]()
    loop = asyncio.new_event_loop()

    async def make() -> LoopWatch:
        watch = LoopWatch(loop)
        watch.clients.add(WatchedClient(Handlers(), lines.append, print))
        return watch

    watch = loop.run_until_complete(make())
    for now in (0.0, 1.0, 2.0):
        watch.look(now, late=False)
    loop.close()
    for now in (3.0, 4.0, 5.0):
        watch.look(now, late=False)
    assert not lines


def test_of_two_clients_the_one_with_the_handler_tells(stage: Stage) -> None:
    @stage.handlers.on_ready
    async def hello() -> None:
        stage.wait()

    others = list[str]()
    stage.watch.clients.add(WatchedClient(Handlers(), others.append, print))
    with stage.blocked(hello):
        stage.watch.look(0.0, late=False)
        stage.watch.look(1.0, late=False)
    assert len(stage.lines) == 1
    assert not others


def test_what_is_nobodys_alone_is_told_once_for_all(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def poll() -> None:
        stage.wait()

    stage.watch.clients.add(WatchedClient(Handlers(), stage.lines.append, print))
    with stage.blocked(poll):
        stage.watch.look(0.0, late=False)
        stage.watch.look(1.0, late=False)
    assert not stage.lines
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert ".poll has blocked the event loop" in caplog.text


def test_one_thread_looks_and_ends_with_the_last_client(stage: Stage) -> None:
    loop, watches = stage.thread.loop, Watches()
    clients = [WatchedClient(Handlers(), print, print) for _ in range(3)]

    async def watch() -> None:
        for client in clients:
            watches.add(loop, client)

    stage.thread.run(watch())
    thread = watches._thread
    assert thread is not None
    for client in [*clients, *clients]:
        watches.remove(loop, client)
    thread.join(10)
    assert not thread.is_alive()
    assert watches._thread is None


def test_a_loop_that_was_closed_is_forgotten() -> None:
    """With clients on it that nobody closed, which are told."""
    watches, told = Watches(), []

    async def watch() -> None:
        client = WatchedClient(Handlers(), print, lambda: told.append("closed"))
        watches.add(asyncio.get_running_loop(), client)

    asyncio.run(watch())
    thread = watches._thread
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    assert not watches._loops
    assert told == ["closed"]


def test_a_client_that_ends_while_its_block_is_told(stage: Stage) -> None:
    """The look goes on with the clients that the loop had when it began."""

    def ending(code: object) -> None:
        stage.watch.clients.clear()

    stage.handlers.find = ending  # type: ignore[method-assign]

    async def block() -> None:
        stage.wait()

    with stage.blocked(block):
        stage.watch.look(10.0, late=False)
        stage.watch.look(11.0, late=False)
    assert len(stage.lines) == 1
