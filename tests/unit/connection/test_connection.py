"""One connection over an engine without a network: what the world does, what comes of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from datastream_ws import ClientOptions, NotConnectedError, SendTimeoutError, StreamClosedError
from datastream_ws.connection.connection import Connection
from datastream_ws.connection.endpoint import Endpoint
from datastream_ws.connection.engine import Ended
from kit.fakeengine import FakeEngine, World
from kit.virtualtime import VirtualLoop


class Rig:
    """A connection on a loop whose clock jumps."""

    def __init__(self, *, opened: bool = True, gated: bool = False, **options: Any) -> None:
        self.loop = VirtualLoop()
        self.world = World()
        self.messages: list[Any] = []
        self.round_trips: list[float] = []
        self.sent = 0
        self.run(self._make(ClientOptions("ws://fake", **options), opened, gated))

    async def _make(self, options: ClientOptions, opened: bool, gated: bool) -> None:
        self.engine: FakeEngine = self.world.engine(options)
        self.connection = Connection(
            self.engine,
            options,
            number=1,
            gated=gated,
            on_messages=lambda messages, size: self.messages.extend(messages),
            on_round_trip=self.round_trips.append,
            on_sent=self._count,
        )
        if opened:
            await self.connection.open(Endpoint("ws://fake"))

    def _count(self, messages: int, size: int) -> None:
        self.sent += messages

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        if self.connection.is_open:
            self.does(self.engine.drop)
        self.loop.close()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def does(self, what: Any, *arguments: Any, **more: Any) -> None:
        """Have something happen on the loop, now."""

        async def do() -> None:
            what(*arguments, **more)

        self.run(do())

    @property
    def end(self) -> Ended:
        assert self.connection.end.done(), "it is still open"
        return self.connection.end.result()


def test_opened() -> None:
    with Rig() as rig:
        assert rig.connection.is_open
        assert rig.connection.handshake is rig.engine.handshake
        assert not rig.connection.has_unsent


def test_messages_wait_to_be_handed_over() -> None:
    """They may come with the handshake's last bytes."""
    with Rig() as rig:
        rig.does(rig.engine.deliver, "early")
        assert rig.messages == []
        rig.does(rig.connection.start_delivery)
        rig.does(rig.engine.deliver, "later")
        assert rig.messages == ["early", "later"]


def test_one_that_ends_as_it_opens_stays_closed() -> None:
    class Brief(FakeEngine):
        async def open(self, endpoint: Endpoint, receiver: Any) -> None:
            await super().open(endpoint, receiver)
            self.drop()

    with Rig(opened=False) as rig:
        rig.does(lambda: setattr(rig.connection, "_engine", Brief(rig.world)))
        rig.run(rig.connection.open(Endpoint("ws://fake")))
        assert not rig.connection.is_open
        assert rig.connection.closed.done()


# --- sending -------------------------------------------------------------------------------------


def test_sent_from_the_loop_and_from_a_thread() -> None:
    with Rig() as rig:
        rig.does(rig.connection.send, (True, b"here"))
        thread = threading.Thread(target=rig.connection.send, args=((False, b"there"),))
        thread.start()
        thread.join()
        rig.loop.pass_time(0.1)
        assert rig.engine.sent == ["here", b"there"]
        assert rig.sent == 2


def test_what_is_sent_from_a_thread_when_the_loop_has_ended() -> None:
    rig = Rig()
    rig.loop.close()
    for _ in range(2):
        with pytest.raises(NotConnectedError):
            rig.connection.send((True, b"too late"))
    assert not rig.connection.is_open


def test_the_gate_is_for_the_login() -> None:
    with Rig(gated=True) as rig:
        rig.does(rig.connection.send, (True, b"data"))
        rig.does(rig.connection.send, (True, b"login"), passes_gate=True)
        rig.loop.pass_time(0.1)
        assert rig.engine.sent == ["login"]
        rig.does(rig.connection.open_gate)
        rig.loop.pass_time(0.1)
        assert rig.engine.sent == ["login", "data"]


