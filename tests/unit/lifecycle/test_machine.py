"""The machine, read like a transcript: what the world does, what the user is told. No sockets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from datastream_ws import HandshakeError, NotConnectedError, State, UnauthorizedError
from datastream_ws.lifecycle.assembly import Place
from datastream_ws.lifecycle.rate_limiter import RateLimiter
from kit.offline import FakeLease, Log, Story

READY = ["connecting", "connected", "ready"]
REFUSED = HandshakeError("refused", status=503)


# --- verbs, one behind the other ---------------------------------------------------------------


def test_pause_and_resume_back_to_back_leave_the_connection_alone() -> None:
    with Story() as story:
        story.start()
        story.soon(story.client.pause())
        story.soon(story.client.resume())
        story.passes(3.0)
        assert story.told == READY
        assert len(story.world.engines) == 1
        story.engine.deliver("still there")
        story.passes(0.1)
        assert story.messages == ["still there"]


def test_pause_then_resume() -> None:
    with Story() as story:
        story.start()
        story.call(story.client.pause(4000, "lunch"))
        story.passes(5.0)
        assert story.engine.closed_with == (4000, "lunch")
        assert story.news() == [*READY, "disconnect 1: 4000", "paused"]
        story.call(story.client.resume())
        story.passes(1.0)
        assert story.news() == ["connecting", "connected", "gap of 5.0 s", "ready"]


def test_reconnect_and_pause_back_to_back() -> None:
    """The last word counts, and there is never a second connection."""
    with Story() as story:
        story.start()
        story.soon(story.client.reconnect())
        story.soon(story.client.pause())
        story.passes(3.0)
        assert story.client.state is State.PAUSED
        assert len(story.world.engines) == 1


def test_two_callers_reconnect() -> None:
    with Story() as story:
        story.start()
        story.soon(story.client.reconnect(1001))
        story.soon(story.client.reconnect(4000))
        story.passes(3.0)
        assert story.told == [*READY, "disconnect 1: 4000", "connecting", "connected",
                              "gap of 0.0 s", "ready"]  # fmt: skip


def test_reconnect_while_dialling_dials_anew() -> None:
    with Story() as story:
        story.world.is_hanging = True
        story.start()
        story.world.is_hanging = False
        story.call(story.client.reconnect())
        story.passes(1.0)
        assert story.told == READY
        assert len(story.world.engines) == 2


def test_reconnect_ends_a_wait() -> None:
    with Story(min_reconnect_delay=20.0) as story:
        story.world.opens.append(REFUSED)
        story.start()
        assert story.news() == ["connecting", "error refused", "waiting 20 s"]
        story.call(story.client.reconnect())
        story.passes(1.0)
        assert story.news() == READY


def test_pause_while_dialling_and_while_waiting() -> None:
    with Story(min_reconnect_delay=20.0) as story:
        story.world.is_hanging = True
        story.start()
        story.call(story.client.pause())
        story.passes(1.0)
        assert story.news() == ["connecting", "paused"]
        story.world.is_hanging = False
        story.world.opens.append(REFUSED)
        story.call(story.client.resume())
        story.passes(1.0)
        story.call(story.client.pause())
        story.passes(1.0)
        assert story.news() == ["connecting", "error refused", "waiting 20 s", "paused"]


def test_pause_in_the_moment_a_dial_succeeds() -> None:
    """What was opened and is not wanted is ended before anything else."""
    with Story() as story:
        story.begin()
        story.passes(0.0)
        story.loop.call_later(0.01, story.happens, lambda: story.soon(story.client.pause()))
        story.passes(1.0)
        assert story.client.state is State.PAUSED
        assert story.world.open_engines == []


# --- how a connection ends ---------------------------------------------------------------------


def test_after_a_drop_it_comes_back() -> None:
    with Story() as story:
        story.start()
        story.engine.drop()
        story.passes(2.0)
        text = "the connection was lost without a close frame"
        assert story.told == [
            *READY, f"error {text}", f"disconnect 1: 1006 ({text})", "waiting 1 s",
            "connecting", "connected", "gap of 1.0 s", "ready",
        ]  # fmt: skip


def test_a_peer_that_has_said_goodbye_and_lingers() -> None:
    """Its close frame ends the connection for the user; its socket ends before the next dial."""
    with Story() as story:
        story.start()
        story.happens(story.engine.peer_closes, 1001, "away", lingers=True)
        story.passes(0.0)
        assert not story.client.is_ready
        sent = story.soon(story.client.send("later", wait=10.0))
        story.passes(3.0)
        assert sent.done()
        sent.result()
        first, second = story.world.engines
        assert first.is_ended
        assert second.sent == ["later"]


def test_a_fatal_close_code_counts_though_a_hook_fails_on_it() -> None:
    with Story() as story:

        @story.client.on_ready
        async def insist() -> None:
            while story.client.stats().reconnects == 0:
                await story.client.send("hello")
                await asyncio.sleep(0)

        story.begin()
        story.passes(0.02)
        assert "hello" in story.engine.sent
        story.happens(story.engine.peer_closes, 4401, "no")
        story.passes(5.0)
        assert story.client.state is State.FAILED
        assert "disconnect 1: 4401 (connection closed with code 4401: no), the last" in story.told


def test_an_engine_without_an_explanation() -> None:
    """Also then there is an error, and another attempt."""
    with Story() as story:
        story.start()
        story.engine.close(1000, "")
        story.passes(3.0)
        assert "error the connection ended with code 1000" in story.told
        assert story.client.is_ready


# --- hooks -------------------------------------------------------------------------------------


def test_a_hook_that_raises() -> None:
    with Story() as story:
        failures = [LookupError("no"), None]

        @story.client.on_connect
        async def log_in() -> None:
            if (failure := failures.pop(0)) is not None:
                raise failure

        story.start()
        story.passes(1.0)
        assert any("failed with LookupError" in line for line in story.told)
        assert story.client.is_ready
        assert story.world.engines[0].closed_with == (1000, "")


def test_a_hook_that_is_late() -> None:
    with Story(ready_timeout=2.0) as story:

        @story.client.on_ready
        async def hang() -> None:
            await asyncio.Event().wait()

        story.start()
        story.passes(2.0)
        assert "error on_ready took longer than ready_timeout (2.0 s)" in story.told


def test_a_hook_that_is_cancelled_by_itself() -> None:
    with Story() as story:
        story.client.on_ready(lambda: None)

        @story.client.on_ready
        async def cancelled() -> None:
            raise asyncio.CancelledError

        story.start()
        assert any("failed with CancelledError" in line for line in story.told)


def test_a_report_that_hangs_holds_up_nothing() -> None:
    with Story() as story:
        gate = asyncio.Event()

        @story.client.on_state
        async def hang(event: object) -> None:
            await gate.wait()

        story.start()
        story.engine.drop()
        story.passes(3.0)
        assert story.client.is_ready
        gate.set()
        story.passes(1.0)
        assert story.told.count("ready") == 2


@pytest.mark.parametrize("kind", ["on_connect", "on_ready"])
def test_a_hook_that_ignores_its_cancellation(kind: str) -> None:
    """It holds up neither the next connection nor the end, and the log shows where it is."""
    log = Log()
    with Story(ready_timeout=2.0, logger=log) as story:
        calls, gate = [], asyncio.Event()

        async def stubborn() -> None:
            calls.append(kind)
            is_first = len(calls) == 1
            while is_first and not gate.is_set():
                with suppress(asyncio.CancelledError):
                    await gate.wait()

        getattr(story.client, kind)(stubborn)
        story.start()
        story.passes(4.5)
        assert story.client.is_ready
        assert calls == [kind, kind]
        assert [line for line in log.lines if "was canceled and keeps running" in line]
        before = story.loop.time()
        story.call(story.client.close(1.0))
        assert story.loop.time() - before <= 2.0
        (line,) = (line for line in log.lines if "outlives the client" in line)
        assert "await gate.wait()" in line
        assert kind in line
        gate.set()


def test_a_hook_that_ignores_the_end_of_its_connection() -> None:
    with Story() as story:
        gate = asyncio.Event()

        @story.client.on_ready
        async def stubborn() -> None:
            while len(story.world.engines) == 1 and not gate.is_set():
                with suppress(asyncio.CancelledError):
                    await gate.wait()

        story.start()
        story.engine.drop()
        story.passes(2.0)
        assert story.client.is_ready
        gate.set()


# --- subscriptions -----------------------------------------------------------------------------


def test_more_subscriptions_than_fit_into_the_write_queue() -> None:
    with Story() as story:
        for number in range(20):
            story.call(story.client.subscribe("x" * 2**20, key=number))
        story.start()
        assert story.client.is_ready
        assert len(story.engine.sent) == 20


def test_a_subscription_of_the_login_is_sent_once() -> None:
    with Story() as story:

        @story.client.on_connect
        async def log_in() -> None:
            await story.client.send("login")
            await story.client.subscribe("prices")

        story.start()
        assert story.engine.sent == ["login", "prices"]


def test_the_login_is_sent_though_others_wait_behind_it() -> None:
    """As many messages as send_rate allows were held back for the login, which waited for them."""
    with Story(send_rate=(2, 1.0)) as story:

        @story.client.on_connect
        async def log_in() -> None:
            await asyncio.sleep(0.1)  # the others are quicker
            for number in range(3):
                await story.client.send(f"login {number}")

        story.client.on_state(lambda event: others() if event.state is State.CONNECTED else None)

        def others() -> None:
            for number in range(4):
                story.soon(story.client.send(f"other {number}"))

        story.start()
        story.passes(5.0)
        assert story.engine.sent[:3] == ["login 0", "login 1", "login 2"]
        assert len(story.engine.sent) == 7
        assert len(story.world.engines) == 1


def test_close_does_not_wait_for_what_the_login_holds_back() -> None:
    """The login was canceled, so nothing would send it. It took nearly all of close_timeout."""
    log = Log()
    with Story(close_timeout=60.0, logger=log) as story:

        @story.client.on_connect
        async def log_in() -> None:
            await story.client.send("login")
            await asyncio.Event().wait()

        story.begin()
        story.passes(1.0)
        story.call(story.client.send("held back"))
        began = story.loop.time()
        story.call(story.client.close())
        assert story.loop.time() - began < 1.0
        assert story.engine.sent == ["login"]
        assert any("messages are still unsent" in line for line in log.lines)


def test_a_canceled_sender_takes_nobodys_turn() -> None:
    with Story(send_rate=(1, 5.0), write_timeout=9.0) as story:
        story.start()
        story.call(story.client.send("first"))
        story.call(story.client.send("second"))
        gives_up = story.soon(story.client.send("given up"))
        story.passes(2.0)
        waits = story.soon(story.client.send("third"))
        gives_up.cancel()
        story.passes(12.0)
        assert waits.exception() is None
        assert story.engine.sent == ["first", "second", "third"]


def test_a_sender_canceled_at_its_turn_gives_it_back() -> None:
    """Nothing was queued then, so no sender got the next turn until write_timeout."""
    with Story(send_rate=(1, 5.0), write_timeout=9.0) as story:
        story.start()
        story.call(story.client.send("first"))
        story.call(story.client.send("second"))
        gives_up = story.soon(story.client.send("given up"))
        waits = story.soon(story.client.send("third"))
        story.passes(1.0)
        connection = story.client._connection()
        assert connection is not None
        connection._queue._room[0].add_done_callback(lambda _: gives_up.cancel())
        story.passes(12.0)
        assert gives_up.cancelled()
        assert waits.exception() is None
        assert story.engine.sent == ["first", "second", "third"]


def test_a_callable_that_fails_fails_the_attempt() -> None:
    with Story() as story:
        answers: list[Any] = [ValueError("not yet"), "prices"]

        def content() -> Any:
            if isinstance(answer := answers.pop(0), Exception):
                raise answer
            return answer

        story.call(story.client.subscribe(content))
        story.start()
        story.passes(1.0)
        assert "error ValueError: not yet" in story.told
        assert story.engine.sent == ["prices"]


def test_a_callable_that_leaks_a_cancellation_fails_the_attempt() -> None:
    """It was taken for an end of the hooks: READY, without subscription and without on_ready."""
    with Story() as story:
        readies: list[int] = []
        story.client.on_ready(lambda: readies.append(len(story.world.engines)))
        leaks = [True, False]

        async def content() -> str:
            if leaks.pop(0):
                raise asyncio.CancelledError
            return "prices"

        story.call(story.client.subscribe(content))
        story.start()
        story.passes(1.0)
        assert "error RuntimeError: the function raised CancelledError" in story.told
        assert story.engine.sent == ["prices"]
        assert readies == [2]


def test_canceled_preparations_are_a_failed_attempt() -> None:
    """Whoever canceled them: the client does not become READY without them."""
    with Story() as story:

        @story.client.on_ready
        async def resume() -> None:
            if len(story.world.engines) == 1:
                for task in asyncio.all_tasks():
                    if "_get_ready" in repr(task.get_coro()):
                        task.cancel()
            await asyncio.sleep(0.01)

        story.start()
        story.passes(1.0)
        assert story.told.index("waiting 1 s") < story.told.index("ready")
        assert len(story.world.engines) == 2


def test_on_ready_comes_after_the_paced_subscriptions() -> None:
    """`send_rate` lets two through in ten seconds; the time is not the hooks'."""
    with Story(send_rate=(2, 10.0), ready_timeout=1.0) as story:
        sent: list[int] = []

        @story.client.on_ready
        async def resume() -> None:
            sent.append(len(story.engine.sent))

        for number in range(5):
            story.call(story.client.subscribe(f"subscribe {number}"))
        story.start()
        story.passes(15.0)
        assert story.client.state is State.CONNECTED
        assert sent == []
        story.passes(10.0)
        assert story.client.is_ready
        assert sent == [5]


