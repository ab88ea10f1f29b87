"""However user code blocks the loop: start(), close(), run() and exit come to an end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws import AsyncClient, Client, ConfigurationError, NotConnectedError, State
from datastream_ws import client as module
from datastream_ws.lease import LeaseRenewal
from datastream_ws.lifecycle.closing import Closing
from datastream_ws.process import loop_use
from datastream_ws.process.loop_thread import LoopThread
from kit.offline import FakeLease

FAST: dict[str, Any] = {"min_reconnect_delay": 0.01, "max_reconnect_delay": 0.01}


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> loop_use.Process:
    own = loop_use.Process()
    monkeypatch.setattr(loop_use, "_process", own)
    return own


def loop_thread_of(client: Client) -> LoopThread:
    assert client._loop_use is not None
    return client._loop_use.thread


class Blocking:
    """A URL that blocks the loop on which it is awaited, and nothing is dialled."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    async def url(self) -> str:
        self.begun.set()
        self.go.wait(30)
        return "ws://localhost:1"

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.go.set()


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    with Blocking() as it:
        yield it


def started(blocking: Blocking) -> Client:
    client = Client(blocking.url, name="stuck", **FAST)
    client.start()
    assert blocking.begun.wait(5)
    return client


@pytest.mark.parametrize("where", ["plain", "in a loop"])
def test_close_returns_in_time(
    blocking: Blocking, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = started(blocking)
    thread = loop_thread_of(client)

    async def close() -> None:
        client.close(0.2)

    began = time.monotonic()
    if where == "plain":
        client.close(0.2)
    else:
        asyncio.run(close())
    assert time.monotonic() - began < 1.2
    assert client.state is State.CLOSED
    assert "stream stuck: user code blocks the event loop" in caplog.text
    assert "self.go.wait(30)" in caplog.text
    client.wait_closed(0)
    assert list(client.errors()) == [], "it ends, too"
    with pytest.raises(NotConnectedError):
        client.wait_ready(0)
    client.close(0)
    blocking.go.set()
    assert thread.stop(5), "what is left ends once user code returns"
    assert client.state is State.CLOSED


async def test_a_start_that_fails_holds_no_thread(
    process: loop_use.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system starts no more threads, which a lease needs."""

    def fail(renewal: LeaseRenewal) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(LeaseRenewal, "start", fail)
    client = AsyncClient("ws://localhost:1", lease=FakeLease())
    with pytest.raises(RuntimeError):
        await client.start()
    assert client.state is State.IDLE
    assert process.pool._alive == set()


def test_a_client_that_was_abandoned_may_start_again(blocking: Blocking) -> None:
    client = started(blocking)
    first = loop_thread_of(client)
    client.close(0)
    blocking.begun.clear()
    client.start()
    assert blocking.begun.wait(5)
    assert loop_thread_of(client) is not first
    assert client.state is State.CONNECTING
    blocking.go.set()
    client.close(0)


def test_the_clients_of_a_process_end_together(blocking: Blocking) -> None:
    clients = [
        Client("ws://localhost:1", name=f"n{n}", close_timeout=0.3, **FAST) for n in range(5)
    ]
    for client in clients:
        client.start()
    stuck = Client(blocking.url, close_timeout=0.1)
    stuck.start()
    assert blocking.begun.wait(5)
    began = time.monotonic()
    loop_use._close_all()
    assert time.monotonic() - began < 2
    assert {client.state for client in [stuck, *clients]} == {State.CLOSED}


def test_start_beside_a_loop_that_is_blocked(
    blocking: Blocking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop_use, "START_SECONDS", 0.05)
    stuck = started(blocking)
    with Client("ws://localhost:1", name="next", **FAST) as client:
        assert loop_thread_of(client) is not loop_thread_of(stuck)
        assert "stream next: user code blocks the event loop; this client starts" in caplog.text
    stuck.close(0)


def test_a_client_that_is_only_slow_to_close_keeps_its_state(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its loop is alive: it will be closed soon, and says so itself."""
    client = Client("ws://localhost:1", **FAST)
    go = threading.Event()
    client.start()

    async def slow(closing: Closing) -> int:
        await asyncio.to_thread(go.wait, 30)
        return 0

    monkeypatch.setattr(Closing, "_close_spool", slow)
    client.close(0)
    assert client.state is not State.CLOSED
    assert "close() returns although the client is still closing" in caplog.text
    go.set()
    client.wait_closed(5)


def test_an_async_client_whose_loop_is_blocked_logs_the_field_of_its_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = AsyncClient("ws://localhost:1", name="prices", **FAST)
    is_started, go = threading.Event(), threading.Event()

    async def block() -> None:
        await client.start()
        is_started.set()
        go.wait(30)
        await client.close()

    thread = threading.Thread(target=lambda: asyncio.run(block()))
    thread.start()
    assert is_started.wait(5)
    asyncio.run(client.close(0))
    [record] = [each for each in caplog.records if "not closed within 1 s" in each.getMessage()]
    assert vars(record)["stream"] == "prices"
    go.set()
    thread.join(10)


class Open:
    """Stands for a connection: it takes what is sent."""

    is_open = True

    def room(self, *, passes_gate: bool) -> None: ...

    def send(self, frame: Any, *, passes_gate: bool) -> None: ...


@pytest.mark.parametrize("verb", ["request", "receive"])
def test_a_wait_for_a_message_beside_a_loop_that_is_blocked(
    blocking: Blocking, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = started(blocking)
    monkeypatch.setattr(client.aio, "_open_connection", Open)
    given = ["?", bool] if verb == "request" else [bool]
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="event loop is blocked or stopped"):
        getattr(client, verb)(*given, timeout=0.1)
    assert time.monotonic() - began < 0.1 + 1 + 1
    client.close(0)


def test_a_wait_without_a_limit_ends_with_the_client(
    blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = started(blocking)
    monkeypatch.setattr(client.aio, "_open_connection", Open)
    closing = threading.Timer(0.1, lambda: client.close(0))
    closing.start()
    with pytest.raises(NotConnectedError, match="closed before the reply"):
        client.receive(timeout=None)
    closing.join()


def test_a_wait_from_another_loop_beside_one_that_is_blocked(
    blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = started(blocking)
    monkeypatch.setattr(client.aio, "_open_connection", Open)
    with pytest.raises(TimeoutError, match="event loop is blocked or stopped"):
        asyncio.run(client.aio.request("?", bool, timeout=0.1))
    client.close(0)


def test_a_start_that_raises_leaves_nothing(process: loop_use.Process) -> None:
    client = Client("ws://localhost:1", lease="redis://localhost:notaport")
    with pytest.raises(ConfigurationError):
        client.start()
    assert process.uses == set()
    assert process.loop_thread is None
    client.close()


def test_a_start_on_the_loop_that_raises_leaves_nothing(process: loop_use.Process) -> None:
    client = Client("ws://localhost:1", lease="redis://localhost:notaport")
    use = loop_use.use_loop(client)

    async def start() -> None:
        with pytest.raises(ConfigurationError):
            client.start()

    use.thread.run(start(), 5)
    while process.uses != {use}:
        pass
    loop_use.end_loop_use(use)
    assert process.loop_thread is None


def test_close_in_the_moment_of_a_start(
    process: loop_use.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close() before the client has begun left start() with a loop that was closed."""
    client = Client("ws://localhost:1", **FAST)
    responds = LoopThread.responds

    def closes_meanwhile(thread: LoopThread, timeout: float) -> bool:
        closer = threading.Thread(target=client.close)
        closer.start()
        closer.join(5)
        return responds(thread, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(LoopThread, "responds", closes_meanwhile)
        client.start()
    assert not client.state.is_final
    client.close(float("inf"))
    assert client.state is State.CLOSED


def test_close_while_a_second_thread_starts_the_client_waits_for_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It took the use of the second start(), which had not begun and had nothing to wait for."""
    client = Client("ws://localhost:1", min_reconnect_delay=20)
    looked, go = threading.Event(), threading.Event()
    states: list[State] = []

    def use_late(*arguments: Any) -> loop_use.LoopUse:
        if threading.current_thread() is second:
            looked.set()  # and the client was not running
            go.wait(10)
        return loop_use.use_responsive_loop(*arguments)

    def run_late(thread: LoopThread, *arguments: Any) -> Any:
        if threading.current_thread() is second:
            client.close()
            states.append(client.state)
        return run(thread, *arguments)

    run = LoopThread.run
    second = threading.Thread(target=client.start)
    monkeypatch.setattr(module, "use_responsive_loop", use_late)
    monkeypatch.setattr(LoopThread, "run", run_late)
    second.start()
    assert looked.wait(10)
    client.start()
    go.set()
    second.join(10)
    assert states == [State.CLOSED]
    assert not client.state.is_final
    client.close()


def test_a_request_to_close_in_a_signal_handler_wakes_the_loop() -> None:
    """The loop of an AsyncClient waits for events, and select() goes on after a signal."""
    code = REQUEST_CLOSE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2


REQUEST_CLOSE = """
import asyncio, os, signal, threading, time
from datastream_ws import AsyncClient
from datastream_ws.testing import StreamServer

async def main():
    client = AsyncClient(server.url)
    await client.start()
    await client.wait_ready(10)
    signal.signal(signal.SIGTERM, lambda *_: client.request_close())
    await asyncio.sleep(0.1)
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    began = time.monotonic()
    asyncio.get_running_loop().call_later(5, lambda: None)
    await client.wait_closed()
    print(time.monotonic() - began)

with StreamServer() as server:
    asyncio.run(main())
"""


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_run_ends_after_a_signal(blocking: Blocking, signals: list[signal.Signals]) -> None:
    client = Client(blocking.url, close_timeout=0.2 if len(signals) == 1 else 30)

    def kill() -> None:
        assert blocking.begun.wait(5)
        for number in signals:
            os.kill(os.getpid(), number)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    client.run()
    assert time.monotonic() - began < 5
    killer.join()
    assert client.state is State.CLOSED


EXIT = """
import threading
from datastream_ws import Client

async def url():
    begun.set()
    STEP

begun = threading.Event()
clients = [Client("ws://localhost:1", close_timeout=0.2) for _ in range(3)]
clients.append(Client(url, close_timeout=0.2))
for client in clients:
    client.start()
begun.wait()
"""


@pytest.mark.parametrize("step", ["threading.Event().wait()", "while True: pass"])
def test_the_interpreter_exits(step: str) -> None:
    """Whether the loop's thread waits or computes."""
    code = EXIT.replace("STEP", step)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert done.stderr.count("in url") == 4


def test_a_task_that_runs_a_client_and_is_canceled_closes_it() -> None:
    """As `TaskGroup` and lifespans end their tasks. The client stayed connected."""

    async def main() -> State:
        asked = asyncio.Event()

        def url() -> str:
            loop.call_soon_threadsafe(asked.set)
            return "ws://localhost:1"

        loop, client = asyncio.get_running_loop(), AsyncClient(url, **FAST)
        running = asyncio.create_task(client.run())
        await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return client.state

    assert asyncio.run(main()) is State.CLOSED
