"""The end of a client, read like a transcript: goodbye, drain, flush, close. No sockets."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from datastream_ws import State
from datastream_ws.exceptions import SpoolError
from kit.offline import FakeLease, FakeSpool, Log, Story


def dropped(story: Story) -> int:
    return sum(story.client.stats().messages_dropped.values())


def test_closed_when_idle() -> None:
    with Story() as story:
        story.start()
        story.call(story.client.close(1.0, 4000, "bye"))
        assert story.engine.closed_with == (4000, "bye")
        assert story.told[3:] == ["closing", "disconnect 1: 1000, the last", "closed"] or (
            story.told[3:] == ["closing", "disconnect 1: 4000, the last", "closed"]
        )


def test_closed_before_it_was_connected() -> None:
    with Story() as story:
        story.world.is_hanging = True
        story.start()
        story.call(story.client.close())
        assert story.told == ["connecting", "closed"]


def test_closed_while_it_hangs_up() -> None:
    with Story(close_timeout=30.0) as story:
        story.world.answers_close = False
        story.start()
        story.call(story.client.pause())
        story.passes(1.0)
        story.call(story.client.close(1.0))
        assert story.client.state is State.CLOSED
        assert story.world.open_engines == []


def test_closed_while_a_peer_lingers() -> None:
    with Story(min_reconnect_delay=20.0) as story:
        story.start()
        story.happens(story.engine.peer_closes, 1012, lingers=True)
        story.passes(0.5)
        story.call(story.client.close(1.0))
        assert story.world.open_engines == []


def test_close_0_ends_at_once_and_says_goodbye() -> None:
    with Story() as story:
        story.start()
        began = story.loop.time()
        story.call(story.client.close(0.0))
        assert story.loop.time() - began < 1.0
        assert story.engine.closed_with == (1000, "")


def test_a_later_close_only_shortens_it() -> None:
    with Story() as story:
        story.world.answers_close = False
        story.start()
        first = story.soon(story.client.close(30.0))
        story.passes(1.0)
        story.call(story.client.close(0.5))
        assert first.done() or story.client.state is State.CLOSED


def test_on_closing_may_still_send() -> None:
    with Story() as story:

        @story.client.on_closing
        async def goodbye() -> None:
            await story.client.send("goodbye")

        story.start()
        story.call(story.client.close())
        assert story.engine.sent == ["goodbye"]


def test_on_closing_that_raises_is_told() -> None:
    with Story() as story:

        @story.client.on_closing
        async def goodbye() -> None:
            raise LookupError("goodbye")

        story.start()
        story.call(story.client.close())
        assert any("on_closing" in line and "LookupError" in line for line in story.told)


def test_on_closing_that_hangs_has_until_the_deadline() -> None:
    with Story() as story:

        @story.client.on_closing
        async def hang() -> None:
            await asyncio.Event().wait()

        story.start()
        began = story.loop.time()
        story.call(story.client.close(5.0))
        assert 4.0 <= story.loop.time() - began <= 6.0
        assert story.client.state is State.CLOSED


def test_an_on_error_that_ignores_its_cancellation_holds_up_nothing() -> None:
    """It is named in the log, with its stack."""
    log, go_on = Log(), asyncio.Event()
    with Story(logger=log) as story:

        @story.client.on_error
        async def stubborn(error: BaseException) -> None:
            for _ in range(3):
                with suppress(asyncio.CancelledError):
                    await go_on.wait()

        story.start()
        story.happens(story.engine.drop)
        story.passes(5.0)
        began = story.loop.time()
        story.call(story.client.close(1.0))
        assert story.loop.time() - began <= 2.0
        assert story.client.state is State.CLOSED
        story.happens(go_on.set)
        story.passes(0.1)
    [line] = [line for line in log.lines if "ignores its cancellation" in line]
    assert "stubborn" in line
    assert "await go_on.wait()" in line


def test_what_was_received_is_handled_first() -> None:
    with Story() as story:
        handled: list[Any] = []

        @story.client.on_message
        async def handle(message: Any) -> None:
            await asyncio.sleep(0.5)
            handled.append(message.data)

        story.begin()
        story.passes(1.0)
        story.happens(story.engine.deliver, "a", "b", "c")
        story.passes(0.0)
        story.call(story.client.close(5.0))
        assert handled == ["a", "b", "c"]
        assert dropped(story) == 0


def test_what_cannot_be_handled_in_time_is_dropped_and_counted() -> None:
    with Story() as story:

        @story.client.on_message
        async def hang(message: Any) -> None:
            await asyncio.Event().wait()

        story.begin()
        story.passes(1.0)
        story.happens(story.engine.deliver, "a", "b", "c")
        story.passes(0.1)
        story.call(story.client.close(2.0))
        assert story.client.state is State.CLOSED
        assert dropped(story) + story.client.stats().messages_failed == 3


def test_what_is_queued_is_flushed() -> None:
    with Story() as story:
        story.start()
        story.world.is_stuck = True
        story.call(story.client.send("stuck"))
        story.passes(0.1)
        closing = story.soon(story.client.close(10.0))
        story.passes(1.0)
        assert not closing.done()
        story.world.is_stuck = False
        story.happens(story.engine.take_bytes)
        story.passes(1.0)
        assert closing.done()


def test_what_cannot_be_flushed_ends_with_the_deadline() -> None:
    with Story() as story:
        story.start()
        story.world.is_stuck = True
        story.call(story.client.send("stuck"))
        story.passes(0.1)
        story.call(story.client.close(2.0))
        assert story.client.state is State.CLOSED


def test_in_a_task_that_a_handler_has_started() -> None:
    """Such a close waits for the end; one in the handler itself could not."""
    with Story() as story:
        states: list[State] = []

        async def close() -> None:
            await story.client.close(1.0)
            states.append(story.client.state)

        @story.client.on_message
        async def handle(message: Any) -> None:
            if message.data == "task":
                story.soon(close())
            else:
                await close()

        story.begin()
        story.passes(1.0)
        story.happens(story.engine.deliver, "task")
        story.passes(3.0)
        assert states == [State.CLOSED]
        story.begin()
        story.passes(1.0)
        story.happens(story.engine.deliver, "here")
        story.passes(3.0)
        assert states[1] is not State.CLOSED
        assert story.client.state is State.CLOSED


def begin_with_a_hang(story: Story, amid: str) -> None:
    """Start a client whose end will hang in ``on_closing``, in a handler, or in the close."""

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    if amid == "on_closing":
        story.client.on_closing(hang)
    story.client.on_message(hang)
    story.world.answers_close = amid != "close"
    story.begin()
    story.passes(1.0)
    if amid == "drain":
        story.happens(story.engine.deliver, "a", "b")
        story.passes(0.1)


@pytest.mark.parametrize("amid", ["on_closing", "drain", "close"])
def test_lease_lost_amid_the_end(amid: str) -> None:
    """Nothing is handed on any more, and no connection is open beside the next owner's."""
    lease = FakeLease()
    with Story(lease=lease, name="x") as story:
        begin_with_a_hang(story, amid)
        closing = story.soon(story.client.close(10.0))
        story.passes(1.0)
        assert not closing.done()
        lease.take_away()
        story.passes(0.2)
        assert story.world.open_engines == []
        story.passes(12.0)
        assert closing.done()