def test_a_connection_that_ends_amid_paced_subscriptions() -> None:
    with Story(send_rate=(2, 10.0)) as story:
        for number in range(3):
            story.call(story.client.subscribe(f"subscribe {number}"))
        story.start()
        story.engine.drop()
        story.passes(1.5)
        story.call(story.client.pause())
        story.passes(1.0)
        assert story.news()[-2:] == ["disconnect 2: 1000", "paused"]
        assert story.world.open_engines == []


# --- a list of URLs ----------------------------------------------------------------------------

URLS = ["ws://a", "ws://b", "ws://c"]


@pytest.mark.parametrize("how", ["refused", "raises", "late", "dropped", "closed"])
@pytest.mark.parametrize("kind", ["on_connect", "on_ready"])
def test_a_failed_attempt_goes_on_to_the_next_url(how: str, kind: str) -> None:
    with Story(url=URLS, ready_timeout=1.0) as story:

        async def hook() -> None:
            if len(story.world.engines) == 3:
                return
            if how == "raises":
                raise LookupError(kind)
            if how == "dropped":
                story.engine.drop()
            if how == "closed":
                story.engine.peer_closes(1012, "restart")
            await asyncio.Event().wait()

        getattr(story.client, kind)(hook)
        if how == "refused":
            story.world.opens.extend([REFUSED, REFUSED])
        story.start()
        story.passes(30.0)
        assert story.client.is_ready
        assert [engine.url for engine in story.world.engines] == URLS


