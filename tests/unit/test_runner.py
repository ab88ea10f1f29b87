"""The runner's start and end, with clients that do as they are told; no network."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws import Client, ConfigurationError, State
from datastream_ws.process import loop_use
from datastream_ws.process.loop_thread import LoopThread
from datastream_ws.runner import EXIT_FAILED, EXIT_FORCED, EXIT_OK, SIGNAL, Runner

FAST: dict[str, Any] = {
    "min_reconnect_delay": 0.01,
    "max_reconnect_delay": 0.01,
    "max_reconnect_attempts": None,
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def client(name: str, **options: Any) -> Client:
    return Client("ws://localhost:1", name=name, **{**FAST, **options})


def test_a_start_that_raises_closes_those_that_run() -> None:
    running, idle = client("running"), client("idle")
    broken = client("broken", lease="redis://localhost:notaport")
    with pytest.raises(ConfigurationError):
        Runner([running, broken, idle]).run()
    assert [each.state for each in (running, broken, idle)] == [
        State.CLOSED,
        State.IDLE,
        State.IDLE,
    ]
    assert not loop_use._process.uses


def run_with_signals(runner: Runner, after: threading.Event, *signals: str) -> int:
    """Run, as in the main thread, with signals once the event is set."""

    def tell() -> None:
        assert after.wait(10)
        for each in signals:
            runner._words.put(each)

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        return runner.run()
    finally:
        teller.join()


def until_connecting(*clients: Client) -> threading.Event:
    connecting = threading.Event()
    clients[-1].on_state(lambda event: connecting.set())
    return connecting


def test_a_signal_closes_all() -> None:
    clients = [client("a"), client("b")]
    code = run_with_signals(Runner(clients), until_connecting(*clients), SIGNAL)
    assert code == EXIT_OK
    assert {each.state for each in clients} == {State.CLOSED}


def test_one_that_fails_closes_the_others() -> None:
    clients = [client("a"), client("b", max_reconnect_attempts=1)]
    assert Runner(clients).run() == EXIT_FAILED
    assert [each.state for each in clients] == [State.CLOSED, State.FAILED]


@pytest.mark.parametrize("signals", [1, 2])
def test_a_loop_that_is_blocked_is_not_waited_for(signals: int) -> None:
    """Neither when the first signal's time is over, nor after a second one."""
    begun, go = threading.Event(), threading.Event()

    async def url() -> str:
        begun.set()
        go.wait(30)
        return "ws://localhost:1"

    other, stuck = client("other"), Client(url, name="stuck", **FAST)
    thread: list[LoopThread | None] = []
    stuck.on_state(lambda event: thread.append(stuck._loop_thread))
    runner = Runner([other, stuck], shutdown_timeout=0.1 if signals == 1 else 30, beat_interval=60)
    began = time.monotonic()
    try:
        assert run_with_signals(runner, begun, *[SIGNAL] * signals) == EXIT_FORCED
        assert time.monotonic() - began < 5
        assert {stuck.state, other.state} == {State.CLOSED}
    finally:
        go.set()
    assert thread[0] is None or thread[0].stop(5)