def test_lease_lost_amid_the_end_between_two_connections() -> None:
    """What the handler has not got to belongs to the next owner."""
    lease = FakeLease()
    with Story(lease=lease, name="x", min_reconnect_delay=20.0) as story:
        begin_with_a_hang(story, "drain")
        story.happens(story.engine.drop)
        story.passes(0.5)
        closing = story.soon(story.client.close(10.0))
        story.passes(1.0)
        assert not closing.done()
        lease.take_away()
        story.passes(2.0)
        assert closing.done()
        assert story.client.stats().messages_dropped["lease_lost"] > 0


@pytest.mark.parametrize("amid", ["on_closing", "drain", "close"])
def test_the_loop_ends_amid_the_end(tmp_path: Any, amid: str) -> None:
    """As after ``wait_for(client.close(10), 1)``: asyncio.run() then cancels all tasks."""
    lease = FakeLease()
    with Story(spool=str(tmp_path / "x"), lease=lease, name="x") as story:
        begin_with_a_hang(story, amid)
        story.soon(story.client.close(10.0))
        story.passes(1.0)
        assert story.client.state is State.CLOSING
        for task in asyncio.all_tasks(story.loop):
            task.cancel()
        story.passes(3.0)
        assert story.world.open_engines == []
        assert (story.spool.closed, lease.ended) == (1, 1)
        assert story.told[-2:] == ["disconnect 1: 1006, the last", "closed"]


def test_closed_while_it_leaves_a_lost_lease() -> None:
    lease = FakeLease()
    with Story(lease=lease, name="x", lease_ttl=60.0) as story:
        story.world.answers_close = False
        story.start()
        lease.hang()
        story.passes(0.5)
        assert story.world.open_engines == [story.engine], "it says goodbye while there is time"
        began = story.loop.time()
        story.call(story.client.close(0.0))
        assert story.loop.time() - began < 0.5
        assert story.client.state is State.CLOSED