def test_a_stable_connection_comes_back_to_its_url() -> None:
    with Story(url=URLS) as story:
        story.world.opens.append(REFUSED)
        story.start()
        story.passes(20.0)
        story.engine.drop()
        story.passes(5.0)
        story.call(story.client.reconnect())
        story.passes(5.0)
        assert [engine.url for engine in story.world.engines] == ["ws://a", *["ws://b"] * 3]


def test_a_list_of_urls_fails_once_each_has_closed_for_good() -> None:
    with Story(url=URLS) as story:

        @story.client.on_ready
        async def hook() -> None:
            story.engine.peer_closes(4401, "no")
            await asyncio.Event().wait()

        story.start()
        story.passes(20.0)
        assert story.client.state is State.FAILED
        assert [engine.url for engine in story.world.engines] == URLS


# --- the user's callables ----------------------------------------------------------------------


def test_a_receive_that_its_connection_does_not_live_to_see() -> None:
    """The connection is lost on the way to the loop; the next one's messages are not meant."""
    with Story() as story:
        story.start()

        async def receives() -> None:
            connection = story.client._connection()
            assert connection is not None
            story.engine.drop()
            with pytest.raises(NotConnectedError):
                await story.client._first_message(connection, None, 30.0, None)

        story.call(receives())


@pytest.mark.parametrize("options", [{"inbox_size": 10**30}, {"send_rate": (10**30, 1.0)}])
def test_any_number_may_stand_for_no_limit(options: Any) -> None:
    with Story(**options) as story:
        story.start()
        assert story.client.is_ready
        story.call(story.client.send("x"))
        story.passes(0.1)
        assert story.engine.sent == ["x"]


