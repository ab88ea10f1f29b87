"""`request()` and `receive()`: which messages each sees, and how each ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from datastream_ws import Message, NotConnectedError
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.requests import Requests
from datastream_ws.messages import Origin

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")


def messages(*payloads: str) -> list[Message]:
    return [Message(data, ORIGIN, seq, 0.0) for seq, data in enumerate(payloads, 1)]


def called(name: str) -> Any:
    return lambda message: message.data == name


class Rig:
    """Requests, and who waits for what."""

    def __init__(self, most: int = 100) -> None:
        self.waits = 0
        self.sent: list[str] = []
        self.requests = Requests(most, self.note_wait, "prices")

    def note_wait(self) -> None:
        self.waits += 1

    async def begin(self, match: Any = None, send: Any = None, timeout: Any = None) -> Any:
        task = asyncio.create_task(self.requests.first(match, send, timeout))
        await asyncio.sleep(0)
        return task

    async def received(self, match: Any = None) -> Any:
        """What a receive finds among the messages that have come."""
        return (await asyncio.wait_for(self.requests.first(match), 1)).data


async def test_the_first_that_matches_from_then_on() -> None:
    rig = Rig()
    rig.requests.answer(messages("b"))
    asking = await rig.begin(called("b"), lambda: rig.sent.append("ask"))
    assert (rig.sent, rig.waits, rig.requests.are_waiting) == (["ask"], 1, True)
    rig.requests.answer(messages("a"))
    assert not asking.done()
    rig.requests.answer(messages("a", "b", "b"))
    assert (await asking).seq == 2
    assert not rig.requests.are_waiting
    assert not rig.requests.want_messages


async def test_several_wait_at_once() -> None:
    rig = Rig()
    tasks = [await rig.begin(called(name), lambda: None) for name in "abb"]
    rig.requests.answer(messages("b", "a"))
    assert [(await task).data for task in tasks] == ["a", "b", "b"]


async def test_a_match_that_raises_fails_its_own_request_only() -> None:
    rig = Rig()
    broken = await rig.begin(lambda message: 1 / 0, lambda: None)
    other = await rig.begin(called("b"), lambda: None)
    rig.requests.answer(messages("a", "b"))
    with pytest.raises(ZeroDivisionError):
        await broken
    assert (await other).data == "b"


@pytest.mark.parametrize("kind", [StopIteration, asyncio.CancelledError, SystemExit])
async def test_a_match_that_raises_what_no_future_takes(kind: type[BaseException]) -> None:
    """It came out of the socket's callback instead, and the connection ended."""
    rig = Rig()

    def match(message: Message) -> bool:
        raise kind

    broken = await rig.begin(match, lambda: None)
    rig.requests.answer(messages("a"))
    with pytest.raises(RuntimeError, match=f"match raised {kind.__name__}"):
        await broken


async def test_send_that_raises() -> None:
    rig = Rig()
    with pytest.raises(ZeroDivisionError):
        await rig.requests.first(None, lambda: 1 / 0)
    assert not rig.requests.are_waiting


async def test_the_connection_ends() -> None:
    rig = Rig()
    asking = await rig.begin(called("a"), lambda: None)
    rig.requests.fail(NotConnectedError("gone"))
    with pytest.raises(NotConnectedError, match="gone"):
        await asking


async def test_whoever_gave_up_is_not_failed_again() -> None:
    rig = Rig()
    asking = await rig.begin(called("a"), lambda: None)
    asking.cancel()
    rig.requests.fail(NotConnectedError("gone"))
    with pytest.raises(asyncio.CancelledError):
        await asking
    rig.requests.answer(messages("a"))


@pytest.mark.parametrize(
    ("send", "text"),
    [
        (lambda: None, "no reply"),
        (
            None,
            "no message that matches",
        ),
    ],
    ids=["request", "receive"],
)
async def test_a_timeout_says_what_was_waited_for(send: Any, text: str) -> None:
    rig = Rig()
    asking = await rig.begin(called("x"), send, 0.01)
    rig.requests.answer(messages("a", "b"))
    with pytest.raises(TimeoutError) as caught:
        await asking
    assert str(caught.value) == (
        f"stream prices: {text} within 0.01 s; messages received meanwhile: 2"
    )
    assert not rig.requests.are_waiting


async def test_a_timeout_of_the_users_match_is_left_alone() -> None:
    rig = Rig()

    def match(message: Message) -> None:
        raise TimeoutError("theirs")

    asking = await rig.begin(match, lambda: None, 60)
    rig.requests.answer(messages("a"))
    with pytest.raises(TimeoutError, match="theirs"):
        await asking


# --- receive, while a connection gets ready ---


async def test_receive_sees_every_message_from_the_first() -> None:
    """Also those that came before it was called; each once."""
    rig = Rig()
    rig.requests.opened()
    rig.requests.answer(messages("hello", "a", "b"))
    assert [await rig.received() for _ in range(3)] == ["hello", "a", "b"]
    asking = await rig.begin()
    rig.requests.answer(messages("c", "d"))
    assert (await asking).data == "c"
    assert await rig.received() == "d"


async def test_receive_goes_on_after_the_one_that_was_returned() -> None:
    """What it passed over is looked at by no later one."""
    rig = Rig()
    rig.requests.opened()
    rig.requests.answer(messages("a", "b", "c"))
    assert await rig.received(called("b")) == "b"
    asking = await rig.begin(called("a"))
    rig.requests.answer(messages("x", "a", "y"))
    assert (await asking).seq == 2
    assert await rig.received() == "y"


async def test_a_request_takes_nothing_from_a_receive() -> None:
    rig = Rig()
    rig.requests.opened()
    rig.requests.answer(messages("hello"))
    asking = await rig.begin(called("welcome"), lambda: None)
    rig.requests.answer(messages("welcome"))
    assert (await asking).data == "welcome"
    assert [await rig.received(), await rig.received()] == ["hello", "welcome"]


async def test_nothing_is_kept_once_the_connection_is_ready() -> None:
    """Then a receive is given what comes next; no message is looked at for nobody."""
    rig = Rig()
    rig.requests.opened()
    wanted = [rig.requests.want_messages]
    rig.requests.answer(messages("old"))
    rig.requests.ready()
    wanted.append(rig.requests.want_messages)
    assert wanted == [True, False]
    asking = await rig.begin()
    rig.requests.answer(messages("new"))
    assert (await asking).data == "new"


async def test_each_connection_begins_anew() -> None:
    rig = Rig()
    rig.requests.opened()
    rig.requests.answer(messages("old"))
    rig.requests.fail(NotConnectedError("gone"))
    rig.requests.opened()
    rig.requests.answer(messages("new"))
    assert await rig.received() == "new"


async def test_so_many_are_kept() -> None:
    """The newest: a hook that asks late still finds where the server is."""
    rig = Rig(most=2)
    rig.requests.opened()
    rig.requests.answer(messages("a", "b", "c"))
    assert await rig.received() == "b"
