"""A fleet without a lease, over real sockets: what the source says is what is connected."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import Client, ConfigurationError, Fleet, Message, NotConnectedError, State
from datastream_ws.fleet import fleet as fleet_module
from datastream_ws.fleet.limit_monitor import LimitMonitor
from datastream_ws.process import loop_use
from datastream_ws.runner import EXIT_FAILED, Runner
from datastream_ws.testing.connection import StreamConnection
from datastream_ws.testing.server import StreamServer
from kit.seen import eventually

FAST: dict[str, Any] = {"min_reconnect_delay": 0.05, "max_reconnect_delay": 0.1}


class Source:
    """Rows that a test changes; counts how often it is asked."""

    def __init__(self, server: StreamServer, *keys: Any) -> None:
        self.server = server
        self.asked = 0
        self.fails: Exception | None = None
        self.rows: dict[Any, Any] = {}
        self.add(*keys)

    def add(self, *keys: Any, token: str = "first") -> None:
        for key in keys:
            url = f"{self.server.url}/{key}"
            self.rows[key] = {"url": url, "headers": {"Authorization": token}}

    def __call__(self) -> dict[Any, Any]:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return dict(self.rows)


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


def opened(server: StreamServer) -> list[StreamConnection]:
    return [connection for connection in server.connections if not connection.closed.is_set()]


def paths(server: StreamServer) -> list[str]:
    return sorted(connection.path for connection in opened(server))


def is_ready(fleet: Fleet, streams: int) -> bool:
    return len(fleet) == streams and all(fleet[key].is_ready for key in list(fleet))


def test_rows_are_streams_and_messages_have_their_key(server: StreamServer) -> None:
    got: list[Message] = []
    fleet = Fleet(Source(server, 1, 2, "x"), name="accounts", **FAST)
    fleet.on_message(got.append)
    with fleet:
        eventually(lambda: is_ready(fleet, 3), 20)
        assert set(fleet) == {1, 2, "x"}
        assert fleet.state(1) is State.READY
        server.send({"type": "order"})
        eventually(lambda: len(got) == 3, 20)
        assert {(m.key, m.stream) for m in got} == {
            (1, "accounts/1"),
            (2, "accounts/2"),
            ("x", "accounts/x"),
        }
        stats = fleet.stats()
        assert stats.messages_received == 3
        assert stats.streams[1].messages_received == 1
        with pytest.raises(KeyError):
            fleet[3]
    eventually(lambda: not opened(server), 20)
    assert len(fleet) == 0
    assert fleet.stats().messages_handled == 3, "those of streams that have ended"


def test_a_new_row_opens_one_connection_and_a_token_replaces_one(server: StreamServer) -> None:
    source = Source(server, 1, 2, 3)
    fleet = Fleet(source, **FAST)
    fleet.on_message(lambda message: None)
    with fleet:
        eventually(lambda: is_ready(fleet, 3), 20)
        source.add(4)
        fleet.refresh()
        eventually(lambda: is_ready(fleet, 4), 20)
        assert len(server.connections) == 4
        unchanged = [fleet[key] for key in (1, 3, 4)]
        source.add(2, token="second")
        fleet.refresh()
        server.wait_connected(5, 20)
        eventually(lambda: is_ready(fleet, 4), 20)
        assert server.connections[-1].headers["Authorization"] == "second"
        assert paths(server) == ["/1", "/2", "/3", "/4"]
        assert [fleet[key] for key in (1, 3, 4)] == unchanged
        del source.rows[1]
        fleet.refresh()
        eventually(lambda: paths(server) == ["/2", "/3", "/4"], 20)
        assert len(server.connections) == 5


def test_the_old_stream_has_ended_before_the_new_one_connects(server: StreamServer) -> None:
    source, slow = Source(server, 1), threading.Event()
    fleet = Fleet(source, **FAST)
    seen: list[str] = []

    @fleet.on_message
    def handle(message: Message) -> None:
        seen.append(str(message.data))
        slow.wait(20)

    with fleet:
        eventually(lambda: is_ready(fleet, 1), 20)
        server.send("in hand")
        eventually(lambda: bool(seen), 20)
        source.add(1, token="second")
        fleet.refresh()
        eventually(lambda: fleet[1].state is State.CLOSING, 20)
        assert len(server.connections) == 1
        slow.set()
        server.wait_connected(2, 20)
        assert paths(server) == ["/1"]


def test_a_source_that_raises_or_says_nonsense_changes_nothing(
    server: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    source, errors = Source(server, 1, 2), list[BaseException]()
    fleet = Fleet(source, name="accounts", **FAST)
    fleet.on_error(errors.append)
    fleet.on_message(lambda message: None)
    with fleet:
        eventually(lambda: is_ready(fleet, 2), 20)
        source.fails = RuntimeError("no database.")
        for _ in range(3):
            asked = source.asked
            fleet.refresh()
            eventually(lambda asked=asked: source.asked > asked, 20)  # type: ignore[misc]
        text = "the source failed: RuntimeError: no database; the fleet keeps its 2 streams"
        eventually(lambda: text in caplog.text, 20)
        assert caplog.text.count("no database") == 1, "what lasts is told once"
        eventually(lambda: bool(errors), 20)
        source.fails, source.rows[2] = None, {"url": "http://wrong"}
        fleet.refresh()
        eventually(lambda: "stream accounts/2: url" in caplog.text, 20)
        assert is_ready(fleet, 2)
        assert len(server.connections) == 2


def test_a_source_that_hangs_neither_stops_the_streams_nor_the_end(server: StreamServer) -> None:
    source, hangs = Source(server, 1), threading.Event()
    stuck = threading.Event()

    def hanging() -> dict[Any, Any]:
        if source.asked:
            stuck.set()
            hangs.wait(30)
        return source()

    got: list[Message] = []
    fleet = Fleet(hanging, **FAST)
    fleet.on_message(got.append)
    with fleet:
        eventually(lambda: is_ready(fleet, 1), 20)
        fleet.refresh()
        assert stuck.wait(20)
        server.send("still here")
        eventually(lambda: bool(got), 20)
        began = time.monotonic()
        fleet.close()
        assert time.monotonic() - began < 8
    hangs.set()


def test_a_source_that_takes_too_long_is_reported(
    server: StreamServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, hangs, errors = Source(server, 1), threading.Event(), list[BaseException]()

    def hanging() -> dict[Any, Any]:
        hangs.wait(30 if source.asked else 0)
        return source()

    fleet = Fleet(hanging, **FAST)
    fleet.on_error(errors.append)
    with fleet:
        eventually(lambda: is_ready(fleet, 1), 20)
        monkeypatch.setattr(fleet_module, "SOURCE_SECONDS", 0.2)
        fleet.refresh()
        eventually(lambda: "the source has not returned within 0.2 s" in caplog.text, 20)
        eventually(lambda: bool(errors), 20)
        hangs.set()
        assert is_ready(fleet, 1)
    [error] = errors
    assert isinstance(error, TimeoutError)
    assert str(error) == "the source has not returned within 0.2 s"


def test_a_coroutine_may_be_the_source_and_a_hook_knows_its_stream(server: StreamServer) -> None:
    async def source() -> dict[Any, Any]:
        return {n: {"url": f"{server.url}/{n}"} for n in (1, 2)}

    fleet = Fleet(source, **FAST)

    @fleet.on_ready
    def hello() -> None:
        fleet.current.send(fleet.current.name)

    with fleet:
        assert sorted(server.wait_received(2, 20)) == ["default/1", "default/2"]
        with pytest.raises(NotConnectedError, match="no handler"):
            _ = fleet.current


def test_pause_resume_reconnect_and_a_second_start(server: StreamServer) -> None:
    source = Source(server, 1, 2)
    fleet = Fleet(source, stable_after=0.01, **FAST)
    fleet.on_message(lambda message: None)
    with pytest.raises(NotConnectedError, match="isn't running"):
        fleet.pause()
    with fleet:
        eventually(lambda: is_ready(fleet, 2), 20)
        fleet.pause()
        eventually(lambda: not opened(server), 20)
        source.add(3)
        fleet.refresh()
        eventually(lambda: len(fleet) == 3, 20)
        eventually(lambda: fleet.state(3) is State.PAUSED, 20)
        assert not opened(server)
        fleet.resume()
        eventually(lambda: is_ready(fleet, 3), 20)
        before = len(server.connections)
        fleet.reconnect()
        server.wait_connected(before + 3, 20)
        fleet.start()
        assert len(fleet) == 3
    fleet.start()
    eventually(lambda: is_ready(fleet, 3), 20)
    fleet.close()


def test_a_limit_and_what_happens_when_a_row_goes(
    server: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(server, 1, 2, 3)
    fleet = Fleet(source, limit=2, **FAST)
    fleet.on_message(lambda message: None)
    with fleet, caplog.at_level(logging.INFO):
        eventually(lambda: is_ready(fleet, 2) and fleet.stats().streams_beyond_limit == 1, 20)
        assert caplog.text.count("1 stream runs in no process") == 1
        assert "(limit=2); raise limit, or set lease" in caplog.text
        del source.rows[1]
        fleet.refresh()
        eventually(lambda: paths(server) == ["/2", "/3"], 20)
        eventually(lambda: "every stream has room in a process again" in caplog.text, 20)
        assert fleet.stats().streams_beyond_limit == 0
        assert [event.kind for event in fleet.stats().recent_events] == ["limit", "limit"]


def test_a_stream_that_fails_or_is_closed_stays_so_until_its_row_changes(
    server: StreamServer,
) -> None:
    source = Source(server, 1, 2)
    source.rows[2]["max_reconnect_attempts"] = 1
    fleet = Fleet(source, fatal_delay=None, **FAST)
    fleet.on_message(lambda message: None)
    server.refuse(401, times=2)
    with fleet:
        eventually(lambda: len(fleet) == 2, 20)
        eventually(lambda: fleet.state(1) is fleet.state(2) is State.FAILED, 20)
        fleet.refresh()
        source.add(1, token="valid")
        fleet.refresh()
        eventually(lambda: fleet[1].is_ready, 20)
        fleet[1].close()
        asked = source.asked
        fleet.refresh()
        eventually(lambda: source.asked > asked, 20)
        assert [fleet.state(key) for key in (1, 2)] == [State.CLOSED, State.FAILED]
        began = time.monotonic()
    assert time.monotonic() - began < 8, "those that have ended are not waited for"


@pytest.mark.parametrize("changed", [False, True])
def test_a_stream_that_was_started_again_is_replaced_and_closed_as_any(
    server: StreamServer, changed: bool
) -> None:
    source = Source(server, 1)
    with Fleet(source, refresh=0.1, **FAST) as fleet:
        eventually(lambda: is_ready(fleet, 1), 20)
        first = fleet[1]
        first.close()
        first.start()
        eventually(lambda: is_ready(fleet, 1), 20)
        if changed:
            source.add(1, token="second")
            eventually(lambda: fleet[1] is not first and is_ready(fleet, 1), 20)
        began = time.monotonic()
        fleet.close(15)
        assert time.monotonic() - began < 10
        assert not fleet.is_running
    eventually(lambda: not opened(server), 20)


def test_each_stream_has_a_spool_of_its_own(server: StreamServer, tmp_path: Path) -> None:
    source = Source(server, 1, 2)
    fleet = Fleet(source, spool=f"{tmp_path}/{{name}}", **FAST)
    fleet.on_message(lambda message: None)
    with fleet:
        eventually(lambda: is_ready(fleet, 2), 20)
    assert {path.name for path in tmp_path.iterdir()} >= {"default%2F1", "default%2F2"}
    with pytest.raises(ConfigurationError, match="each stream requires its own file"):
        Fleet(source, spool=str(tmp_path / "one"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("refresh", 0), ("start_rate", None), ("start_rate", (0, 1)), ("limit", 0), ("max_size", -1)],
)
def test_wrong_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        Fleet(dict, **{option: value})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_fork_the_child_has_an_idle_fleet(server: StreamServer) -> None:
    fleet = Fleet(Source(server, 1), **FAST)
    fleet.on_message(lambda message: None)
    with fleet:
        eventually(lambda: is_ready(fleet, 1), 20)
        child = os.fork()
        if not child:
            os._exit(0 if len(fleet) == 0 and not fleet.is_running else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert is_ready(fleet, 1)


LAG = 1.0  # seconds that a busy machine may hold up the first of many dials


def are_paced(times: list[float], rate: int) -> bool:
    """Whether no dial arrived before its turn: so many in a second, and each may be held up."""
    return all(at - times[0] >= n // rate - LAG for n, at in enumerate(times))


def storm(server: StreamServer, streams: int, rate: int, caplog: pytest.LogCaptureFixture) -> None:
    """The server restarts: no more dials than the rate, all are back, and few lines say so."""
    fleet = Fleet(Source(server, *range(streams)), name="many", start_rate=(rate, 1.0), **FAST)
    fleet.on_message(lambda message: None)
    limit = 30 + 6 * streams / rate
    with caplog.at_level(logging.INFO, "datastream_ws"), fleet:
        eventually(lambda: is_ready(fleet, streams), limit)
        caplog.clear()
        server.restart()
        eventually(lambda: fleet.stats().reconnects >= streams and is_ready(fleet, streams), limit)
        fleet.close()
        lines = [record.getMessage() for record in caplog.records]
    times = [attempt.at for attempt in server.attempts]
    assert are_paced(times[:streams], rate)
    assert are_paced(times[streams:], rate)
    assert len(lines) < 10 + 15 * limit / 5
    assert any("more lines of its streams" in line for line in lines)


def test_a_storm_has_the_size_that_the_rate_says(
    server: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    storm(server, 90, 30, caplog)


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_storm_of_two_thousand_streams(
    server: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    storm(server, 2000, 50, caplog)


def test_a_message_is_delivered_without_a_row_and_without_a_loop() -> None:
    got: list[Any] = []
    fleet = Fleet(dict, name="accounts")

    @fleet.on_message("order")
    def note(message: Message) -> None:
        got.append((message.key, message.stream, message.json()["n"], fleet.counts()))
        if message.json()["n"] == 2:
            raise RuntimeError("two")

    fleet.deliver({"type": "order", "n": 1}, key=42)
    with pytest.raises(RuntimeError, match="two"):
        fleet.deliver({"type": "order", "n": 2}, key=42)
    fleet.deliver({"type": "order", "n": 2}, True, key="x")
    assert [each[:2] for each in got] == [
        (42, "accounts/42"),
        (42, "accounts/42"),
        ("x", "accounts/x"),
    ]


def test_whoever_waits_for_the_end_is_told(server: StreamServer) -> None:
    fleet = Fleet(Source(server, 1), **FAST)
    gate = threading.Event()
    fleet.on_message(lambda message: gate.wait(20))
    fleet.start()
    eventually(lambda: is_ready(fleet, 1), 20)
    assert fleet[1].key == 1
    server.send("x")
    eventually(lambda: fleet.stats().messages_received == 1, 20)
    fleet.request_close()
    with pytest.raises(TimeoutError):
        fleet.wait_closed(0.2)
    fleet.request_close()
    fleet.wait_closed(5.0)
    gate.set()
    assert fleet.source_size == 1
    assert fleet.counts() == {}


def test_a_close_that_a_blocked_loop_had_not_seen_does_not_close_the_next_start(
    server: StreamServer,
) -> None:
    source = Source(server, 1)
    fleet = Fleet(source, refresh=0.1, **FAST)
    blocked, gate = threading.Event(), threading.Event()

    @fleet.on_message
    async def block(message: Message) -> None:
        blocked.set()
        gate.wait(60)  # user code that blocks the loop

    fleet.start()
    eventually(lambda: is_ready(fleet, 1), 20)
    server.send("x")
    assert blocked.wait(20)
    first = fleet._loop_use
    assert first is not None
    fleet.close(0.5)
    fleet.start()
    eventually(lambda: is_ready(fleet, 1), 20)
    gate.set()
    first.thread._thread.join(20)
    asked = source.asked
    eventually(lambda: source.asked >= asked + 3, 20)
    assert fleet.is_running
    assert is_ready(fleet, 1)
    fleet.close(5)


def test_start_beside_a_loop_that_is_blocked(
    server: StreamServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop_use, "START_SECONDS", 0.05)
    blocked, gate = threading.Event(), threading.Event()
    stuck = Client(server.url, **FAST)

    @stuck.on_ready
    async def block() -> None:
        blocked.set()
        gate.wait(60)  # user code that blocks the loop

    stuck.start()
    assert blocked.wait(20)
    with Fleet(Source(server, 1), name="accounts", **FAST) as fleet:
        eventually(lambda: is_ready(fleet, 1), 20)
    assert "fleet accounts: user code blocks the event loop; this fleet starts" in caplog.text
    gate.set()
    stuck.close(5)


def test_verbs_of_an_idle_fleet_raise(server: StreamServer) -> None:
    fleet = Fleet(Source(server, 1), **FAST)
    for verb in (fleet.pause, fleet.resume, fleet.reconnect, fleet.refresh):
        with pytest.raises(NotConnectedError, match=r"Call fleet\.start\(\)"):
            verb()


def test_a_fault_of_ours_ends_it_with_the_error(
    server: StreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that waits for the end may take that for an orderly one."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LimitMonitor, "update", broken)
    fleet = Fleet(Source(server, 1), limit=1, **FAST)
    fleet.start()
    with pytest.raises(ZeroDivisionError):
        fleet.wait_closed(10)
    with pytest.raises(ZeroDivisionError):
        fleet.run()
    assert Runner([fleet]).run() == EXIT_FAILED
    assert not fleet.is_running


def test_two_requests_in_a_row_close_it_at_once(server: StreamServer) -> None:
    """As a cold shutdown of a worker makes them, before the loop has seen the first."""
    fleet = Fleet(Source(server, 1), **FAST | {"close_timeout": 30.0})
    gate = threading.Event()
    fleet.on_message(lambda message: gate.wait(20))
    for _ in range(2):  # a second start forgets the requests
        fleet.start()
        eventually(lambda: is_ready(fleet, 1), 20)
        server.send("x")
        eventually(lambda: fleet.stats().messages_received == 1, 20)
        fleet.request_close()
        fleet.request_close()
        fleet.wait_closed(5.0)
    fleet.start()
    eventually(lambda: is_ready(fleet, 1), 20)
    server.send("x")
    eventually(lambda: fleet.stats().messages_received == 1, 20)
    fleet.request_close()
    with pytest.raises(TimeoutError):
        fleet.wait_closed(0.2)
    gate.set()
    fleet.wait_closed(5.0)
