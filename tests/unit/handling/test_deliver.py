"""A message through the handlers without a network."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from datastream_ws import DecodeError, HandlerError, Handlers, Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.callers import InlineCaller, LoopCaller, drive
from datastream_ws.handling.deliver import deliver
from datastream_ws.messages import Origin

A = '{"type": "a"}'


class Rig:
    """Handlers that write into a log."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.log: list[Any] = []
        self.reported: list[BaseException] = []

    def on(self, name: str, error: BaseException | None = None, **conditions: Any) -> None:
        def handle(message: Message) -> None:
            self.log.append(name)
            if error is not None:
                raise error

        handle.__qualname__ = name
        register: Any = self.handlers.on_message(**conditions)
        register(handle)

    def deliver(self, data: str | bytes = A, *, robust: bool = False, route: Any = "type") -> None:
        message = Message(data, Origin("default", 0, 1, JsonCodec(), route), 1, 0.0)
        report = self.reported.append
        drive(deliver(self.handlers, message, InlineCaller(), robust=robust, report=report))

    @property
    def errors(self) -> list[str]:
        return [f"{error}" for error in self.reported]


def test_in_order_of_registration() -> None:
    rig = Rig()
    rig.on("first")
    rig.on("other", route="b")
    rig.on("second", route="a")
    rig.deliver()
    assert rig.log == ["first", "second"]


def test_raises_what_the_first_failing_handler_raises() -> None:
    rig = Rig()
    rig.on("first", ValueError("boom"))
    rig.on("second")
    with pytest.raises(ValueError, match="boom"):
        rig.deliver()
    assert (rig.log, rig.reported) == (["first"], [])


def test_robust_goes_on_and_reports_each_by_name() -> None:
    """As production does."""
    rig = Rig()
    rig.on("shop.first", ValueError("secret"))
    rig.on("shop.second")
    rig.on("shop.third", KeyError("secret"))
    told: list[BaseException] = []
    kept: list[HandlerError] = []
    rig.handlers.hooks["on_error"] = ()
    rig.handlers.add_hook("on_error", told.append)
    rig.handlers.on_failure.append(kept.append)
    rig.deliver(robust=True)
    assert rig.log == ["shop.first", "shop.second", "shop.third"]
    first, third = rig.errors
    assert "shop.first failed with ValueError" in first
    assert "shop.third failed with KeyError" in third
    assert rig.reported == told == kept
    assert "secret" not in f"{first} {third}"


def test_robust_reports_a_hook_that_fails() -> None:
    rig = Rig()
    rig.on("shop.first", ValueError())
    rig.on("shop.second")

    def broken(error: BaseException) -> None:
        raise ZeroDivisionError

    rig.handlers.add_hook("on_error", broken)
    rig.deliver(robust=True)
    assert rig.log == ["shop.first", "shop.second"]
    assert ["broken failed with ZeroDivisionError" in each for each in rig.errors] == [False, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)], ids=["interrupt", "exit"])
def test_an_interrupt_is_the_callers(error: BaseException) -> None:
    rig = Rig()
    rig.on("first", error)
    with pytest.raises(type(error)):
        rig.deliver(robust=True)
    assert rig.reported == []


@pytest.mark.parametrize("robust", [False, True])
def test_undecodable(robust: bool) -> None:
    """No handler takes it: in production a failure."""
    rig = Rig()
    rig.on("first", route="a")
    if not robust:
        with pytest.raises(DecodeError):
            rig.deliver(b"\x1f\x8b")
        return
    rig.deliver(b"\x1f\x8b", robust=True)
    [error] = rig.reported
    assert isinstance(error.__cause__, DecodeError)


def test_route_that_raises() -> None:
    rig = Rig()
    rig.on("first", route="a")
    rig.deliver(robust=True, route=lambda message: 1 / 0)
    assert rig.errors == ["the option route failed with ZeroDivisionError"]
    with pytest.raises(ZeroDivisionError):
        rig.deliver(route=lambda message: 1 / 0)


def test_inline_handlers_come_first() -> None:
    """And default ones not at all, for the message is taken."""
    rig = Rig()
    rig.on("first")
    rig.on("default", default=True)
    rig.on("inline", route="a", inline=True)
    rig.deliver()
    assert rig.log == ["inline", "first"]


def test_batches_and_types() -> None:
    rig = Rig()
    rig.handlers.on_batch(10, 60)(lambda given: rig.log.append(len(given)))
    rig.deliver()
    assert rig.log == [1]


def test_coroutine_handlers_run_on_a_loop_of_their_own() -> None:
    rig = Rig()

    async def coroutine(message: Message) -> None:
        await asyncio.sleep(0)
        rig.log.append("coroutine")

    rig.handlers.on_message(coroutine)
    rig.deliver()
    assert rig.log == ["coroutine"]


async def test_on_the_loop() -> None:
    """Coroutine handlers and hooks are awaited here."""
    rig = Rig()
    here = asyncio.current_task()

    async def coroutine(message: Message) -> None:
        await asyncio.sleep(0)
        rig.log.append(asyncio.current_task() is here)
        raise ValueError

    async def hook(error: BaseException) -> None:
        await asyncio.sleep(0)
        rig.log.append("hook")

    rig.handlers.on_message(coroutine)
    rig.handlers.add_hook("on_error", hook)
    message = Message(A, Origin("default", 0, 1, JsonCodec(), "type"), 1, 0.0)
    caller = LoopCaller(asyncio.Event())
    await deliver(rig.handlers, message, caller, robust=True, report=rig.reported.append)
    assert rig.log == [True, "hook"]


async def test_the_end_of_the_callers_task_is_its_own() -> None:
    rig = Rig()

    async def hang(message: Message) -> None:
        rig.log.append("called")
        await asyncio.sleep(3600)

    rig.handlers.on_message(hang)
    message = Message(A, Origin("default", 0, 1, JsonCodec(), "type"), 1, 0.0)
    caller = LoopCaller(asyncio.Event())
    task = asyncio.create_task(deliver(rig.handlers, message, caller, robust=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.log == ["called"]
