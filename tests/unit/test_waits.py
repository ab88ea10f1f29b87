"""Every wait of a verb has an end, in time, and what it ends with says what was waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from datastream_ws import AsyncClient, NotConnectedError, SendTimeoutError, State, forks
from kit.offline import Story

Wait = Callable[[AsyncClient], Any]
BIG = "x" * 2**21  # above the write queue's mark


def never(message: object) -> bool:
    return False


async def fill(client: AsyncClient) -> None:
    """Send until the queue is full."""
    while True:
        await client.send(BIG)


def dials_hang(story: Story) -> None:
    story.world.is_hanging = True
    story.begin()
    story.passes(1.0)


def network_takes_nothing(story: Story) -> None:
    story.start()
    story.world.is_stuck = True
    story.call(story.client.send(BIG))
    story.passes(0.01)


# How the stream is, the verb, what it ends with, after how many seconds, and its text.
WAITS: list[tuple[Callable[[Story], None], Wait, type[Exception], float, str]] = [
    (dials_hang, lambda c: c.wait_ready(2.0), TimeoutError, 2.0,
     "is connecting, not ready, after 2.0 s"),
    (Story.start, lambda c: c.wait_closed(2.0), TimeoutError, 2.0,
     "is ready, not closed, after 2.0 s"),
    (dials_hang, lambda c: c.send("x", wait=2.0), NotConnectedError, 2.0,
     "is connecting: no connection within 2 s"),
    (network_takes_nothing, fill, SendTimeoutError, 3.0,
     "no data could be sent for 3 s (write_timeout)"),
    (network_takes_nothing, lambda c: c.flush(2.0), TimeoutError, 2.0,
     "messages are still unsent after 2.0 s"),
    (Story.start, lambda c: c.request("?", never, 2.0), TimeoutError, 2.0,
     "no reply within 2 s; messages received meanwhile: 0"),
    (Story.start, lambda c: c.receive(never, 2.0), TimeoutError, 2.0,
     "no message that matches within 2 s; messages received meanwhile: 0"),
]  # fmt: skip


@pytest.mark.parametrize(("scene", "verb", "kind", "seconds", "text"), WAITS)
def test_a_wait(
    scene: Callable[[Story], None], verb: Wait, kind: type[Exception], seconds: float, text: str
) -> None:
    with Story(write_timeout=3.0, open_timeout=None, ping_interval=None) as story:
        scene(story)
        began = story.loop.time()
        with pytest.raises(kind) as caught:
            story.call(verb(story.client))
        assert story.loop.time() - began == pytest.approx(seconds, abs=0.2)
        assert text in str(caught.value)
        if kind is not SendTimeoutError:  # it is the connection's, which the log names
            assert "stream default" in str(caught.value)
        story.world.is_hanging = story.world.is_stuck = False


@pytest.mark.parametrize(
    "verb",
    [
        lambda c: c.wait_ready(),
        lambda c: c.wait_closed(),
        lambda c: c.send("x", wait=3600.0),
        lambda c: c.request("?", never, None),
        lambda c: c.receive(never, None),
        lambda c: c.flush(),
        lambda c: c.send(BIG),
    ],
)
@pytest.mark.parametrize("scene", [dials_hang, Story.start, network_takes_nothing])
def test_no_wait_outlives_the_client(scene: Callable[[Story], None], verb: Wait) -> None:
    """Those without a time limit end with it, with an error or a result."""
    with Story(write_timeout=3600.0, open_timeout=None, ping_interval=None) as story:
        scene(story)
        waiting = story.soon(_quietly(verb(story.client)))
        story.passes(0.1)
        story.call(story.client.close(1.0))
        story.passes(1.0)
        assert waiting.done()
        assert story.client.state is State.CLOSED


async def _quietly(wait: Any) -> None:
    """Await it; an error says something."""
    text = "a result"
    try:
        await wait
    except Exception as error:
        text = str(error)
    assert text


@pytest.mark.parametrize(
    "verb",
    [
        lambda c: c.reconnect(),
        lambda c: c.pause(),
        lambda c: c.resume(),
        lambda c: c.subscribe("s", "k", "u"),
        lambda c: c.unsubscribe("k"),
    ],
)
@pytest.mark.parametrize("scene", [dials_hang, Story.start, network_takes_nothing])
def test_commands_do_not_wait(scene: Callable[[Story], None], verb: Wait) -> None:
    with Story(write_timeout=3600.0, open_timeout=None, ping_interval=None) as story:
        story.call(story.client.subscribe("s", "k", "u"))
        scene(story)
        began = story.loop.time()
        story.call(verb(story.client))
        assert story.loop.time() - began < 0.1
        story.world.is_hanging = story.world.is_stuck = False


@pytest.mark.leaks_allowed("the loop is closed before the client that runs on it")
@pytest.mark.parametrize(
    ("verb", "raises"),
    [
        (lambda c: c.wait_ready(), True),
        (lambda c: c.send("x", wait=60.0), True),
        (lambda c: c.flush(), True),
        (lambda c: c.receive(), True),
        (lambda c: c.reconnect(), True),
        (lambda c: c.subscribe("s"), False),
        (lambda c: c.close(), False),
        (lambda c: c.wait_closed(), False),
    ],
)
@pytest.mark.parametrize("scene", [dials_hang, Story.start])
def test_no_verb_waits_once_the_loop_is_closed(
    scene: Callable[[Story], None], verb: Wait, raises: bool
) -> None:
    story = Story(open_timeout=None, ping_interval=None)
    try:
        scene(story)
        story.loop.close()
        began = time.monotonic()
        with pytest.raises(NotConnectedError) if raises else nullcontext():
            asyncio.run(asyncio.wait_for(verb(story.client), 1.5))
        assert time.monotonic() - began < 1.0
        assert story.client.state is State.CLOSED
    finally:
        story.patch.undo()


def test_wait_ready_in_a_child_of_a_fork_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the parent's client, whose changes of state the child never sees."""
    monkeypatch.setattr(forks, "_renewals", forks.Callbacks())
    monkeypatch.setattr(forks, "_clients", forks.Callbacks())
    monkeypatch.setattr(forks, "_pid", forks._pid)
    story = Story(open_timeout=None, ping_interval=None)
    try:
        dials_hang(story)
        forks._pid = -1
        with pytest.raises(NotConnectedError):
            story.call(asyncio.wait_for(story.client.wait_ready(), 5))
    finally:
        story.close()


