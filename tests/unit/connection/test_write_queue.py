"""The write queue: order, marks, pace, flushes, and the judgement on a peer that takes nothing."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any

import pytest

from datastream_ws import LeaseError, NotConnectedError, SendTimeoutError
from datastream_ws.connection import write_queue
from datastream_ws.connection.pacing import Pacing
from datastream_ws.connection.write_queue import CHUNK, LIMIT, MARK, NEVER, WriteQueue

Frame = tuple[bool, bytes]


def text(payload: str) -> Frame:
    return True, payload.encode()


class Rig:
    def __init__(self, *, rate: tuple[int, float] | None = None, gated: bool = False) -> None:
        self.wakes = 0
        pacing = None if rate is None else Pacing(*rate)
        self.queue = WriteQueue(write_timeout=10.0, pacing=pacing, wake=self._wake)
        self.queue.open(gated=gated)

    def _wake(self) -> None:
        self.wakes += 1

    def put(self, *payloads: str, passes_gate: bool = False) -> None:
        for payload in payloads:
            self.queue.put(text(payload), passes_gate=passes_gate)

    def take(self, now: float = 0.0) -> list[str]:
        return [payload.decode() for _, payload in self.queue.take(now)]


# --- order -------------------------------------------------------------------------------------


def test_frames_leave_in_order_with_one_wake_up() -> None:
    rig = Rig()
    rig.put("a", "b", "c")
    assert rig.wakes == 1
    assert rig.take() == ["a", "b", "c"]
    rig.put("d")
    assert rig.wakes == 2


def test_no_more_than_a_chunk_is_taken_at_once() -> None:
    rig = Rig()
    rig.put(*["x" * (CHUNK // 2)] * 3)
    assert len(rig.take()) == 2
    assert rig.queue.due(0.0) == 0.0
    assert len(rig.take()) == 1
    assert rig.queue.due(0.0) == NEVER


@pytest.mark.parametrize("opened", [False, True])
def test_a_queue_that_is_not_open_takes_nothing(opened: bool) -> None:
    rig = Rig()
    if opened:
        rig.queue.close()
    else:
        rig.queue = WriteQueue(write_timeout=1.0, pacing=None, wake=lambda: None)
    with pytest.raises(NotConnectedError):
        rig.put("x")
    assert rig.queue.room() is None
    assert rig.queue.flushed() is None


def test_a_sender_that_cannot_wait_is_refused_above_the_limit() -> None:
    rig = Rig()
    rig.put("x" * LIMIT)
    with pytest.raises(SendTimeoutError):
        rig.put("one more")


# --- the gate ----------------------------------------------------------------------------------


def test_the_gate_holds_back_what_is_not_the_login() -> None:
    rig = Rig(gated=True)
    rig.put("early")
    rig.put("login", passes_gate=True)
    assert rig.take() == ["login"]
    assert len(rig.queue) == 1
    rig.queue.open_gate()
    rig.put("late")
    assert rig.take() == ["early", "late"]


def test_the_opened_gate_wakes_the_loop() -> None:
    rig = Rig(gated=True)
    rig.put("early")
    rig.take()
    before = rig.wakes
    rig.queue.open_gate()
    assert rig.wakes == before + 1
    rig.queue.open_gate()
    assert rig.wakes == before + 1


def test_the_opened_gate_wakes_the_loop_once() -> None:
    rig = Rig(gated=True)
    rig.put("early")
    assert rig.wakes == 1
    rig.queue.open_gate()
    assert rig.wakes == 1, "the loop is on its way already"
    assert rig.take() == ["early"]


def test_a_flush_of_the_login_does_not_wait_for_what_is_held_back() -> None:
    rig = Rig(gated=True)
    rig.put("early")
    rig.put("login", passes_gate=True)
    login, other = rig.queue.flushed(passes_gate=True), rig.queue.flushed()
    assert login is not None
    assert other is not None
    rig.take()
    rig.queue.settle_flushes(written=10, unsent=0)
    assert login.done()
    assert not other.done()
    rig.queue.open_gate()
    rig.take()
    rig.queue.settle_flushes(written=20, unsent=0)
    assert other.done()


def test_a_flush_of_the_login_does_not_wait_for_what_the_open_gate_lets_through() -> None:
    """The gate may open before the login has left."""
    rig = Rig(rate=(1, 10.0), gated=True)
    rig.put("early")
    rig.put("login", passes_gate=True)
    flushed = rig.queue.flushed(passes_gate=True)
    assert flushed is not None
    rig.put("more of the login", passes_gate=True)
    rig.queue.open_gate()
    assert rig.take() == ["login"]
    rig.queue.settle_flushes(written=10, unsent=0)
    assert flushed.done()


def test_a_flush_waits_for_what_is_held_back_however_long_the_login_is() -> None:
    """Frames of the login that come later do not count instead."""
    rig = Rig(gated=True)
    rig.put("early")
    flushed = rig.queue.flushed()
    assert flushed is not None
    rig.put("login 1", "login 2", passes_gate=True)
    rig.take()
    rig.queue.settle_flushes(written=20, unsent=0)
    assert not flushed.done()
    rig.queue.open_gate()
    rig.put("late")
    assert rig.take() == ["early", "late"]
    rig.queue.settle_flushes(written=40, unsent=0)
    assert flushed.done()


@pytest.mark.parametrize("rate", [None, (2, 10.0)])
def test_the_login_has_room_whatever_is_held_back(rate: tuple[int, float] | None) -> None:
    """What the gate holds back leaves after the login, so the login cannot wait for it."""
    rig = Rig(rate=rate, gated=True)
    rig.put(*["x" * MARK] * 2)
    assert rig.queue.room() is not None
    assert rig.queue.room(passes_gate=True) is None


def test_the_login_waits_for_its_own_turn_only() -> None:
    rig = Rig(rate=(1, 10.0), gated=True)
    rig.put("early")
    rig.put("login", passes_gate=True)
    room, other = rig.queue.room(passes_gate=True), rig.queue.room()
    assert room is not None
    assert other is not None
    assert rig.take() == ["login"]
    assert room.done()
    assert not other.done()


def test_who_waits_past_the_gate_is_not_forgotten_when_it_opens() -> None:
    rig = Rig(rate=(1, 10.0), gated=True)
    rig.put("login", passes_gate=True)
    room = rig.queue.room(passes_gate=True)
    assert room is not None
    rig.queue.open_gate()
    rig.take()
    assert room.done()


# --- the mark ----------------------------------------------------------------------------------


def test_room_below_the_mark() -> None:
    rig = Rig()
    rig.put("x" * 100)
    assert rig.queue.room() is None


def test_who_waits_for_room_is_told_at_half_the_mark() -> None:
    rig = Rig()
    rig.put(*["x" * CHUNK] * 5)
    room = rig.queue.room()
    assert room is not None
    taken = 0
    while not room.done():
        taken += len(rig.take())
    assert 2 <= taken <= 4


def test_the_decision_and_the_waiting_list_are_one_step() -> None:
    """What is drained between the look and the entry must not be missed."""
    rig = Rig()
    rig.put("x" * (MARK + 1))
    looked, told = threading.Event(), threading.Event()
    rooms: list[Future[None] | None] = []

    class SlowLock:
        """Lets the loop come in between, if there is a between."""

        def __init__(self, real: threading.Lock) -> None:
            self.real = real

        def __enter__(self) -> None:
            self.real.acquire()

        def __exit__(self, *_: object) -> None:
            self.real.release()
            if threading.current_thread().name == "sender":
                looked.set()
                told.wait(5)

    rig.queue._lock = SlowLock(threading.Lock())  # type: ignore[assignment]
    sender = threading.Thread(target=lambda: rooms.append(rig.queue.room()), name="sender")
    sender.start()
    assert looked.wait(5)
    rig.take()
    told.set()
    sender.join(5)
    assert rooms[0] is not None
    assert rooms[0].done()


@pytest.mark.parametrize("what", ["drained", "closed"])
def test_nobody_waits_for_room_that_is_there_meanwhile(what: str) -> None:
    """Or for a connection that is lost: nothing would wake them."""
    rig = Rig()
    rig.put("x" * (MARK + 1))
    happens: Callable[[], object] = rig.take if what == "drained" else rig.queue.close

    class Late:
        """Comes to the lock a moment too late."""

        def __enter__(self) -> None:
            rig.queue._lock = threading.RLock()
            happens()

        def __exit__(self, *_: object) -> None: ...

    rig.queue._lock = Late()  # type: ignore[assignment]
    assert rig.queue.room() is None
    assert rig.queue._room == []


def test_who_gave_up_waiting_is_no_trouble() -> None:
    rig = Rig()
    rig.put("x" * (MARK + 1))
    room = rig.queue.room()
    assert room is not None
    room.cancel()
    rig.take()


def test_who_gave_up_waiting_takes_nobodys_turn() -> None:
    """The queue is empty then, so nothing would wake the next one."""
    rig = Rig(rate=(1, 10.0))
    rig.put("first")
    gives_up, waits = rig.queue.room(), rig.queue.room()
    assert gives_up is not None
    assert waits is not None
    gives_up.cancel()
    assert rig.take() == ["first"]
    assert waits.done()


def test_the_turn_of_a_sender_that_sends_nothing_is_given_back() -> None:
    """It was canceled at its turn, or could not encode its message. Nothing else wakes the next."""
    rig = Rig(rate=(1, 10.0))
    rig.put("first")
    fails, waits = rig.queue.room(), rig.queue.room()
    assert fails is not None
    assert waits is not None
    assert rig.take(0.0) == ["first"]
    assert fails.done()
    assert not waits.done()
    assert rig.queue.due(0.0) < 0.1
    assert rig.take(0.1) == []
    assert waits.done()
    assert rig.queue.due(0.1) == NEVER


# --- flushes -----------------------------------------------------------------------------------


def test_a_flush_ends_when_its_own_bytes_are_written() -> None:
    """Others may go on sending: it does not wait for them."""
    rig = Rig()
    rig.put("mine")
    flushed = rig.queue.flushed()
    assert flushed is not None
    rig.take()
    rig.queue.settle_flushes(written=0, unsent=10)
    rig.put("another's")
    rig.take()
    assert not flushed.done()
    rig.queue.settle_flushes(written=9, unsent=20)
    assert not flushed.done()
    rig.queue.settle_flushes(written=10, unsent=20)
    assert flushed.done()


def test_a_flush_of_nothing_ends_at_the_next_look() -> None:
    rig = Rig()
    flushed = rig.queue.flushed()
    assert flushed is not None
    assert rig.wakes == 1
    rig.queue.settle_flushes(written=0, unsent=0)
    assert flushed.done()


# --- pace --------------------------------------------------------------------------------------


def test_no_window_has_more_messages_than_it_may() -> None:
    rig = Rig(rate=(5, 1.0))
    rig.put(*"abcdefghijkl")
    now = 0.0
    times: list[float] = []
    while len(times) < 12:
        times += [now] * len(rig.take(now))
        now += 0.01
    assert all(times[n + 5] - times[n] > 1.0 for n in range(7))
    assert times[:5] == [0.0] * 5
    assert times[-1] < 2.1


def test_a_paced_sender_waits_for_its_turn() -> None:
    rig = Rig(rate=(2, 1.0))
    rig.put("a", "b")
    room = rig.queue.room()
    assert room is not None
    assert rig.take(0.0) == ["a", "b"]
    assert room.done()
    rig.put("c")
    assert rig.take(0.5) == []
    assert 1.0 < rig.queue.due(0.5) < 1.1


def test_waiting_for_a_turn_is_no_lack_of_progress() -> None:
    rig = Rig(rate=(1, 60.0))
    rig.put("a", "b")
    rig.take(0.0)
    assert rig.queue.check(1.0, written=7, unsent=0) == NEVER
    assert rig.queue.check(50.0, written=7, unsent=0) == NEVER


# --- progress ----------------------------------------------------------------------------------


def test_an_idle_queue_is_never_judged() -> None:
    rig = Rig()
    assert rig.queue.check(0.0, written=0, unsent=0) == NEVER
    assert rig.queue.check(1e6, written=0, unsent=0) == NEVER


def test_nothing_written_for_the_time_limit() -> None:
    """However much is queued meanwhile: that is no progress."""
    rig = Rig()
    rig.put("x")
    rig.take()
    rig.queue.check(0.0, written=0, unsent=7)
    for second in range(1, 10):
        rig.put("heartbeat")
        rig.take()
        assert rig.queue.check(float(second), written=0, unsent=7 + second) <= 10.0
    with pytest.raises(SendTimeoutError, match="10 s"):
        rig.queue.check(10.0, written=0, unsent=17)


def test_every_byte_written_gives_the_whole_time_again() -> None:
    rig = Rig()
    rig.queue.check(0.0, written=0, unsent=7)
    rig.queue.check(9.0, written=1, unsent=6)
    assert rig.queue.check(18.9, written=1, unsent=6) == 19.0
    with pytest.raises(SendTimeoutError):
        rig.queue.check(19.0, written=1, unsent=6)


def test_the_time_begins_anew_after_a_pause_with_nothing_to_write() -> None:
    rig = Rig()
    rig.queue.check(0.0, written=0, unsent=7)
    rig.queue.check(5.0, written=7, unsent=0)
    assert rig.queue.check(100.0, written=7, unsent=9) == 102.5


# --- the end -----------------------------------------------------------------------------------


def test_whoever_waits_is_told_why() -> None:
    rig = Rig()
    rig.put("x" * (MARK + 1))
    room, flushed = rig.queue.room(), rig.queue.flushed()
    assert room is not None
    assert flushed is not None
    rig.queue.close(SendTimeoutError("stuck"))
    for future in (room, flushed):
        with pytest.raises(SendTimeoutError, match="stuck"):
            future.result(0)


def test_who_waits_is_told_of_a_lost_connection_only() -> None:
    """Whatever has ended it: `send` and `flush` raise what their docstrings name."""
    rig = Rig()
    rig.put("x")
    flushed = rig.queue.flushed()
    assert flushed is not None
    rig.queue.close(LeaseError("the lease is lost"))
    with pytest.raises(NotConnectedError, match="lost while sending: the lease is lost"):
        flushed.result(0)


def test_after_a_fork_the_lock_is_a_new_one() -> None:
    rig = Rig()
    rig.queue._lock.acquire()
    rig.queue.abandon()
    with pytest.raises(NotConnectedError):
        rig.put("x")


# --- finalizers --------------------------------------------------------------------------------


class Finalizer:
    """Sends at one of the lines of the queue, as if the garbage collector ran there."""

    def __init__(self, rig: Rig, at: int) -> None:
        self._rig = rig
        self._at = at
        self.lines = 0

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != write_queue.__file__:
            return None
        self.lines += event == "line"
        if event == "line" and self.lines == self._at:
            sys.settrace(None)
            self._rig.put("finalizer")
        return self.trace


def sends_at_each_line(work: Callable[[WriteQueue], None]) -> Iterator[WriteQueue]:
    """Do the work again and again, each time with a finalizer at another line of it."""
    for at in itertools.count(1):
        rig = Rig(rate=(3, 1.0), gated=True)
        finalizer = Finalizer(rig, at)
        before = sys.gettrace()
        sys.settrace(finalizer.trace)
        try:
            work(rig.queue)
        finally:
            sys.settrace(before)
        yield rig.queue
        if finalizer.lines < at:
            return


def send_some(queue: WriteQueue) -> None:
    queue.put(text("login"), passes_gate=True)
    queue.put(text("a"))
    queue.flushed()
    queue.open_gate()
    queue.put(text("b"))
    queue.room()
    queue.take(0.0)
    queue.due(0.0)


def test_a_finalizer_may_send_at_any_line_of_the_queue() -> None:
    """Its thread held the lock, and waited for it forever: every sender and the loop hung."""
    found = set()

    def look() -> None:
        for queue in sends_at_each_line(send_some):
            for now in (0.0, 10.0, 20.0):
                queue.take(now)
            found.add((queue._taken, queue._bytes, len(queue)))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(20)
    assert not looking.is_alive()
    assert found == {(3, 0, 0), (4, 0, 0)}  # none is lost; 3 is the last time, without it
