"""The two lanes: the hooks of a connection, awaited, and the reports, queued."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest

from datastream_ws import HandlerError, Handlers, NotConnectedError
from datastream_ws.handling import hooks as module
from datastream_ws.handling.current import belongs_here, handling, passes_gate
from datastream_ws.handling.hooks import ConnectionHooks, HookFailure, Reports
from datastream_ws.process.handler_threads import HandlerThreads

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Stream:
    """Both lanes with nothing around them."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.log: list[Any] = []
        self.reported: list[BaseException] = []
        self.logged: list[BaseException] = []
        submit = HandlerThreads().submit
        self.warned: list[str] = []
        self.hooks = ConnectionHooks(
            owner=self,
            handlers=self.handlers,
            submit=submit,
            report=self.reported.append,
            warn=self.warned.append,
        )
        self.reports = Reports(
            owner=self,
            handlers=self.handlers,
            submit=submit,
            report=self.reported.append,
            log=self.logged.append,
            warn=self.warned.append,
        )

    def hook(
        self,
        kind: str,
        name: str,
        *,
        is_async: bool = False,
        step: Callable[[], Any] = lambda: None,
    ) -> None:
        """Register a hook that logs its name and arguments, then takes a step."""

        def plain(*arguments: Any) -> None:
            self.log.append((name, *arguments))
            step()

        async def coroutine(*arguments: Any) -> None:
            await asyncio.sleep(0)
            self.log.append((name, *arguments))
            if asyncio.iscoroutine(waiting := step()):
                await waiting

        function: Any = coroutine if is_async else plain
        function.__qualname__ = name
        getattr(self.handlers, kind)(function)

    async def logs(self, times: int) -> None:
        """Wait until so many have begun."""
        async with asyncio.timeout(10):
            while len(self.log) < times:  # noqa: ASYNC110 - a fact of other threads
                await asyncio.sleep(0.001)


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    made = Stream()
    yield made
    await made.reports.finish(0.1)


async def test_nothing_registered(stream: Stream) -> None:
    await stream.hooks.call("on_ready", object())
    stream.reports.put("on_state", "event")
    await stream.reports.finish(10)
    assert not stream.hooks.has("on_ready")
    assert stream.log == []


# --- the hooks of a connection -----------------------------------------------------------------


async def test_hooks_in_order_of_registration(stream: Stream) -> None:
    for number in range(4):
        stream.hook("on_ready", str(number), is_async=number % 2 == 1)
    await stream.hooks.call("on_ready", object())
    assert stream.log == [("0",), ("1",), ("2",), ("3",)]
    assert stream.hooks.has("on_ready")


async def test_a_late_failure_of_a_hook_is_no_noise(stream: Stream) -> None:
    """The call for the next connection waits for it, and asyncio called its error unretrieved."""
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    go = threading.Event()
    fails = [True, False]

    def step() -> None:
        if fails.pop(0):
            go.wait(10)
            raise ZeroDivisionError

    stream.hook("on_ready", "late", step=step)
    first = asyncio.create_task(stream.hooks.call("on_ready", object()))
    await stream.logs(1)
    first.cancel()
    second = asyncio.create_task(stream.hooks.call("on_ready", object()))
    await asyncio.wait([first])
    go.set()
    await second
    del first, second  # whose frames hold the call
    await asyncio.sleep(0.05)  # the thread lets go of it, too
    gc.collect()
    assert noise == []


@BOTH
@pytest.mark.parametrize(
    ("error", "is_reported"), [(ZeroDivisionError(), True), (NotConnectedError("lost"), False)]
)
async def test_a_hook_that_fails_after_its_call_was_canceled(
    stream: Stream, is_async: bool, error: Exception, is_reported: bool
) -> None:
    """It is reported, except for what the end of the connection itself has caused."""
    go = threading.Event()

    async def fail_on_loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    def fail() -> None:
        go.wait(10)
        raise error

    step: Callable[[], Any] = fail_on_loop if is_async else fail
    stream.hook("on_ready", "late", is_async=is_async, step=step)
    calling = asyncio.create_task(stream.hooks.call("on_ready", object()))
    await stream.logs(1)
    calling.cancel()
    await asyncio.wait([calling])
    go.set()
    async with asyncio.timeout(10):
        while stream.hooks._running or (is_reported and not stream.reported):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert calling.cancelled()
    assert [failure.__cause__ for failure in stream.reported] == [error] * is_reported


