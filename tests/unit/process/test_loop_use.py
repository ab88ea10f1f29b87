"""The loop's thread comes with the first use and goes with the last."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from datastream_ws.process import loop_use as module
from datastream_ws.process.loop_use import (
    CLOSE_GRACE,
    LoopUse,
    abandon_loop,
    end_loop_use,
    use_loop,
)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[module.Process]:
    own = module.Process()
    monkeypatch.setattr(module, "_process", own)
    yield own
    for use in list(own.uses):
        end_loop_use(use)


class Running:
    """A client that ends when it is told, or does not."""

    def __init__(self, close_timeout: float = 0.0) -> None:
        self.close_timeout = close_timeout
        self.asked_at: float | None = None
        self.ended_by: float | None = None

    def _ask_close(self, timeout: float | None) -> float:
        assert timeout is None
        self.asked_at = time.monotonic()
        return self.asked_at + self.close_timeout + CLOSE_GRACE

    def _end_by(self, deadline: float) -> None:
        self.ended_by = deadline


def test_the_first_use_begins_and_the_last_one_ends_the_thread(process: module.Process) -> None:
    first, second = use_loop(Running()), use_loop(Running())
    assert first.thread is second.thread is process.loop_thread
    end_loop_use(first)
    end_loop_use(first)
    assert second.thread.responds(5)
    end_loop_use(second)
    assert second.thread.loop.is_closed()
    assert not process.uses
    end_loop_use(second)


def test_a_new_use_after_the_last_one_has_a_new_thread() -> None:
    first = use_loop(Running())
    end_loop_use(first)
    second = use_loop(Running())
    assert second.thread is not first.thread
    end_loop_use(first)
    assert second.thread.responds(5), "an old use ends nothing of the new one"


@pytest.mark.parametrize("where", ["LoopUse", "LoopThread"])
def test_a_finalizer_that_closes_a_client_while_another_one_starts(
    process: module.Process, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The garbage collector may run anywhere, also while its thread holds the lock."""
    first = use_loop(Running())
    if where == "LoopThread":
        abandon_loop(first.thread)  # so that there will be a new one
    made = getattr(module, where)

    def make(*arguments: object) -> object:
        it = made(*arguments)
        end_loop_use(first)
        return it

    monkeypatch.setattr(module, where, make)
    started: list[LoopUse] = []
    starting = threading.Thread(target=lambda: started.append(use_loop(Running())), daemon=True)
    starting.start()
    starting.join(10)
    assert not starting.is_alive()
    assert started[0].thread.responds(5)
    assert process.uses == set(started)


class Blocked:
    """User code that blocks the loop of a use until the block ends."""

    def __init__(self, use: LoopUse) -> None:
        self.use = use
        self.go = threading.Event()

    def __enter__(self) -> Blocked:
        begun = threading.Event()

        def block() -> None:
            begun.set()
            self.go.wait(30)

        self.use.thread.loop.call_soon_threadsafe(block)
        assert begun.wait(5)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.go.set()
        assert self.use.thread.stop(5)


def test_a_thread_that_is_blocked_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    use = use_loop(Running())
    with Blocked(use):
        began = time.monotonic()
        end_loop_use(use, began + 0.05)
        end_loop_use(use, began + 0.1)
        assert time.monotonic() - began < 5
        assert caplog.text.count("user code blocks the event loop") == 1
        assert "in block" in caplog.text
        later = use_loop(Running())
        assert later.thread.responds(5)


def test_those_who_start_later_are_given_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    stuck, beside = use_loop(Running()), use_loop(Running())
    with Blocked(stuck):
        abandon_loop(stuck.thread)
        abandon_loop(stuck.thread)
        later = use_loop(Running())
        assert later.thread.responds(5)
        abandon_loop(stuck.thread)
        assert use_loop(Running()).thread is later.thread
        end_loop_use(stuck, 0.0)
        assert not caplog.text, "whoever abandons it logs that"
    assert not beside.thread.loop.is_closed() or beside.thread.stop(5)
    end_loop_use(beside)


def test_the_end_is_waited_for_until_the_deadline() -> None:
    use = use_loop(Running())
    assert use.wait(0.0), "not begun"
    use.finished = Future()
    assert not use.wait(time.monotonic())
    threading.Timer(0.02, use.finished.set_result, [None]).start()
    assert use.wait(time.monotonic() + 30)


def test_at_exit_all_are_asked_before_any_is_waited_for() -> None:
    clients = [Running(0.5), Running(2.0), Running()]
    for client in clients:
        use_loop(client)
    module._close_all()
    asked = [client.asked_at for client in clients]
    assert None not in asked
    ended = [client.ended_by for client in clients]
    assert [
        None if at is None or by is None else pytest.approx(by - at)
        for at, by in zip(asked, ended, strict=True)
    ] == [1.5, 3.0, 1.0]


async def test_the_last_use_may_end_where_a_loop_runs() -> None:
    use = use_loop(Running())
    end_loop_use(use)
    assert use.thread.loop.is_closed()
    assert asyncio.get_running_loop().is_running()