def test_a_negative_timeout_is_one_of_zero() -> None:
    """Its error said that the event loop is blocked."""
    with Story() as story:
        story.start()
        with pytest.raises(TimeoutError, match="messages received meanwhile: 0"):
            story.call(story.client.receive(timeout=-2.0))


def test_heartbeat() -> None:
    with Story(heartbeat="beat", heartbeat_interval=10.0) as story:
        story.start()
        story.passes(20.0)
        assert story.engine.sent == ["beat", "beat"]


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (ValueError("no beat"), "error ValueError: no beat"),
        # It was taken for the end of this connection.
        (NotConnectedError("another client"), "error another client"),
    ],
)
def test_heartbeat_callable_that_raises(error: Exception, reported: str) -> None:
    answers: list[Any] = [error, "beat"]

    def heartbeat() -> Any:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    with Story(heartbeat=heartbeat, heartbeat_interval=10.0) as story:
        story.start()
        story.passes(20.0)
        assert reported in story.told
        assert story.engine.sent == ["beat"]


def test_heartbeat_callable_that_leaks_a_cancellation() -> None:
    """The next heartbeat comes all the same."""
    leaks = [True, False]

    async def heartbeat() -> str:
        if leaks.pop(0):
            raise asyncio.CancelledError
        return "beat"

    with Story(heartbeat=heartbeat, heartbeat_interval=10.0) as story:
        story.start()
        story.passes(20.0)
        assert story.engine.sent == ["beat"]