def test_errors_end_with_their_time_limit_and_with_the_client() -> None:
    with Story() as story:
        story.start()

        async def read(timeout: float | None) -> list[BaseException]:
            return [error async for error in story.client.errors(timeout)]

        began = story.loop.time()
        assert story.call(read(2.0)) == []
        assert story.loop.time() - began == pytest.approx(2.0, abs=0.1)
        reading = story.soon(_quietly(read(None)))
        story.passes(1.0)
        assert not reading.done()
        story.call(story.client.close(1.0))
        story.passes(0.1)
        assert reading.done()


@pytest.mark.parametrize("what", ["handler", "hook", "report", "network"])
def test_close_ends_whatever_hangs(what: str) -> None:
    """Within its time and a second."""
    with Story(write_timeout=3600.0, ping_interval=None) as story:
        hanging: list[str] = []

        async def hang(*_: object) -> None:
            hanging.append(what)
            await asyncio.Event().wait()

        client = story.client
        if what == "handler":
            client.on_message(hang)
        elif what == "hook":
            client.on_closing(hang)
        elif what == "report":
            client.on_state(hang)
        if what == "network":
            network_takes_nothing(story)
        else:
            story.begin()  # with no plain handler, coroutine handlers run on the loop
            story.passes(1.0)
        story.happens(story.engine.deliver, "x")
        story.passes(0.1)
        began = story.loop.time()
        story.call(client.close(2.0))
        assert what == "network" or hanging
        assert story.loop.time() - began <= 3.0
        assert client.state is State.CLOSED