@BOTH
async def test_where_a_hook_is_called(stream: Stream, is_async: bool) -> None:
    """A plain one on a thread, a coroutine one on the loop; both know whose hook they are."""
    connection, seen = object(), []

    def look() -> None:
        on_loop = threading.current_thread() is threading.main_thread()
        seen.append((on_loop, handling.get() is stream, belongs_here(stream, connection)))
        seen.append((belongs_here(stream, object()), passes_gate(stream), passes_gate(object())))

    stream.hook("on_connect", "look", is_async=is_async, step=look)
    await stream.hooks.call("on_connect", connection)
    assert seen == [(is_async, True, True), (False, True, False)]
    assert handling.get() is None
    assert belongs_here(stream, object())


async def test_only_the_login_passes_the_gate(stream: Stream) -> None:
    seen: list[bool] = []
    stream.hook("on_ready", "x", step=lambda: seen.append(passes_gate(stream)))
    await stream.hooks.call("on_ready", object())
    assert seen == [False]


async def test_what_a_hook_has_started_is_free(stream: Stream) -> None:
    """A thread and a task outlive the connection: they may use the next one."""
    seen: list[bool] = []

    def look() -> None:
        seen.append(belongs_here(stream, object()) and handling.get() is None)

    async def in_task() -> None:
        look()

    async def start_task() -> None:
        await asyncio.create_task(in_task())

    def start_thread() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    stream.hook("on_ready", "task", is_async=True, step=start_task)
    stream.hook("on_ready", "thread", step=start_thread)
    await stream.hooks.call("on_ready", object())
    assert seen == [True, True]


@BOTH
@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), SystemExit(1)])
async def test_a_hook_that_raises(stream: Stream, is_async: bool, error: BaseException) -> None:
    """The rest is not called; the failure has what the hook raised, and what is reported."""

    def fail() -> None:
        raise error

    stream.hook("on_ready", "bad", is_async=is_async, step=fail)
    stream.hook("on_ready", "next")
    with pytest.raises(HookFailure) as caught:
        await stream.hooks.call("on_ready", object())
    assert caught.value.__cause__ is error
    assert isinstance(caught.value.report, HandlerError)
    assert caught.value.report.__cause__ is error
    assert "on_ready hook" in str(caught.value.report)
    assert [name for name, *_ in stream.log] == ["bad"]