def test_heartbeats_wait_for_their_turn() -> None:
    """More of them than send_rate allows piled up, and other messages waited behind them."""
    with Story(heartbeat="beat", heartbeat_interval=1.0, send_rate=(1, 10.0)) as story:
        story.start()
        story.passes(45.0)
        connection = story.client._connection()
        assert connection is not None
        assert len(connection._queue) <= 1


def test_heartbeat_of_a_connection_that_closes() -> None:
    with Story(heartbeat="beat", heartbeat_interval=1.0) as story:
        story.world.answers_close = False
        story.start()
        story.call(story.client.pause())
        story.passes(5.0)
        assert story.engine.sent == []


@pytest.mark.parametrize(("decides", "state"), [(True, "waiting"), (False, "failed"),
                                                (None, "failed")])  # fmt: skip
def test_retry_decides(decides: bool | None, state: str) -> None:
    """Of an error that would be final: yes, no, nothing to say."""
    with Story(retry=lambda error: decides) as story:
        story.world.opens.append(HandshakeError("gone", status=404))
        story.begin()
        story.passes(0.5)
        assert story.client.state.value == state


def test_a_wait_while_retry_decides_is_for_the_next_connection() -> None:
    """The state was still READY, so wait_ready() returned, and send() called it ready, too."""

    async def decides(error: Exception) -> bool:
        await asyncio.sleep(3.0)
        return True

    with Story(retry=decides) as story:
        story.start()
        story.engine.drop()
        story.passes(1.0)
        waiting = story.soon(story.client.wait_ready())
        with pytest.raises(NotConnectedError, match="has just lost its connection"):
            story.call(story.client.send("x"))
        story.passes(1.0)
        assert not waiting.done()
        story.passes(5.0)
        assert waiting.exception() is None
        assert len(story.world.engines) == 2


def test_a_wait_while_the_connection_is_replaced_is_for_the_next_one() -> None:
    with Story() as story:
        story.start()
        story.world.answers_close = False
        story.call(story.client.reconnect())
        story.passes(0.1)
        waiting = story.soon(story.client.wait_ready())
        story.passes(0.1)
        assert not waiting.done()
        story.passes(5.0)
        assert waiting.exception() is None
        assert len(story.world.engines) == 2