def test_a_fatal_error_closes_what_is_there() -> None:
    """FAILED after CLOSING: what was received is handled."""
    with Story(max_reconnect_attempts=1) as story:
        story.start()
        story.happens(story.engine.deliver, "last")
        story.happens(story.engine.drop)
        story.passes(1.0)
        assert story.messages == ["last"]
        assert story.client.state is State.FAILED


def test_an_internal_error_amid_the_end_skips_one_step() -> None:
    """It is the client's error; the connection is closed all the same."""
    with Story() as story:
        begin_with_a_hang(story, "drain")
        life = story.client._life
        assert life is not None

        async def breaks() -> None:
            raise ZeroDivisionError("a bug of ours")

        story.patch.setattr(life.parts.dispatcher, "drain", breaks)
        story.call(story.client.close(5.0))
        assert story.engine.closed_with == (1000, "")
        assert story.client.state is State.FAILED
        assert isinstance(story.client.error, ZeroDivisionError)


def test_an_error_that_is_false_is_an_error() -> None:
    """As an exception that has a length of 0, which a hook may raise."""

    class Empty(Exception):
        def __len__(self) -> int:
            return 0

    with Story(retry=lambda error: False) as story:

        @story.client.on_ready
        async def fail() -> None:
            raise Empty

        story.start()
        assert story.client.state is State.FAILED
        assert isinstance(story.client.error, Empty)


# --- a spool -----------------------------------------------------------------------------------


def test_spool_is_opened_before_and_closed_after(tmp_path: Any) -> None:
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.start()
        assert story.spool.opened == 1
        story.call(story.client.close(1.0))
        assert story.spool.closed == 1


def test_spool_that_fails_to_open(tmp_path: Any) -> None:
    """It is final, and says why."""
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.spools.append(SpoolError("no disk"))
        story.start()
        assert story.client.state is State.FAILED
        assert story.world.engines == []


def test_spool_that_dies_while_it_opens(tmp_path: Any) -> None:
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.spools.append(BaseException("odd"))
        story.start()
        assert story.client.state is State.FAILED
        assert isinstance(story.client.error, SpoolError)


def test_spool_that_is_slow_to_open(tmp_path: Any) -> None:
    """Nothing is dialled before; a close waits for it, a little."""
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.spools.append(FakeSpool.SLOW)
        story.start()
        assert story.world.engines == []
        story.call(story.client.reconnect())
        story.passes(0.5)
        story.call(story.client.close(1.0))
        assert story.client.state is State.CLOSED


def test_spool_that_fails_to_open_once_it_is_too_late(tmp_path: Any) -> None:
    """No start needs it any more, so its error is no news either."""
    opening: list[Future[None]] = [Future()]
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.patch.setattr(FakeSpool, "open", lambda spool: opening[0])
        story.start()
        story.soon(story.client.close(5.0))
        story.passes(0.5)
        story.happens(opening.pop().set_exception, SpoolError("no disk"))
        story.passes(0.5)
        assert story.told == ["connecting", "closed"]
        assert story.client._life is not None
        story.client._life.parts.spool_opened = None
        gc.collect()
        assert story.broken == []


def test_spool_that_opens_amid_a_reconnect(tmp_path: Any) -> None:
    """The epoch is above that of its messages, also if the clock was set back since then."""
    opening: Future[None] = Future()
    later = 10**15
    epochs: list[int] = []
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.patch.setattr(FakeSpool, "open", lambda spool: opening)
        story.client.on_message(lambda message: epochs.append(message.epoch))

        def opened() -> None:
            story.spool.epoch, story.spool.is_open = later, True
            opening.set_result(None)

        story.start()
        story.soon(story.client.reconnect())
        story.happens(opened)
        story.passes(1.0)
        story.happens(story.engine.deliver, "x")
        story.passes(1.0)
        assert epochs == [later + 1]


@pytest.mark.parametrize("end", ["slow", "unfinished"])
def test_spool_at_the_end(tmp_path: Any, end: str) -> None:
    with Story(spool=str(tmp_path / "x"), name="x") as story:
        story.start()
        story.spool.is_slow_to_close = end == "slow"
        story.spool.unfinished = 2
        story.call(story.client.close(1.0))
        assert story.client.state is State.CLOSED
        told = "error spool: the file could not be closed in time"
        assert (told in story.told) is (end == "slow")


def test_spool_and_lease(tmp_path: Any) -> None:
    """A new tenure looks into the file for what an earlier one has left."""
    lease = FakeLease()
    with Story(spool=str(tmp_path / "x"), name="x", lease=lease) as story:
        story.start()
        assert story.spool.nudges == 1
        assert story.client.is_ready