async def test_a_coroutine_hook_ends_with_whoever_waits(stream: Stream) -> None:
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    stream.hook("on_ready", "hang", is_async=True, step=hang)
    waiting = asyncio.create_task(stream.hooks.call("on_ready", object()))
    await stream.logs(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert ended.is_set()


async def test_a_plain_hook_that_hangs_holds_one_thread(stream: Stream) -> None:
    """The next connection waits for it, and calls it after that."""
    let_go, calls = threading.Event(), []

    def hang() -> None:
        calls.append(threading.current_thread())
        let_go.wait(10)

    stream.hook("on_ready", "hang", step=hang)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await stream.hooks.call("on_ready", object())
    await stream.logs(1)
    assert len(calls) == 1
    let_go.set()
    await stream.hooks.call("on_ready", object())
    assert len(calls) == 2


@BOTH
async def test_contexts_around_hooks(stream: Stream, is_async: bool) -> None:
    @contextmanager
    def context() -> Iterator[None]:
        stream.log.append("in")
        yield
        stream.log.append("out")

    @asynccontextmanager
    async def async_context() -> AsyncIterator[None]:
        stream.log.append("async in")
        yield
        stream.log.append("async out")

    stream.handlers.use(context)
    stream.handlers.use(async_context)
    stream.hook("on_ready", "hook", is_async=is_async)
    await stream.hooks.call("on_ready", object())
    inner = ["async in", ("hook",), "async out"] if is_async else [("hook",)]
    assert stream.log == ["in", *inner, "out"]


# --- reports -----------------------------------------------------------------------------------


async def test_reports_in_order_of_their_events(stream: Stream) -> None:
    stream.hook("on_state", "plain")
    stream.hook("on_state", "coroutine", is_async=True)
    stream.hook("on_error", "error")
    for event in (1, 2):
        stream.reports.put("on_state", event)
    stream.reports.put("on_error", "e")
    await stream.reports.finish(10)
    assert stream.log == [
        ("plain", 1),
        ("coroutine", 1),
        ("plain", 2),
        ("coroutine", 2),
        ("error", "e"),
    ]


@BOTH
async def test_a_report_that_hangs_delays_reports_only(stream: Stream, is_async: bool) -> None:
    let_go = threading.Event()

    async def hang_on_loop() -> None:
        while not let_go.is_set():  # noqa: ASYNC110 - a fact of other threads
            await asyncio.sleep(0.001)

    step: Callable[[], Any] = hang_on_loop if is_async else (lambda: let_go.wait(10))
    stream.hook("on_state", "hangs", is_async=is_async, step=step)
    stream.hook("on_error", "behind")
    stream.hook("on_ready", "hook")
    stream.reports.put("on_state", 1)
    stream.reports.put("on_error", 2)
    await stream.logs(1)
    await stream.hooks.call("on_ready", object())
    assert stream.log == [("hangs", 1), ("hook",)]
    let_go.set()
    await stream.reports.finish(10)
    assert stream.log[-1] == ("behind", 2)


@BOTH
async def test_a_report_that_raises(stream: Stream, is_async: bool) -> None:
    """It is reported, and an on_error that raises is only logged; the others are called."""
    for kind in ("on_state", "on_error"):
        stream.hook(kind, kind, is_async=is_async, step=lambda: 1 / 0)
        stream.hook(kind, "next")
        stream.reports.put(kind, "x")
    await stream.reports.finish(10)
    assert [name for name, _ in stream.log] == ["on_state", "next", "on_error", "next"]
    for failures, kind in ((stream.reported, "on_state"), (stream.logged, "on_error")):
        (failure,) = failures
        assert isinstance(failure.__cause__, ZeroDivisionError)
        assert kind in str(failure)


async def test_a_report_that_is_cancelled_by_itself(stream: Stream) -> None:
    async def cancel() -> None:
        raise asyncio.CancelledError

    stream.hook("on_state", "cancels", is_async=True, step=cancel)
    stream.hook("on_state", "next")
    stream.reports.put("on_state", 1)
    await stream.reports.finish(10)
    assert [name for name, _ in stream.log] == ["cancels", "next"]
    assert isinstance(stream.reported[0].__cause__, asyncio.CancelledError)


async def test_what_does_not_fit_is_counted(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REPORTS", 3)
    let_go = threading.Event()
    stream.hook("on_error", "slow", step=lambda: let_go.wait(10))
    stream.reports.put("on_error", 0)
    await stream.logs(1)
    for number in range(1, 11):
        stream.reports.put("on_error", number)
    assert stream.reports.dropped == 7
    let_go.set()
    await stream.reports.finish(10)
    assert [number for _, number in stream.log] == [0, 1, 2, 3]


async def test_finishing_gives_up_in_time(stream: Stream) -> None:
    """What was still waiting is counted."""
    stream.hook("on_state", "hangs", is_async=True, step=lambda: asyncio.Event().wait())
    for number in range(3):
        stream.reports.put("on_state", number)
    await stream.logs(1)
    await stream.reports.finish(0.01)
    assert stream.log == [("hangs", 0)]
    assert stream.reports.dropped == 2
    assert stream.warned == []  # it has ended


@pytest.mark.parametrize("kind", ["on_state", "on_error"])
async def test_a_report_that_fails_after_it_was_given_up(stream: Stream, kind: str) -> None:
    """It is reported as any other."""
    go = threading.Event()

    def fail() -> None:
        go.wait(10)
        raise ZeroDivisionError

    stream.hook(kind, "late", step=fail)
    stream.reports.put(kind, "x")
    await stream.logs(1)
    await stream.reports.finish(0.01)
    assert "outlives the client" in stream.warned[0]
    go.set()
    told = stream.logged if kind == "on_error" else stream.reported
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110 - a fact of other threads
            await asyncio.sleep(0.001)
    assert isinstance(told[0].__cause__, ZeroDivisionError)


async def test_a_report_that_ignores_its_cancellation_is_named(stream: Stream) -> None:
    """With the place where it is; nobody waits for it, and nothing follows it."""
    go_on = asyncio.Event()

    async def stubborn() -> None:
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await go_on.wait()

    stream.hook("on_error", "stubborn", is_async=True, step=stubborn)
    stream.reports.put("on_error", 0)
    await stream.logs(1)
    async with asyncio.timeout(10):
        await stream.reports.finish(0.01)
    go_on.set()
    [line] = stream.warned
    assert "stubborn ignores its cancellation and outlives the client" in line
    assert "await go_on.wait()" in line
    stream.reports.put("on_error", 1)
    await asyncio.sleep(0.01)
    assert (stream.log, stream.reports.dropped) == ([("stubborn", 0)], 1)


async def test_a_report_that_hangs_in_a_thread_is_named(stream: Stream) -> None:
    go_on = threading.Event()
    stream.hook("on_error", "blocks", step=lambda: go_on.wait(10))
    stream.reports.put("on_error", 0)
    await stream.logs(1)
    async with asyncio.timeout(10):
        await stream.reports.finish(0.01)
    go_on.set()
    [line] = stream.warned
    assert line.endswith("blocks outlives the client; it is still running in a thread")