def test_retry_that_raises_has_nothing_to_say() -> None:
    def broken(error: Exception) -> bool:
        raise LookupError("retry")

    with Story(retry=broken) as story:
        story.world.opens.append(REFUSED)
        story.start()
        story.passes(1.0)
        assert "error LookupError: retry" in story.told
        assert story.client.is_ready


def test_retry_that_leaks_a_cancellation_does_not_close_the_client() -> None:
    async def leaks(error: Exception) -> bool:
        raise asyncio.CancelledError

    with Story(retry=leaks) as story:
        story.world.opens.append(REFUSED)
        story.start()
        story.passes(1.0)
        assert story.client.is_ready


def test_closing_does_not_wait_for_retry() -> None:
    """A retry that hangs has ten seconds, but close() has one."""

    async def hang(error: Exception) -> bool:
        await asyncio.Event().wait()
        return False

    with Story(retry=hang) as story:
        story.world.opens.append(HandshakeError("gone", status=404))
        story.begin()
        story.passes(1.0)
        assert story.client.state.value == "connecting"
        story.call(story.client.close(1.0))
        assert story.client.state.value == "closed"


def test_retry_that_hangs_has_ten_seconds() -> None:
    async def hang(error: Exception) -> bool:
        await asyncio.Event().wait()
        return False

    with Story(retry=hang) as story:
        story.world.opens.append(REFUSED)
        story.start()
        story.passes(11.0)
        assert any("TimeoutError" in line for line in story.told)
        assert story.client.is_ready


def test_fatal_delay_shows_the_error_until_it_is_ready() -> None:
    """A health check asks for it, because the state is only WAITING."""
    refused = UnauthorizedError("refused", status=401)
    with Story(fatal_delay=100.0) as story:
        story.world.opens.append(refused)
        story.start()
        assert story.client.state is State.WAITING
        assert story.client.error is refused
        story.passes(200.0)
        assert story.client.is_ready
        assert story.client.error is None


def test_open_timeout_and_the_networks_own() -> None:
    with Story(open_timeout=3.0) as story:
        story.world.is_hanging = True
        story.start()
        story.passes(2.5)
        assert "error no connection within open_timeout (3.0 s)" in story.told
        story.world.is_hanging = False
        story.world.opens.append(TimeoutError("the network's"))
        story.passes(20.0)
        assert "error the network's" in story.told


# --- a lease -----------------------------------------------------------------------------------


def test_stands_by_until_it_has_the_lease() -> None:
    lease = FakeLease(is_free=False)
    with Story(lease=lease, name="x") as story:
        story.start()
        assert story.news() == ["connecting", "standby"]
        lease.grant()
        story.passes(1.0)
        assert story.news() == READY
    assert lease.ended == 1


def test_a_connection_that_is_lost_keeps_the_lease() -> None:
    """The next one belongs to the same tenure, and no other process has come in between."""
    lease = FakeLease()
    with Story(lease=lease, name="x", lease_ttl=60.0) as story:
        story.start()
        life = story.client._life
        assert life is not None
        assert life.parts.tenure is not None
        epoch, timer = lease.epoch, life.parts.tenure._timer
        story.happens(story.engine.drop)
        story.passes(5.0)
        assert story.client.is_ready
        assert life.parts.tenure._timer is timer, "its end is watched once"
        assert (lease.epoch, lease.ended) == (epoch, 0)
        assert "standby" not in story.told
        kinds = [event.kind for event in story.client.stats().recent_events]
        assert kinds.count("lease") == 1


def test_lease_lost_while_ready() -> None:
    lease = FakeLease()
    with Story(lease=lease, name="x") as story:
        story.start()
        lease.take_away()
        story.passes(1.0)
        assert story.news()[3:] == [
            "error lease lost: another process holds it; standing by",
            "disconnect 1: 1006 (the lease is lost)",
            "standby",
        ]
        lease.grant()
        story.passes(1.0)
        assert story.client.is_ready


def test_lease_that_ends_by_itself_leaves_time_to_say_goodbye() -> None:
    lease = FakeLease()
    with Story(lease=lease, name="x") as story:
        story.start()
        lease.hang()
        story.passes(1.0)
        assert story.engine.closed_with == (1000, "")
        assert "disconnect 1: 1000 (the lease is lost)" in story.told


