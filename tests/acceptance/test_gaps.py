"""What the hooks tell: states in order, how a connection ended, how long nothing could arrive."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from datastream_ws import (
    Client,
    DisconnectEvent,
    GapEvent,
    HandlerError,
    Message,
    ReconnectError,
    State,
    StateEvent,
    StreamClosedError,
)
from datastream_ws.testing import StreamServer
from kit.seen import FAST, Seen, eventually

C, D, R, W = State.CONNECTING, State.CONNECTED, State.READY, State.WAITING


@pytest.mark.fault("P5")
def test_states_in_order() -> None:
    """Start, drop, refusal, return, close: every state once, each event naming the one before."""
    states = Seen[StateEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_state(states)
        assert client.state is State.IDLE
        client.start()
        client.wait_ready(30)
        server.refuse(503, times=1)
        server.abort()
        server.wait_connected(2, 30)
        client.wait_ready(30)
        client.close()
    expected = [C, D, R, W, C, W, C, D, R, State.CLOSING, State.CLOSED]
    assert [event.state for event in states.all] == expected
    assert [event.previous for event in states.all] == [State.IDLE, *expected[:-1]]


def test_what_a_state_event_says() -> None:
    """WAITING carries the error and the delay; attempt counts until a stable connection."""
    states = Seen[StateEvent]()
    with StreamServer() as server:
        server.refuse(503, times=2)
        client = Client(server.url, **FAST)
        client.on_state(states)
        with client:
            client.wait_ready(30)
    waiting = [event for event in states.all if event.state is W]
    assert [event.attempt for event in waiting] == [2, 3]
    assert all(event.delay is not None and 0.02 <= event.delay <= 0.1 for event in waiting)
    assert all("503" in str(event.error) for event in waiting)
    dials = [event for event in states.all if event.state is C]
    assert [event.attempt for event in dials] == [1, 2, 3]
    assert [event.delay for event in dials] == [None] * 3
    with pytest.raises(AttributeError):
        states.all[0].state = R  # type: ignore[misc]


def test_paused_and_resumed() -> None:
    """PAUSED stays until resume(); no attempt is made meanwhile."""
    states = Seen[StateEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_state(states)
        with client:
            client.wait_ready(30)
            client.pause()
            states.wait_for(lambda event: event.state is State.PAUSED)
            assert server.connections[0].closed.wait(30)
            assert server.connections[0].close_code == 1000
            time.sleep(0.3)  # several back-offs
            assert len(server.attempts) == 1
            client.resume()
            server.wait_connected(2, 30)
            client.wait_ready(30)
    assert [event.state for event in states.all][:6] == [C, D, R, State.PAUSED, C, D]


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "deploy"), (1011, "bug"), (4000, "x" * 123)]
)
def test_what_a_disconnect_event_says(code: int, reason: str) -> None:
    """Number of the connection, code, reason, error, and what follows when."""
    ended = Seen[DisconnectEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_disconnect(ended)
        with client:
            for n in (1, 2):
                server.wait_connected(n, 30)
                client.wait_ready(30)
                server.close(code, reason)
                event = ended.wait(n)[-1]
                assert (event.connection, event.code, event.reason) == (n, code, reason)
                assert isinstance(event.error, StreamClosedError)
                assert (event.error.code, event.error.reason) == (code, reason)
                assert event.will_retry
                assert event.delay is not None
            server.wait_connected(3, 30)


def test_the_last_disconnect_event_of_a_client_that_fails() -> None:
    """will_retry is False and there is no delay when the client gives up."""
    ended = Seen[DisconnectEvent]()
    with StreamServer(on_connect=lambda connection: connection.close(1001)) as server:
        client = Client(server.url, **FAST | {"max_reconnect_attempts": 2})
        client.on_disconnect(ended)
        with pytest.raises(ReconnectError):
            client.run()
    assert [(event.will_retry, event.delay is None) for event in ended.all] == [
        (True, False),
        (False, True),
    ]


def test_what_a_gap_event_says() -> None:
    """When it began and ended, how long it was, and the last message before it."""
    gaps, messages = Seen[GapEvent](), Seen[Message]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_gap(gaps)
        client.on_message(messages)
        with client:
            client.wait_ready(30)
            server.send("last before")
            messages.wait()
            begun = time.time()
            server.stop()
            eventually(lambda: client.stats().attempts >= 4)
            assert len(gaps) == 0
            server.start()
            gap = gaps.wait()[0]
            ended = time.time()
            client.wait_ready(30)
    assert gap.last_message is not None
    assert gap.last_message.seq == messages.all[0].seq == 1
    assert begun - 1 <= gap.started_at <= gap.ended_at <= ended + 1
    assert gap.seconds == pytest.approx(gap.ended_at - gap.started_at, abs=0.1)
    assert gap.seconds > 0


def test_no_gap_before_the_first_connection() -> None:
    """Attempts that failed before the first connection are no gap: nothing was missed."""
    gaps = Seen[GapEvent]()
    with StreamServer() as server:
        server.refuse(503, times=2)
        client = Client(server.url, **FAST)
        client.on_gap(gaps)
        with client:
            client.wait_ready(30)
            server.abort()
            server.wait_connected(2, 30)
            assert gaps.wait()[0].last_message is None
    assert len(gaps) == 1


def test_a_gap_is_told_once_though_several_connections_were_useless() -> None:
    """Each open connection ends a gap; each loss begins the next."""
    gaps = Seen[GapEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_gap(gaps)
        with client:
            for n in range(1, 6):
                server.wait_connected(n, 30)
                client.wait_ready(30)
                server.abort()
            gaps.wait(5)
            client.wait_ready(30)
    assert len(gaps) == 5


def test_hooks_come_in_order_on_one_thread_beside_the_handlers() -> None:
    """A message handler that hangs holds up no hook; a hook that hangs holds up no message."""
    go = threading.Event()
    names: list[str] = []
    handled = Seen[Message]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def slow_hook(event: Any = None) -> None:
            names.append(threading.current_thread().name)
            go.wait(60)

        client.on_connect(lambda: names.append("connect"))
        client.on_ready(lambda: names.append("ready"))
        client.on_error(slow_hook)
        client.on_message(handled)
        client.on_message("boom")(lambda message: 1 / 0)
        with client:
            client.wait_ready(30)
            server.send({"type": "boom"})
            eventually(lambda: len(names) == 3)
            for _ in range(100):
                server.send("x")
            handled.wait(101)
            go.set()
    assert names[:2] == ["connect", "ready"]


@pytest.mark.fault("P4")
def test_a_hook_that_raises_is_reported_and_the_stream_goes_on() -> None:
    """on_state, on_disconnect, on_gap, on_error: each is fenced off."""
    errors = Seen[BaseException]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def bad(*args: Any) -> None:
            raise LookupError("in a hook")

        for hook in ("on_state", "on_disconnect", "on_gap", "on_error"):
            getattr(client, hook)(bad)
        client.on_error(errors)
        with client:
            client.wait_ready(30)
            server.abort()
            server.wait_connected(2, 30)
            client.wait_ready(30)
    failures = [error for error in errors.all if isinstance(error, HandlerError)]
    assert all(isinstance(error.__cause__, LookupError) for error in failures)
    said = " ".join(str(error) for error in failures)
    for hook in ("on_state", "on_disconnect", "on_gap"):
        assert hook in said


@pytest.mark.fault("G9")
def test_errors_are_bounded_and_what_is_lost_is_counted() -> None:
    """When nobody reads errors() the oldest go."""
    with StreamServer() as server:
        client = Client(server.url, inbox_size=None, **FAST)
        client.on_message(lambda message: 1 / 0)
        with client:
            client.wait_ready(30)
            for _ in range(1500):
                server.send("x")
            eventually(lambda: client.stats().messages_failed == 1500)
            eventually(lambda: client.stats().errors_dropped == 500)
            kept = list(client.errors(timeout=0.1))
        assert len(kept) == 1000
        assert all(isinstance(error, HandlerError) for error in kept)


def test_a_logger_that_raises_does_not_end_the_stream() -> None:
    """The option logger is the user's code as well."""

    class Broken:
        def debug(self, msg: str, *args: Any, exc_info: Any = None) -> None:
            raise OSError("disk full")

        info = warning = error = debug

    with StreamServer() as server:
        client = Client(server.url, logger=Broken(), **FAST)
        client.on_message(lambda message: 1 / 0)
        with client:
            client.wait_ready(30)
            server.send("x")
            server.abort()
            server.wait_connected(2, 30)
            client.wait_ready(30)
