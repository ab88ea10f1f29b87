"""Hooks: called in order, one after the other, each where it belongs; their errors reported."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from datastream_ws import HandlerError, Handlers
from datastream_ws.handling.current import handling
from datastream_ws.handling.hooks import LONGEST_QUEUE, Hooks
from datastream_ws.process.handler_threads import HandlerThreads


class Stream:
    """Hooks with nothing around them; what they say goes into the log."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.log: list[Any] = []
        self.reported: list[BaseException] = []
        self.logged: list[BaseException] = []
        self.hooks = Hooks(
            owner=self,
            handlers=self.handlers,
            submit=HandlerThreads().submit,
            report=self.reported.append,
            log=self.logged.append,
        )

    def hook(
        self,
        kind: str,
        name: str,
        *,
        is_async: bool = False,
        step: Callable[[], Any] = lambda: None,
    ) -> Callable[..., Any]:
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
        return function  # type: ignore[no-any-return]

    async def called(self, times: int = 1) -> None:
        """Wait until so many hooks have begun."""
        async with asyncio.timeout(10):
            while len(self.log) < times:  # noqa: ASYNC110 - a fact of other threads
                await asyncio.sleep(0.001)

    async def finish(self) -> None:
        await self.hooks.finish(10)
        assert self.hooks._task is None


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    made = Stream()
    yield made
    await made.hooks.finish(0.1)


BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


async def test_no_hooks(stream: Stream) -> None:
    """Nothing happens, and nothing has to be waited for."""
    stream.hooks.call("on_connect")
    await stream.hooks.call_and_wait("on_ready")
    await stream.finish()
    assert stream.log == []


async def test_order_among_themselves(stream: Stream) -> None:
    """Plain and coroutine hooks, of whatever kind: as they were called for."""
    stream.hook("on_connect", "a")
    stream.hook("on_connect", "b", is_async=True)
    stream.hook("on_state", "c")
    for n in range(3):
        stream.hooks.call("on_connect")
        stream.hooks.call("on_state", n)
    await stream.finish()
    assert stream.log == [
        ("a",),
        ("b",),
        ("c", 0),
        ("a",),
        ("b",),
        ("c", 1),
        ("a",),
        ("b",),
        ("c", 2),
    ]


async def test_other_kinds_are_not_called(stream: Stream) -> None:
    """Each hook hears of its own."""
    stream.hook("on_gap", "gap")
    stream.hooks.call("on_disconnect", "event")
    await stream.finish()
    assert stream.log == []


@BOTH
async def test_where_hooks_run(stream: Stream, is_async: bool) -> None:
    """Plain ones on a thread, coroutine functions on the loop; never at once in the caller."""
    here, seen = threading.get_ident(), []

    def look() -> None:
        seen.append((threading.get_ident() == here, handling.get() is stream))

    stream.hook("on_connect", "a", is_async=is_async, step=look)
    stream.hooks.call("on_connect")
    assert seen == []
    await stream.finish()
    assert seen == [(is_async, True)]
    assert handling.get() is None


async def test_a_slow_hook_holds_up_the_hooks_behind_it_only(stream: Stream) -> None:
    """The loop goes on meanwhile."""
    release = threading.Event()
    stream.hook("on_connect", "slow", step=lambda: release.wait(10))
    stream.hook("on_state", "next")
    stream.hooks.call("on_connect")
    stream.hooks.call("on_state", 1)
    await stream.called()
    await asyncio.sleep(0.02)
    assert stream.log == [("slow",)]
    release.set()
    await stream.finish()
    assert stream.log == [("slow",), ("next", 1)]


# --- hooks that raise -------------------------------------------------------------------------


def fail() -> None:
    raise KeyError("secret")


@BOTH
@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()], ids=repr)
async def test_a_hook_that_raises(stream: Stream, is_async: bool, error: BaseException) -> None:
    """Reported with its name and cause; those behind it are called."""

    def raise_it() -> None:
        raise error

    function = stream.hook("on_connect", "bad", is_async=is_async, step=raise_it)
    stream.hook("on_connect", "good")
    stream.hooks.call("on_connect")
    await stream.finish()
    [reported] = stream.reported
    assert isinstance(reported, HandlerError)
    assert reported.handler is function
    assert reported.message is None
    assert reported.__cause__ is error
    assert "on_connect hook" in str(reported)
    assert "bad" in str(reported)
    assert stream.log == [("bad",), ("good",)]


@BOTH
async def test_an_error_hook_that_raises_is_only_logged(stream: Stream, is_async: bool) -> None:
    """Reporting it would call it again, for ever."""
    stream.hook("on_error", "bad", is_async=is_async, step=fail)
    stream.hooks.call("on_error", ValueError("first"))
    await stream.finish()
    assert stream.reported == []
    assert [type(error.__cause__) for error in stream.logged] == [KeyError]
    assert "secret" not in str(stream.logged[0])


async def test_errors_for_a_slow_hook_are_bounded(stream: Stream) -> None:
    """A storm of errors must not fill the memory; other hooks are not left out."""
    release = threading.Event()
    stream.hook("on_connect", "slow", step=lambda: release.wait(10))
    stream.hook("on_error", "error")
    stream.hook("on_state", "state")
    stream.hooks.call("on_connect")
    for n in range(3 * LONGEST_QUEUE):
        stream.hooks.call("on_error", n)
    stream.hooks.call("on_state", "last")
    release.set()
    await stream.finish()
    assert len(stream.log) <= LONGEST_QUEUE + 3
    assert stream.log[-1] == ("state", "last")