@pytest.mark.parametrize("when", ["dialling", "waiting", "paused", "on_ready", "hanging up"])
def test_lease_lost_while(when: str) -> None:
    """Whatever it does, it stands by; nothing is open beside the next owner's connection."""
    lease = FakeLease()
    with Story(lease=lease, name="x", min_reconnect_delay=20.0, close_timeout=10.0) as story:
        if when == "on_ready":

            @story.client.on_ready
            async def hang() -> None:
                await asyncio.Event().wait()

        story.world.is_hanging = when == "dialling"
        story.world.answers_close = when != "hanging up"
        if when == "waiting":
            story.world.opens.append(REFUSED)
        story.start()
        if when in ("paused", "hanging up"):
            story.call(story.client.pause())
            story.passes(1.0)
        lease.take_away()
        story.passes(1.0)
        assert story.world.open_engines == []
        story.call(story.client.resume())
        story.passes(1.0)
        assert story.client.state is State.STANDBY


def test_verbs_while_it_stands_by() -> None:
    lease = FakeLease(is_free=False)
    with Story(lease=lease, name="x") as story:
        story.start()
        story.call(story.client.pause())
        story.passes(1.0)
        assert story.news() == ["connecting", "standby", "paused"]
        lease.grant()
        story.call(story.client.resume())
        story.passes(1.0)
        assert story.client.is_ready


# --- deaths and forks --------------------------------------------------------------------------


def test_the_death_of_an_internal_part() -> None:
    with Story() as story:
        story.start()
        life = story.client._life
        assert life is not None
        story.happens(life.parts.fail, ZeroDivisionError("a bug of ours"))
        story.passes(1.0)
        assert story.client.state is State.FAILED
        assert isinstance(story.client.error, ZeroDivisionError)


def test_the_death_of_the_machine_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with Story() as story:
        story.start()
        life = story.client._life
        assert life is not None
        monkeypatch.setattr(life.parts.attempts, "plan", lambda *_: 1 / 0)
        story.engine.drop()
        story.passes(1.0)
        assert story.client.state is State.FAILED
        assert isinstance(story.client.error, ZeroDivisionError)


def test_the_loop_ends_with_a_client_in_it() -> None:
    """Its task is cancelled: it closes at once."""
    with Story() as story:
        story.start()
        life = story.client._life
        assert life is not None
        assert life._task is not None
        story.happens(life._task.cancel)
        story.passes(1.0)
        assert story.client.state is State.CLOSED


def test_a_loop_that_ends_and_ends() -> None:
    """Its task is cancelled again in the middle of each end, and leaves no client undecided."""
    with Story(close_timeout=30.0) as story:
        story.world.answers_close = False
        story.start()
        life = story.client._life
        assert life is not None
        assert life._task is not None
        story.soon(story.client.close())
        story.passes(0.5)
        for _ in range(2):
            assert not life.finished.done()
            life._task.cancel()
            story.passes(0.0)
        story.passes(1.0)
        assert life._task.cancelled()
        assert life.finished.done()
        assert story.client.state is State.CLOSED


@pytest.mark.parametrize("has_more", [False, True])
@pytest.mark.parametrize("is_closing", [False, True])
def test_the_loop_is_closed_before_the_client(
    tmp_path: Any, has_more: bool, is_closing: bool
) -> None:
    """The file and the lease are released; what is left of the task then changes nothing."""
    lease = FakeLease()
    options = {"spool": str(tmp_path / "x"), "lease": lease, "name": "x"} if has_more else {}
    with Story(**options) as story:
        story.world.answers_close = False
        story.start()
        if is_closing:
            story.soon(story.client.close(30.0))
            story.passes(0.5)
        life = story.client._life
        assert life is not None
        assert life._task is not None
        for _ in range(2):
            life.end_without_loop()
        assert story.client.state is State.CLOSED
        assert life.finished.done()
        if has_more:
            assert (story.spool.closed, lease.ended) == (1, 1)
        rest: Any = life._task.get_coro()
        rest.close()  # as the garbage collector does
        life._task.cancel()
        story.happens(story.engine.drop)
        story.passes(1.0)
        assert isinstance(life._task.exception(), RuntimeError)  # there is nothing to cancel