def test_nothing_is_handed_to_an_engine_whose_network_is_stuck() -> None:
    with Rig() as rig:
        rig.world.is_stuck = True
        rig.does(rig.connection.send, (True, b"first"))
        rig.loop.pass_time(0.1)
        rig.does(rig.connection.send, (True, b"second"))
        flushed = rig.connection.flushed()
        assert flushed is not None
        rig.loop.pass_time(0.1)
        assert rig.engine.sent == ["first"]
        assert not flushed.done()
        assert rig.connection.has_unsent
        rig.world.is_stuck = False
        rig.does(rig.engine.take_bytes)
        rig.loop.pass_time(0.1)
        assert rig.engine.sent == ["first", "second"]
        assert flushed.done()


def test_a_flush_needs_no_word_of_the_engine() -> None:
    """Below TLS nothing tells that the last bytes are with the kernel."""
    with Rig(write_timeout=10.0) as rig:
        rig.world.is_stuck = True
        rig.does(rig.connection.send, (True, b"last"))
        rig.loop.pass_time(0.1)
        flushed = rig.connection.flushed()
        assert flushed is not None
        rig.loop.pass_time(0.1)
        rig.engine.written, rig.engine.unsent = rig.engine.unsent, 0
        rig.loop.pass_time(0.1)
        assert flushed.done()


def test_a_network_that_takes_nothing_is_given_up_however_much_is_queued() -> None:
    """Progress is what is written, not what somebody queues."""
    with Rig(write_timeout=10.0, ping_interval=None) as rig:
        rig.world.is_stuck = True
        for _ in range(30):
            if rig.connection.is_open:
                rig.does(rig.connection.send, (True, b"more"))
            rig.loop.pass_time(1.0)
        assert isinstance(rig.end.error, SendTimeoutError)


def test_a_peer_that_takes_no_answer_to_its_pings_is_given_up() -> None:
    """Nothing was ever sent by the client, and nothing else would have it look."""
    with Rig(write_timeout=1.0, ping_interval=None, pong_timeout=None) as rig:
        rig.world.is_stuck = True
        rig.does(rig.engine._write, 131)
        rig.loop.pass_time(0.9)
        assert not rig.connection.end.done()
        rig.loop.pass_time(0.2)
        assert isinstance(rig.end.error, SendTimeoutError)


def test_much_goes_out_in_pieces() -> None:
    with Rig() as rig:
        for _ in range(8):
            rig.does(rig.connection.send, (False, b"x" * 2**17))
        rig.loop.pass_time(0.1)
        assert len(rig.engine.sent) == 8


def test_who_waits_learns_why() -> None:
    with Rig() as rig:
        rig.world.is_stuck = True
        rig.does(rig.connection.send, (True, b"stuck"))
        rig.does(rig.connection.send, (True, b"x" * 2**21))
        room, flushed = rig.connection.room(), rig.connection.flushed()
        assert room is not None
        assert flushed is not None
        rig.does(rig.connection.fail, StreamClosedError(1006, text="why"))
        for future in (room, flushed):
            assert "why" in str(future.exception(1))
        with pytest.raises(NotConnectedError):
            rig.connection.send((True, b"x"))


# --- keepalive -----------------------------------------------------------------------------------


def test_pings_and_pongs() -> None:
    with Rig(ping_interval=10.0, pong_timeout=30.0) as rig:
        for _ in range(6):
            rig.loop.pass_time(10.0)
            rig.loop.call_later(0.5, rig.engine.pong)
        assert len(rig.engine.pings) == 6
        assert rig.round_trips == [pytest.approx(0.5, abs=0.01)] * 5


def test_an_old_pong_says_nothing_of_the_time() -> None:
    with Rig(ping_interval=10.0) as rig:
        rig.loop.pass_time(10.5)
        rig.does(rig.connection.pong_received, b"of another ping")
        assert rig.round_trips == []


def test_a_silent_peer_is_given_up() -> None:
    with Rig(ping_interval=10.0, pong_timeout=30.0) as rig:
        rig.loop.pass_time(31.0)
        assert str(rig.end.error) == "nothing received for 30 s"