# --- hooks that are waited for ----------------------------------------------------------------


@BOTH
async def test_waiting_for_hooks(stream: Stream, is_async: bool) -> None:
    """After those that wait already, each in its turn."""
    stream.hook("on_connect", "connect")
    stream.hook("on_ready", "one", is_async=is_async)
    stream.hook("on_ready", "two", is_async=is_async)
    stream.hooks.call("on_connect")
    await stream.hooks.call_and_wait("on_ready")
    assert stream.log == [("connect",), ("one",), ("two",)]


@BOTH
async def test_waiting_for_a_hook_that_raises(stream: Stream, is_async: bool) -> None:
    """It raises what failed, which is then not reported a second time here."""
    function = stream.hook("on_ready", "bad", is_async=is_async, step=fail)
    with pytest.raises(HandlerError, match=r"on_ready hook .*bad failed with KeyError") as caught:
        await stream.hooks.call_and_wait("on_ready")
    assert caught.value.handler is function
    assert isinstance(caught.value.__cause__, KeyError)
    await stream.finish()
    assert stream.reported == []


async def test_waiting_for_two_hooks_that_raise(stream: Stream) -> None:
    """The first one's error ends the attempt; asyncio has nothing to complain of."""
    stream.hook("on_ready", "bad", step=fail)
    stream.hook("on_ready", "worse", step=fail)
    with pytest.raises(HandlerError, match="bad"):
        await stream.hooks.call_and_wait("on_ready")
    await stream.finish()
    assert stream.log[0] == ("bad",)


async def test_a_coroutine_hook_nobody_waits_for_any_more_is_cancelled(stream: Stream) -> None:
    """ready_timeout is over: it must not go on beside the next connection's."""
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    stream.hook("on_ready", "late", is_async=True, step=hang)
    stream.hook("on_state", "state")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await stream.hooks.call_and_wait("on_ready")
    async with asyncio.timeout(5):
        await ended.wait()
    stream.hooks.call("on_state", 1)
    await stream.finish()
    assert stream.log == [("late",), ("state", 1)]


async def test_a_plain_hook_nobody_waits_for_any_more(stream: Stream) -> None:
    """A thread cannot be stopped: it ends by itself, then the others have their turn."""
    release = threading.Event()
    stream.hook("on_ready", "late", step=lambda: release.wait(10))
    stream.hook("on_state", "state")
    ready = asyncio.ensure_future(stream.hooks.call_and_wait("on_ready"))
    await stream.called()
    ready.cancel()
    stream.hooks.call("on_state", 1)
    await asyncio.sleep(0.02)
    assert ready.cancelled()
    assert stream.log == [("late",)]
    release.set()
    await stream.finish()
    assert stream.log == [("late",), ("state", 1)]


async def test_hook_that_is_cancelled_by_itself(stream: Stream) -> None:
    """A CancelledError out of a hook is that hook's failure, not the end of all hooks."""

    def cancel() -> None:
        raise asyncio.CancelledError

    stream.hook("on_ready", "odd", is_async=True, step=cancel)
    stream.hook("on_connect", "odd too", step=cancel)
    stream.hook("on_state", "state")
    with pytest.raises(HandlerError, match="CancelledError"):
        await stream.hooks.call_and_wait("on_ready")
    stream.hooks.call("on_connect")
    stream.hooks.call("on_state", 1)
    await stream.finish()
    assert stream.log[-1] == ("state", 1)
    assert [type(error.__cause__) for error in stream.reported] == [asyncio.CancelledError]


# --- contexts and the end ---------------------------------------------------------------------


@BOTH
async def test_contexts_around_hooks(stream: Stream, is_async: bool) -> None:
    """Each hook is a run of its own, with its contexts."""

    @contextmanager
    def context(name: str) -> Iterator[None]:
        stream.log.append(f"+{name}")
        yield
        stream.log.append(f"-{name}")

    stream.handlers.use(lambda: context("run"), per="run")
    stream.handlers.use(lambda: context("call"))
    stream.hook("on_connect", "hook", is_async=is_async)
    stream.hooks.call("on_connect")
    await stream.finish()
    assert stream.log == ["+run", "+call", ("hook",), "-call", "-run"]


async def test_asynchronous_contexts_around_coroutine_hooks(stream: Stream) -> None:
    """And not around plain ones."""

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        stream.log.append("+")
        yield
        stream.log.append("-")

    stream.handlers.use(context)
    stream.hook("on_connect", "plain")
    stream.hook("on_connect", "async", is_async=True)
    stream.hooks.call("on_connect")
    await stream.finish()
    assert stream.log == [("plain",), "+", ("async",), "-"]


async def test_finish_makes_the_calls_that_wait(stream: Stream) -> None:
    """on_state(CLOSED) is among them."""
    stream.hook("on_state", "state")
    for n in range(20):
        stream.hooks.call("on_state", n)
    await stream.finish()
    assert stream.log == [("state", n) for n in range(20)]


async def test_finish_gives_up_in_time(stream: Stream) -> None:
    """What hangs must not hold up the end; the rest is not called."""
    release = threading.Event()
    stream.hook("on_state", "hang", step=lambda: release.wait(10))
    stream.hooks.call("on_state", 1)
    stream.hooks.call("on_state", 2)
    await stream.called()
    await stream.hooks.finish(0.02)
    release.set()
    await asyncio.sleep(0.02)
    assert stream.log == [("hang", 1)]