def test_the_loop_ends_while_it_dials() -> None:
    """Also in the moment a dial has succeeded: what was opened is ended, and told to nobody."""
    for seconds in (0.005, 0.01, 0.0101, 0.011):
        with Story() as story:
            story.begin()
            story.passes(seconds)
            life = story.client._life
            assert life is not None
            assert life._task is not None
            story.happens(life._task.cancel)
            story.passes(1.0)
            assert story.client.state is State.CLOSED
            assert story.world.open_engines == []


def test_a_loop_that_ends_cancels_the_dial_as_well() -> None:
    """As asyncio.run() does, in any order: the client is closed, not failed."""
    with Story() as story:
        story.begin()
        story.passes(0.005)
        for task in asyncio.all_tasks(story.loop):
            story.happens(task.cancel)
        story.passes(1.0)
        assert story.client.state is State.CLOSED
        assert story.world.open_engines == []


def test_round_trips_are_told_whoever_raises() -> None:
    with Story(ping_interval=5.0) as story:
        seconds: list[float] = []

        def fails(_: float) -> None:
            raise LookupError("a meter")

        story.client.handlers.on_round_trip += [fails, seconds.append]
        story.start()
        story.passes(5.0)
        story.happens(story.engine.pong)
        story.passes(1.0)
        assert len(seconds) == 1
        assert story.client.stats().round_trip_time == seconds[0]
        assert "error LookupError: a meter" in story.told


def test_a_stream_without_handlers_says_so_once() -> None:
    """What a misspelt module of handlers does not say; not where one may iterate."""
    log = Log()
    with Story(logger=log) as story:

        async def start() -> None:
            story.client._begin(is_iterable=False)

        story.call(start())
        story.passes(2.0)
        story.happens(story.engine.drop)
        story.passes(5.0)
        story.happens(story.engine.deliver, "x")
        story.passes(2.0)
        assert story.client.stats().messages_unrouted == 1
    assert sum("no handler is registered" in line for line in log.lines) == 1


@pytest.mark.parametrize("what", ["it makes requests", "it has ended"])
def test_a_program_that_needs_no_handler_is_told_nothing(what: str) -> None:
    log = Log()
    with Story(logger=log) as story:

        async def start() -> None:
            story.client._begin(is_iterable=False)

        async def ask() -> None:
            with pytest.raises(TimeoutError):
                await story.client.request("the time?", lambda _: True, timeout=0.2)

        story.call(start())
        story.passes(0.5)
        story.call(ask() if what == "it makes requests" else story.client.close())
        story.passes(5.0)
    assert not any("no handler is registered" in line for line in log.lines)


def test_in_a_fleet_a_dial_waits_for_its_turn() -> None:
    """And whoever does not want it any more waits no longer."""
    with Story() as story:

        async def start() -> RateLimiter:
            rate_limiter = RateLimiter(1, 10.0)
            story.client._place = Place(key="a", rate_limiter=rate_limiter)
            await rate_limiter.acquire()  # another stream's
            await story.client.start()
            return rate_limiter

        rate_limiter = story.call(start())
        story.passes(5.0)
        assert (rate_limiter.waiting, story.world.engines) == (1, [])
        story.call(story.client.pause())
        story.passes(0.1)
        assert story.news()[-1] == "paused"
        assert all(permit.cancelled() for permit in rate_limiter._waiting)
        story.call(story.client.resume())
        story.passes(10.0)
        assert story.client.state is State.READY


def test_abandoned_after_a_fork() -> None:
    with Story() as story:
        story.start()
        life = story.client._life
        assert life is not None
        assert life.abandon() == [-1]
        with pytest.raises(NotConnectedError):
            story.call(story.client.send("x"))
        story.client._life = life


# --- without a network -------------------------------------------------------------------------


def test_robust_delivery_goes_on() -> None:
    with Story() as story:
        called: list[str] = []

        @story.client.on_message
        def first(message: object) -> None:
            raise LookupError("first")

        @story.client.on_message
        def second(message: object) -> None:
            called.append("second")

        story.call(story.client.deliver("x", robust=True))
        assert called == ["second"]
