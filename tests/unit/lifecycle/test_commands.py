"""Commands: the last word of the verbs counts."""

from __future__ import annotations

import asyncio

import pytest

from datastream_ws import ConfigurationError
from datastream_ws.lifecycle.commands import CloseFrame, Commands, close_frame


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def commands(clock: Clock) -> Commands:
    return Commands(clock)


async def wait_on(commands: Commands) -> asyncio.Task[None]:
    waiting = asyncio.create_task(commands.changed.wait())
    await asyncio.sleep(0)
    return waiting


async def is_asleep(waiting: asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not waiting.done()


def test_nothing_is_asked_for_at_first(commands: Commands) -> None:
    assert commands.close_frame is None
    assert not commands.is_closing
    assert not commands.is_paused
    assert commands.left == float("inf")


async def test_pause_and_resume_leave_nothing_to_do(commands: Commands) -> None:
    commands.pause(CloseFrame(4000, "for lunch"))
    assert commands.close_frame == (4000, "for lunch")
    waiting = await wait_on(commands)
    commands.resume()
    left: CloseFrame | None = commands.close_frame
    assert left is None
    await asyncio.wait_for(waiting, 1)


async def test_the_same_word_again_is_no_news(commands: Commands) -> None:
    waiting = await wait_on(commands)
    commands.resume()
    assert await is_asleep(waiting)
    commands.pause(CloseFrame(1000, "first"))
    await asyncio.wait_for(waiting, 1)
    waiting = await wait_on(commands)
    commands.pause(CloseFrame(1000, "second"))
    assert await is_asleep(waiting)
    assert commands.close_frame == (1000, "first")
    waiting.cancel()


def test_a_reconnect_is_what_the_next_attempt_is(commands: Commands) -> None:
    commands.reconnect(CloseFrame(1001))
    assert commands.close_frame == (1001, "")
    commands.begin_attempt()
    left: CloseFrame | None = commands.close_frame
    assert left is None


def test_a_pause_outlives_reconnects_and_attempts(commands: Commands) -> None:
    commands.pause(CloseFrame(1000, "paused"))
    commands.reconnect(CloseFrame(1001, "again"))
    commands.begin_attempt()
    assert commands.close_frame == (1000, "paused")


def test_a_deadline_may_only_be_shortened(commands: Commands, clock: Clock) -> None:
    commands.close(10.0, CloseFrame(1001, "first"))
    clock.now = 1.0
    commands.close(20.0, CloseFrame(1000, "later"))
    assert commands.left == 9.0
    commands.close(2.0)
    assert commands.left == 2.0
    assert commands.final_frame == (1001, "first")
    assert commands.is_closing


async def test_who_waits_hears_of_every_word(commands: Commands) -> None:
    waiting = await wait_on(commands)
    commands.reconnect(CloseFrame())
    await asyncio.wait_for(waiting, 1)


async def test_who_waits_gives_up_in_time(commands: Commands) -> None:
    await asyncio.wait_for(commands.changed.wait(timeout=0.001), 1)


async def test_who_waits_hears_of_other_things(commands: Commands) -> None:
    thing = asyncio.get_running_loop().create_future()
    thing.set_result(None)
    await asyncio.wait_for(commands.changed.wait(thing), 1)


@pytest.mark.parametrize(
    ("code", "reason", "wrong"),
    [
        (999, "", "code"),
        (1002, "", "code"),
        (2999, "", "code"),
        (5000, "", "code"),
        (True, "", "code"),
        ("1000", "", "code"),
        (1000, b"bye", "reason"),
        (1000, "é" * 62, "reason"),
    ],
)
def test_close_frames_that_a_client_may_not_send(code: object, reason: object, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{wrong}: must be"):
        close_frame(code, reason)


def test_close_frames_that_a_client_may_send() -> None:
    for code in (1000, 1001, 3000, 4999):
        assert close_frame(code, "é" * 61) == (code, "é" * 61)
