"""What a stream does when two things happen at once, without a network and in virtual time."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from datastream_ws import (
    AsyncClient,
    DisconnectEvent,
    HandshakeError,
    Message,
    NotConnectedError,
    SendTimeoutError,
    State,
    StreamClosedError,
)
from kit.fakeengine import InlineThreads, World
from kit.offline import ENGINE
from kit.scene import Stream, play
from kit.seen import eventually
from kit.virtualtime import VirtualLoop


def test_pause_and_resume_back_to_back_leave_one_connection() -> None:
    async def scene(stream: Stream) -> None:
        await stream.start()
        await stream.client.pause()
        await stream.client.resume()
        await asyncio.sleep(5.0)
        assert stream.state() is State.READY
        assert len(stream.world.open_engines) == 1
        await stream.client.close()
        assert stream.world.open_engines == []

    play(scene)


def test_write_timeout_ends_a_stuck_connection_that_is_written_to_all_the_time() -> None:
    """The heartbeat adds to the queue four times within it: that is no progress."""

    async def scene(stream: Stream) -> None:
        errors: list[BaseException] = []
        stream.client.on_error(errors.append)
        await stream.start(1.0)
        stream.world.is_stuck = True
        await asyncio.sleep(2.0 + 1.0)
        assert isinstance(errors[0], SendTimeoutError)
        assert len(stream.world.engines) > 1

    play(scene, write_timeout=2.0, heartbeat="beat", heartbeat_interval=0.5)


def test_send_waits_for_the_next_connection_once_the_peer_has_said_goodbye() -> None:
    """Though the socket of the last one is still there."""

    async def scene(stream: Stream) -> None:
        await stream.start()
        stream.engine.peer_closes(1001, "deploying", lingers=True)
        assert not stream.client.is_ready
        await stream.client.send("x", wait=10.0)
        await asyncio.sleep(0.1)
        assert [engine.sent for engine in stream.world.engines] == [[], ["x"]]

    play(scene)


def test_each_connection_logs_in_then_subscribes_then_resumes() -> None:
    async def scene(stream: Stream) -> None:
        client = stream.client

        @client.on_connect
        async def login() -> None:
            await client.send("login")

        @client.on_ready
        async def resume() -> None:
            await client.send("resume")

        await client.subscribe("subscribe")
        await stream.start()
        stream.engine.drop()
        await asyncio.sleep(5.0)
        told = [engine.sent for engine in stream.world.engines]
        assert told == [["login", "subscribe", "resume"]] * 2

    play(scene)


def test_subscriptions_come_back_no_faster_than_send_rate() -> None:
    """In no second more than five, and all of them."""

    async def scene(stream: Stream) -> None:
        for key in range(12):
            await stream.client.subscribe(f"subscribe {key}", key=key)
        await stream.start(10.0)
        counts = [len(stream.world.sent)]
        stream.engine.drop()
        for _ in range(100):
            await asyncio.sleep(0.1)
            counts.append(len(stream.world.sent))
        assert max(b - a for a, b in zip(counts, counts[10:], strict=False)) <= 5
        assert stream.engine.sent == [f"subscribe {key}" for key in range(12)]
        assert stream.state() is State.READY

    play(scene, send_rate=(5, 1.0))


def test_a_login_may_wait_for_what_the_server_says_first() -> None:
    async def scene(stream: Stream) -> None:
        client = stream.client

        @client.on_connect
        async def identify() -> None:
            hello = await client.receive(lambda message: message.is_text)
            await client.send(hello.data)

        await client.start()
        for number in (1, 2):
            await asyncio.sleep(5.0)
            assert stream.state() is State.CONNECTED
            await stream.receive(f"challenge {number}")
            assert stream.state() is State.READY
            assert stream.engine.sent == [f"challenge {number}"]
            stream.engine.drop()

    play(scene)


def test_retry_is_given_what_the_hook_raised() -> None:
    class AuthInvalid(Exception):
        pass

    async def scene(stream: Stream) -> None:
        @stream.client.on_ready
        async def login() -> None:
            raise AuthInvalid

        await stream.start()
        assert stream.state() is State.FAILED
        assert isinstance(stream.client.error, AuthInvalid)
        assert len(stream.world.engines) == 1, "one attempt, for each may count towards a ban"

    play(scene, retry=lambda error: False if isinstance(error, AuthInvalid) else None)


class AuthInvalid(Exception):
    """What a login raises."""


@pytest.mark.parametrize("code", [4401, 4000])
def test_what_a_hook_raises_behind_a_close_frame_is_its_cause(code: int) -> None:
    """The code decides; ``retry`` and ``error`` find the hook's own words, too."""
    seen: list[BaseException] = []

    async def scene(stream: Stream) -> None:
        @stream.client.on_connect
        async def login() -> None:
            message = await stream.client.receive()
            await asyncio.sleep(0.05)
            raise AuthInvalid(message.data)

        await stream.client.start()
        await asyncio.sleep(5.0)
        stream.engine.deliver("wrong password")
        stream.engine.peer_closes(code, "no")
        await asyncio.sleep(0.2)
        [error] = seen
        assert isinstance(error, StreamClosedError)
        assert error.code == code
        assert isinstance(error.__cause__, AuthInvalid)
        assert (stream.state() is State.FAILED) == (code == 4401)

    play(scene, retry=seen.append)


