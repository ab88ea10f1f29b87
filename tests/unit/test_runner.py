"""The runner's start and end, with clients that do as they are told; no network."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws import Client, ConfigurationError, Fleet, State
from datastream_ws.process import loop_use
from datastream_ws.process.loop_use import LoopUse
from datastream_ws.runner import EXIT_FAILED, EXIT_FORCED, EXIT_OK, SIGNAL, Runner
from datastream_ws.testing import StreamServer

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
    uses: list[LoopUse | None] = []
    stuck.on_state(lambda event: uses.append(stuck._loop_use))
    runner = Runner([other, stuck], shutdown_timeout=0.1 if signals == 1 else 30, beat_interval=60)
    began = time.monotonic()
    try:
        assert run_with_signals(runner, begun, *[SIGNAL] * signals) == EXIT_FORCED
        assert time.monotonic() - began < 5
        assert {stuck.state, other.state} == {State.CLOSED}
    finally:
        go.set()
    assert uses[0] is None or uses[0].thread.stop(5)


def test_a_beat_that_keeps_failing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A log line for each beat would fill the disk that is full."""
    logging.disable(logging.NOTSET)
    beats: list[Any] = []
    enough = threading.Event()

    def fail(streams: Any) -> None:
        beats.append(streams)
        if len(beats) >= 10:
            enough.set()
        if len(beats) != 5:
            raise OSError("no space")

    runner = Runner([client("x")], on_beat=fail, beat_interval=0.01)
    assert run_with_signals(runner, enough, SIGNAL) == EXIT_OK
    assert sum("cannot be stored: no space" in text for text in caplog.messages) == 2


# --- fleets ----------------------------------------------------------------------------------


def test_a_fleet_runs_until_the_signal_and_goes_on_without_failed_streams() -> None:
    rows = {key: {"url": "ws://localhost:1"} for key in (1, 2)}
    options = FAST | {"max_reconnect_attempts": 1, "fatal_delay": None}
    fleet = Fleet(lambda: rows, name="accounts", **options)
    failed = threading.Event()
    beats: list[Any] = []

    def note(beat: Any) -> None:
        beats.append(beat)
        if beat[0].streams == {"failed": 2} and beat[0].state == "waiting":
            failed.set()

    runner = Runner([fleet], on_beat=note, beat_interval=0.05)
    assert run_with_signals(runner, failed, SIGNAL) == EXIT_OK
    assert not fleet.is_running
    [last] = beats[-1]
    assert (last.name, last.state, last.source_size) == ("accounts", "closed", 2)


def test_a_fleet_handles_exactly_so_many_messages() -> None:
    handled: list[Any] = []
    with StreamServer() as server:
        rows = {key: {"url": f"{server.url}/{key}"} for key in range(3)}
        fleet = Fleet(lambda: rows, **FAST)
        fleet.on_message(handled.append)

        def talk() -> None:
            server.wait_connected(3, 20)
            for n in range(5):
                server.send({"n": n})

        talking = threading.Thread(target=talk)
        talking.start()
        assert Runner([fleet], max_messages=7).run() == EXIT_OK
        talking.join()
    assert len(handled) == 7
