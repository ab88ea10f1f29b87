"""The user's functions among the options: shared while they run, and never on the loop unseen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

from datastream_ws.process.handler_threads import HandlerThreads
from datastream_ws.process.user_calls import UserCalls


class Desk:
    """Calls, and what is slow among them."""

    def __init__(self) -> None:
        self.pool = HandlerThreads()
        self.slow: list[Any] = []
        self.calls = UserCalls(self.pool.submit, self.slow.append)


@pytest.fixture
def desk() -> Iterator[Desk]:
    it = Desk()
    yield it
    it.pool.join(5)


async def until(fact: Callable[[], bool]) -> None:
    while True:
        if fact():
            return
        await asyncio.sleep(0)


class Token:
    """A function that answers when it may, by numbers."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[Any] = []
        self.threads: set[int] = set()

    def plain(self, *arguments: Any) -> int:
        self.calls.append(arguments)
        self.threads.add(threading.get_ident())
        self.go.wait(30)
        return len(self.calls)

    async def coroutine(self, *arguments: Any) -> int:
        self.calls.append(arguments)
        self.threads.add(threading.get_ident())
        await until(self.go.is_set)
        return len(self.calls)


@pytest.fixture(params=["plain", "coroutine"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def test_results_and_errors(desk: Desk, kind: str) -> None:
    token = Token()
    token.go.set()
    function = getattr(token, kind)
    assert await desk.calls.call(function) == 1
    assert await desk.calls.call(function, "x") == 2
    assert token.calls == [(), ("x",)]
    assert (threading.get_ident() in token.threads) == (kind == "coroutine")

    def fails() -> None:
        raise ZeroDivisionError

    async def fails_later() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await desk.calls.call(fails if kind == "plain" else fails_later)
    assert desk.slow == []


async def test_what_a_plain_function_returns_may_be_awaitable(desk: Desk) -> None:
    async def later() -> int:
        return 42

    assert await desk.calls.call(lambda: later()) == 42


async def test_a_function_that_hangs_is_shared(desk: Desk, kind: str) -> None:
    """A hundred attempts: one call, one thread, one word of it (b30)."""
    token = Token()
    function = getattr(token, kind)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(desk.calls.call(function), 0.0005)
    assert len(token.calls) == 1
    assert len(desk.pool._alive) <= 1
    assert desk.slow == [function]
    both = asyncio.gather(desk.calls.call(function), desk.calls.call(function))
    await asyncio.sleep(0)
    token.go.set()
    assert list(await both) == [1, 1]
    assert await desk.calls.call(function) == 2, "after its end it is called again"


@pytest.mark.parametrize("ending", ["result", "error"])
async def test_what_comes_when_nobody_waits_is_discarded(desk: Desk, ending: str) -> None:
    token = Token()

    def once() -> int:
        number = token.plain()
        if ending == "error" and number == 1:
            raise ZeroDivisionError
        return number

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(desk.calls.call(once), 0.01)
    token.go.set()
    await until(lambda: not desk.calls._running)
    assert await desk.calls.call(once) == 2


async def test_a_call_about_something_else_is_waited_for(desk: Desk) -> None:
    """`retry` is asked about each error by itself."""
    token = Token()
    first, second = Exception("same"), Exception("same")
    asking = [
        asyncio.ensure_future(desk.calls.call(token.plain, error))
        for error in (first, second, second)
    ]
    # A bound method is another object each time: what is shared is the function that is kept.
    plain = token.plain
    asking += [asyncio.ensure_future(desk.calls.call(plain, e)) for e in (first, second, second)]
    await asyncio.sleep(0.01)
    token.go.set()
    assert len(await asyncio.gather(*asking)) == 6
    of_plain = [call for call in token.calls if call == (second,)]
    assert len(token.calls) == 5
    assert len(of_plain) == 3


@pytest.mark.parametrize(
    "leaked", [asyncio.CancelledError, futures.CancelledError, SystemExit, KeyboardInterrupt]
)
async def test_what_is_no_exception_becomes_one(
    desk: Desk, kind: str, leaked: type[BaseException]
) -> None:
    """A leaked CancelledError is not taken for the caller's own, and SystemExit ends no loop."""

    def fails() -> None:
        raise leaked

    async def fails_later() -> None:
        raise leaked

    with pytest.raises((RuntimeError, futures.CancelledError)) as caught:
        await desk.calls.call(fails if kind == "plain" else fails_later)
    assert leaked.__name__ in repr(caught.value)


async def test_the_end_cancels_what_runs(desk: Desk) -> None:
    token = Token()
    waiting = asyncio.ensure_future(desk.calls.call(token.coroutine))
    await asyncio.sleep(0)
    desk.calls.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert desk.calls._running == {}