def test_a_hook_decides_where_there_is_no_close_frame() -> None:
    """A peer that refuses the login and hangs up at once."""

    async def scene(stream: Stream) -> None:
        @stream.client.on_connect
        async def login() -> None:
            raise AuthInvalid((await stream.client.receive()).data)

        await stream.client.start()
        await asyncio.sleep(5.0)
        stream.engine.deliver("wrong password")
        stream.engine.drop()
        await asyncio.sleep(0.2)
        assert stream.state() is State.FAILED
        assert repr(stream.client.error) == "AuthInvalid('wrong password')"

    play(scene, retry=lambda error: False if isinstance(error, AuthInvalid) else None)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("end", ["4401", "cut"])
def test_a_hook_that_fails_because_the_connection_is_over_is_no_cause(
    end: str, wrapped: bool
) -> None:
    seen: list[BaseException] = []

    async def scene(stream: Stream) -> None:
        @stream.client.on_connect
        async def login() -> None:
            try:
                await stream.client.receive()
            except NotConnectedError:
                if wrapped:
                    raise AuthInvalid from None
                raise

        await stream.client.start()
        await asyncio.sleep(5.0)
        if end == "cut":
            stream.engine.drop()
        else:
            stream.engine.peer_closes(4401, "no")
        await asyncio.sleep(0.2)
        [error] = seen
        assert isinstance(error, StreamClosedError)
        assert error.__cause__ is None

    play(scene, retry=seen.append)


@pytest.mark.parametrize(
    ("raised", "closed"),
    [
        (StreamClosedError(4000, "resume"), (4000, "resume")),
        (StreamClosedError(1006), (1000, "")),
        (AuthInvalid("x"), (1000, "")),
    ],
)
def test_a_hook_chooses_the_close_code_of_its_failed_attempt(
    raised: Exception, closed: tuple[int, str]
) -> None:
    async def scene(stream: Stream) -> None:
        failures = [raised]

        @stream.client.on_ready
        async def resume() -> None:
            if failures:
                raise failures.pop()

        await stream.start()
        await asyncio.sleep(10.0)
        first, second = stream.world.engines
        assert first.closed_with == closed
        assert second.closed_with is None
        assert stream.client.stats().attempts == 2
        assert stream.state() is State.READY

    play(scene)


def test_what_unsubscribes_is_made_when_it_is_needed() -> None:
    async def scene(stream: Stream) -> None:
        client = stream.client
        ids = iter(range(10))

        async def ending() -> str:
            return f"end {next(ids)}"

        for key in ("a", "b"):
            await client.subscribe(f"subscribe {key}", key=key, unsubscribe=ending)
        await stream.start()
        await client.unsubscribe("b")
        await client.unsubscribe("a")
        await client.send("x")
        await asyncio.sleep(0.1)
        assert stream.engine.sent == ["subscribe a", "subscribe b", "x", "end 0", "end 1"] or (
            stream.engine.sent == ["subscribe a", "subscribe b", "end 0", "end 1", "x"]
        )
        stream.engine.drop()
        await asyncio.sleep(10.0)
        assert stream.engine.sent == []

    play(scene)