def test_nothing_is_judged_while_reading_is_stopped() -> None:
    with Rig(ping_interval=None, pong_timeout=30.0, idle_timeout=20.0) as rig:
        rig.does(rig.connection.ready)
        rig.does(rig.connection.pause_reading)
        rig.does(rig.connection.pause_reading)
        rig.loop.pass_time(100.0)
        rig.does(rig.connection.resume_reading)
        rig.does(rig.connection.resume_reading)
        assert rig.connection.is_open
        rig.loop.pass_time(21.0)
        assert str(rig.end.error) == "no message received for 20 s"
        rig.does(rig.connection.pause_reading)
        rig.does(rig.connection.resume_reading)


# --- the end -------------------------------------------------------------------------------------


def test_closed_by_us() -> None:
    with Rig() as rig:
        rig.run(rig.connection.close(5.0, 4000, "bye"))
        assert rig.engine.closed_with == (4000, "bye")
        assert rig.end.error is None
        rig.run(rig.connection.close(5.0))
        rig.does(rig.connection.fail, StreamClosedError(1006))
        assert not rig.connection.has_unsent


def test_a_peer_that_does_not_answer_a_close() -> None:
    with Rig() as rig:
        rig.world.answers_close = False
        began = rig.loop.time()
        rig.run(rig.connection.close(5.0))
        assert rig.loop.time() - began == pytest.approx(5.0, abs=0.1)


def test_hastened() -> None:
    with Rig() as rig:
        rig.does(rig.connection.shorten_close, 0.0)
        assert rig.connection.is_open, "nobody has closed it"
        rig.world.answers_close = False
        began = rig.loop.time()
        rig.loop.call_later(1.0, rig.connection.shorten_close, 0.5)
        rig.run(rig.connection.close(60.0))
        assert rig.loop.time() - began == pytest.approx(1.5, abs=0.1)


def test_the_peers_close_frame_is_the_end_though_its_socket_lingers() -> None:
    with Rig(close_timeout=5.0) as rig:
        rig.does(rig.engine.peer_closes, 4401, "who?", lingers=True)
        assert not rig.connection.is_open
        assert rig.end.code == 4401
        assert not rig.connection.closed.done()
        rig.run(rig.connection.close(60.0))
        assert rig.connection.closed.done()
        assert rig.end.code == 4401, "what it said counts"


def test_failed_once() -> None:
    with Rig() as rig:
        first, second = StreamClosedError(1006, text="first"), StreamClosedError(1006)
        rig.does(rig.connection.fail, first)
        rig.does(rig.connection.fail, second)
        rig.loop.pass_time(0.1)
        assert rig.end.error is first


def test_a_pump_and_a_timer_that_come_late_do_nothing() -> None:
    with Rig(ping_interval=10.0) as rig:
        rig.does(rig.connection.send, (True, b"x"))
        rig.does(rig.engine.drop)
        rig.does(rig.connection._tick)
        rig.loop.pass_time(1.0)
        assert rig.connection.closed.done()


def test_disowned_after_a_fork() -> None:
    with Rig() as rig:
        rig.engine.descriptor = 7
        assert rig.connection.abandon() == 7
        assert not rig.connection.is_open
        rig.does(rig.engine.drop)


def test_a_closed_connection_has_no_descriptor_for_a_forked_child() -> None:
    """The number may be that of another file meanwhile."""
    with Rig() as rig:
        rig.engine.descriptor = 7
        rig.does(rig.engine.drop)
        assert rig.connection.abandon() == -1


def test_paced() -> None:
    async def open_paced() -> tuple[Connection, FakeEngine]:
        from datastream_ws.connection.pacing import Pacing

        engine = World().engine(options)
        connection = Connection(
            engine, options, number=1, pacing=Pacing(2, 1.0),
            on_messages=lambda *_: None, on_round_trip=lambda _: None, on_sent=lambda *_: None,
        )  # fmt: skip
        await connection.open(Endpoint("ws://fake"))
        for number in range(6):
            connection.send((True, str(number).encode()))
        await asyncio.sleep(0.5)
        return connection, engine

    options = ClientOptions("ws://fake", send_rate=(2, 1.0))
    loop = VirtualLoop()
    connection, engine = loop.run_until_complete(open_paced())
    counts = []
    for _ in range(3):
        counts.append(len(engine.sent))
        loop.pass_time(1.1)
    assert counts == [2, 4, 6]
    engine.drop()
    loop.pass_time(0)
    loop.close()
    assert connection.closed.done()