def test_an_inline_handler_answers_while_data_is_being_handled() -> None:
    async def scene(stream: Stream) -> None:
        handled: list[Message] = []

        @stream.client.on_message("ping", inline=True)
        def pong(message: Message) -> None:
            message.reply("pong")

        @stream.client.on_message("data")
        async def slow(message: Message) -> None:
            await asyncio.sleep(10.0)
            handled.append(message)

        await stream.start()
        await stream.receive(*['{"type":"data"}'] * 20, '{"type":"ping"}')
        assert stream.engine.sent == ["pong"]
        assert handled == []

    play(scene)


def test_a_request_of_a_client_without_handlers_and_its_end_take_no_time() -> None:
    async def scene(stream: Stream) -> None:
        await stream.start()
        asked = asyncio.ensure_future(stream.client.request("?", lambda m: m.data == "!"))
        await asyncio.sleep(0.1)
        await stream.receive("other", "!")
        assert (await asked).data == "!"
        loop = asyncio.get_running_loop()
        began = loop.time()
        await stream.client.close()
        assert loop.time() - began < 0.5

    play(scene)


def test_a_url_of_a_list_that_is_gone_for_good_is_left_for_the_next() -> None:
    async def scene(stream: Stream) -> None:
        stream.world.opens.append(HandshakeError("HTTP 404", status=404))
        await stream.start(10.0)
        assert stream.state() is State.READY

    play(scene, ["ws://a/", "ws://b/"])


def test_subscriptions_beyond_what_the_queue_holds() -> None:
    """20 MiB of them, at the start and while the network takes nothing."""
    large = ["x" * 2**20 + str(key) for key in range(20)]

    async def scene(stream: Stream) -> None:
        for obj in large[:18]:
            await stream.client.subscribe(obj)
        await stream.start()
        assert stream.state() is State.READY
        assert stream.engine.sent == large[:18]
        stream.world.is_stuck = True
        for number, obj in enumerate(large):
            await stream.client.subscribe(obj, key=number)
        stream.world.is_stuck = False
        stream.engine.take_bytes()
        await asyncio.sleep(1.0)
        assert stream.engine.sent[18:] == large
        assert stream.client.error is None

    play(scene)


def test_close_in_a_task_that_a_handler_has_started_waits_for_the_end() -> None:
    async def scene(stream: Stream) -> None:
        tasks: list[asyncio.Task[State]] = []

        async def close() -> State:
            await stream.client.close()
            return stream.client.state

        @stream.client.on_message
        async def stop(message: Message) -> None:
            tasks.append(asyncio.ensure_future(close()))

        await stream.start()
        await stream.receive("stop")
        assert await tasks[0] is State.CLOSED

    play(scene)


def test_a_report_that_hangs_keeps_no_connection_from_being_ready() -> None:
    async def scene(stream: Stream) -> None:
        @stream.client.on_disconnect
        async def hang(event: DisconnectEvent) -> None:
            await asyncio.Event().wait()

        await stream.start()
        for _ in range(3):
            stream.engine.drop()
            await asyncio.sleep(5.0)
            assert stream.state() is State.READY
        assert len(stream.world.engines) == 4

    play(scene, stable_after=1.0)


@pytest.mark.leaks_allowed("the loop is closed amid it all: what is said then is the test")
def test_a_loop_that_is_closed_without_close_is_no_internal_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def leave_open() -> weakref.ref[AsyncClient]:
        loop, world = VirtualLoop(), World()
        monkeypatch.setattr(ENGINE, world.engine)
        client = AsyncClient("ws://fake")
        loop.run_until_complete(client.start())
        loop.pass_time(5.0)
        assert client.is_ready
        loop.close()
        assert client.state is State.CLOSED
        return weakref.ref(client)

    monkeypatch.setattr("datastream_ws.async_client.threads", InlineThreads)
    left = leave_open()
    monkeypatch.undo()
    # The watch on the loop keeps the client until it notices the end.
    eventually(lambda: gc.collect() is not None and left() is None)
    assert "Task was destroyed" in caplog.text  # by asyncio, within this test
    ours = [record for record in caplog.records if record.name == "datastream_ws"]
    assert [record for record in ours if record.levelno >= logging.ERROR] == []
