"""The end: what was received is handled, nothing is left, and close() may come from anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import (
    AsyncClient,
    Client,
    DisconnectEvent,
    Message,
    NotConnectedError,
    State,
    StateEvent,
)
from datastream_ws.testing import StreamServer
from kit.guard import Snapshot
from kit.numbered import check_ledger
from kit.offline import Log
from kit.rawserver import Drain, RawServer, Upgrade
from kit.seen import FAST, Seen, eventually


def send_many(server: StreamServer, count: int) -> None:
    for n in range(count):
        server.send(str(n))


# --- drain ------------------------------------------------------------------------------------


@pytest.mark.fault("G13")
def test_500_waiting_messages_are_handled() -> None:
    """close() with 500 messages waiting: all are handled, the server sees close code 1000."""
    handled = Seen[Message]()
    go = threading.Event()

    def slow(message: Message) -> None:
        go.wait(60)
        time.sleep(0.0005)
        handled(message)

    with StreamServer() as server:
        client = Client(server.url, close_timeout=60, **FAST)
        client.on_message(slow)
        client.start()
        client.wait_ready(30)
        send_many(server, 500)
        eventually(lambda: client.stats().messages_received == 500)
        client.on_state(lambda event: go.set() if event.state is State.CLOSING else None)
        client.close()
        assert [message.data for message in handled.all] == [str(n) for n in range(500)]
        assert client.state is State.CLOSED
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000
    check_ledger(client.stats())
    assert client.stats().messages_handled == 500


@pytest.mark.fault("G13")
async def test_500_waiting_messages_are_handled_by_coroutines() -> None:
    """The same with coroutine handlers and several at work at once."""
    handled: list[str | bytes] = []
    go = asyncio.Event()
    with StreamServer() as server:
        client = AsyncClient(server.url, close_timeout=60, concurrency=7, **FAST)

        async def slow(message: Message) -> None:
            await go.wait()
            await asyncio.sleep(0.001)
            handled.append(message.data)

        client.on_message(slow)
        await client.start()
        await client.wait_ready(30)
        await asyncio.to_thread(send_many, server, 500)
        await asyncio.to_thread(eventually, lambda: client.stats().messages_received == 500)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        go.set()
        await closing
        assert sorted(handled, key=int) == [str(n) for n in range(500)]
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000


def test_replies_of_the_last_handlers_are_sent() -> None:
    """What handlers send while the client drains reaches the server before the close frame."""
    with StreamServer() as server:
        client = Client(server.url, close_timeout=60, **FAST)
        go = threading.Event()

        def acknowledge(message: Message) -> None:
            go.wait(60)
            client.send(f"ack {message.data!s}")

        client.on_message(acknowledge)
        client.start()
        client.wait_ready(30)
        send_many(server, 100)
        eventually(lambda: client.stats().messages_received == 100)
        client.on_state(lambda event: go.set() if event.state is State.CLOSING else None)
        client.close()
        assert server.connections[0].closed.wait(30)
        assert server.received == [f"ack {n}" for n in range(100)]


@pytest.mark.fault("68")
@pytest.mark.leaks_allowed("a plain handler that never ends cannot be stopped from outside")
def test_close_timeout_ends_the_drain() -> None:
    """What is unhandled at the deadline is counted as dropped; the server is still told 1000."""
    go = threading.Event()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_message(lambda message: go.wait(60))
        client.start()
        client.wait_ready(30)
        send_many(server, 10)
        eventually(lambda: client.stats().messages_received == 10)
        begun = time.monotonic()
        client.close(timeout=0.5)
        assert time.monotonic() - begun <= 0.5 + 0.5
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000
        assert client.state is State.CLOSED
        assert client.stats().messages_dropped == {"shutdown": 9}
        go.set()
        eventually(lambda: client.stats().messages_waiting == 0)
        check_ledger(client.stats())


def test_nothing_is_received_once_close_was_called() -> None:
    """A server that goes on sending does not keep the client from closing."""
    handled = Seen[Message]()
    go = threading.Event()

    def slow(message: Message) -> None:
        go.wait(60)
        handled(message)

    with StreamServer() as server:
        client = Client(server.url, close_timeout=60, **FAST)
        client.on_message(slow)
        client.start()
        client.wait_ready(30)
        send_many(server, 20)
        eventually(lambda: client.stats().messages_received == 20)
        closer = threading.Thread(target=client.close)
        closer.start()
        eventually(lambda: client.state is State.CLOSING)
        send_many(server, 1000)
        go.set()
        closer.join(60)
        assert not closer.is_alive()
        assert len(handled) == client.stats().messages_received == 20
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000


# --- from anywhere ----------------------------------------------------------------------------


@pytest.mark.fault("69", "G12")
@pytest.mark.parametrize("hook", ["on_message", "on_ready", "on_connect", "on_state", "on_error"])
def test_close_inside_a_handler_or_hook(hook: str) -> None:
    """It requests the stop and returns at once; the client then closes by itself."""
    returned = Seen[float]()
    with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
        client = Client(server.url, **FAST)

        def close(*args: Any) -> None:
            begun = time.monotonic()
            client.close()
            returned(time.monotonic() - begun)

        getattr(client, hook)(close)
        if hook == "on_error":
            client.on_ready(lambda: 1 / 0)
        client.start()
        client.wait_closed(30)
        assert client.state is State.CLOSED
        assert returned.wait(1)[0] < 1


async def two_messages(client: AsyncClient, server: StreamServer) -> None:
    await client.wait_ready(30)
    send_many(server, 2)
    await asyncio.to_thread(eventually, lambda: client.stats().messages_received == 2)


async def test_close_inside_async_for() -> None:
    """The message in hand is that of the caller, so waiting for it would take close_timeout."""
    with StreamServer() as server:
        client = AsyncClient(server.url, close_timeout=60, **FAST)
        await client.start()
        await two_messages(client, server)
        async with asyncio.timeout(10):
            async for message in client:
                assert message.data == "0"
                await client.send("bye")
                await client.close()
                assert client.state is State.CLOSED
        assert server.wait_received(1, 30) == ["bye"]
        stats = client.stats()
        assert (stats.messages_handled, stats.messages_dropped) == (1, {"untaken": 1})


async def test_close_by_a_task_that_keeps_its_iterator() -> None:
    """Only the caller could take the other message."""
    with StreamServer() as server:
        async with asyncio.timeout(10):
            async with AsyncClient(server.url, close_timeout=60, **FAST) as client:
                await two_messages(client, server)
                messages = aiter(client)
                assert (await anext(messages)).data == "0"
        assert client.stats().messages_dropped == {"untaken": 1}


def test_a_handler_that_fails_after_the_client_has_closed_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody can read errors() any more, and on_error isn't called."""
    begun, go = threading.Event(), threading.Event()
    with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
        client = Client(server.url, **FAST)

        @client.on_message
        def late(message: Message) -> None:
            begun.set()
            go.wait(30)
            raise LookupError

        client.start()
        assert begun.wait(30)
        client.close(0.1)
        assert client.state is State.CLOSED
        go.set()
        eventually(lambda: "failed with LookupError" in caplog.text)


@pytest.mark.fault("69", "G12")
def test_close_inside_a_coroutine_handler() -> None:
    """Client.close() on the loop's thread, and client.aio.close(), request the stop as well."""
    for close in (lambda client: client.close(), lambda client: client.aio.close()):
        with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
            client = Client(server.url, **FAST)

            async def handle(
                message: Message, client: Client = client, close: Callable[..., Any] = close
            ) -> None:
                result = close(client)
                if result is not None:
                    await result

            client.on_message(handle)
            client.start()
            client.wait_closed(30)
            assert client.state is State.CLOSED
            assert client.stats().messages_handled == 1


def test_the_messages_before_a_close_inside_a_handler_are_handled() -> None:
    """The stop is requested by the first of 100 messages: the other 99 are handled, too."""
    handled = Seen[Message]()
    go = threading.Event()
    with StreamServer() as server:
        client = Client(server.url, close_timeout=60, **FAST)

        def handle(message: Message) -> None:
            go.wait(60)
            handled(message)
            client.close()

        client.on_message(handle)
        client.start()
        client.wait_ready(30)
        send_many(server, 100)
        eventually(lambda: client.stats().messages_received == 100)
        go.set()
        client.wait_closed(60)
        assert len(handled) == 100


@pytest.mark.fault("76", "G11")
def test_close_twice_and_from_many_threads() -> None:
    """Each call returns once the client is closed; a second one does nothing."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.start()
        client.wait_ready(30)
        closers = [threading.Thread(target=client.close) for _ in range(8)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(30)
            assert not closer.is_alive()
        assert client.state is State.CLOSED
        client.close()
        client.close()
        assert len(server.connections) == 1


@pytest.mark.fault("76")
async def test_async_close_twice() -> None:
    """The coroutine is idempotent, and may be awaited by several tasks."""
    with StreamServer() as server:
        client = AsyncClient(server.url, **FAST)
        await client.close()
        await client.start()
        await client.wait_ready(30)
        await asyncio.gather(*(client.close() for _ in range(5)))
        await client.close()
        assert client.state is State.CLOSED


@pytest.mark.fault("76")
def test_close_before_start() -> None:
    """Nothing happens, and the client can be started afterwards."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.close()
        assert client.state is State.IDLE
        client.wait_closed(1)
        with client:
            client.wait_ready(30)


@pytest.mark.fault("G15")
def test_close_during_a_dial() -> None:
    """A server that never answers the handshake does not hold up close()."""
    with RawServer([Drain()]) as server:
        client = Client(server.url, open_timeout=60, **FAST)
        client.start()
        server.wait_connections(1, 30)
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun < 2
        assert client.state is State.CLOSED
        assert server.connections[0].done.wait(30)
    assert client.stats().connections == 0


def test_close_while_headers_are_made() -> None:
    """Nor does a callable that hangs, while the attempt waits for it."""
    asked, go = threading.Event(), threading.Event()

    def headers() -> dict[str, str]:
        asked.set()
        go.wait(60)
        return {}

    with StreamServer() as server:
        client = Client(server.url, headers=headers, **FAST)
        client.start()
        assert asked.wait(30)
        begun = time.monotonic()
        closer = threading.Thread(target=client.close)
        closer.start()
        eventually(lambda: client.state is State.CLOSED)
        assert time.monotonic() - begun < 5
        go.set()
        closer.join(30)
        assert server.connections == []


def test_close_while_waiting_for_the_next_attempt() -> None:
    """A back-off of a minute ends at once."""
    with StreamServer() as server:
        server.refuse(503)
        client = Client(server.url, min_reconnect_delay=60, max_reconnect_delay=60, proxy=None)
        client.start()
        eventually(lambda: client.state is State.WAITING)
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun < 5


def test_close_while_on_ready_is_at_work() -> None:
    """An on_ready that waits for a reply is let go by close()."""
    failures = Seen[BaseException]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def initialise() -> None:
            try:
                client.request("?", lambda message: False, timeout=60)
            except NotConnectedError as error:
                failures(error)
                raise

        client.on_ready(initialise)
        client.start()
        server.wait_received(1, 30)
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun < 5
        failures.wait(1)


@pytest.mark.fault("76")
def test_start_after_close() -> None:
    """Anew: new numbers, counters and epoch; handlers and subscriptions stay."""
    seen = Seen[Message]()
    with StreamServer(on_connect=lambda connection: connection.send("hello")) as server:
        client = Client(server.url, **FAST)
        client.on_message(seen)
        client.subscribe("subscription")
        for n in (1, 2, 3):
            client.start()
            client.wait_ready(30)
            seen.wait(n)
            server.wait_received(n, 30)
            client.close()
            assert client.stats().messages_received == 1
            assert client.stats().connections == 1
        assert len(server.connections) == 3
    assert [(message.seq, message.connection) for message in seen.all] == [(1, 1)] * 3
    epochs = [message.epoch for message in seen.all]
    assert epochs == sorted(set(epochs))


@pytest.mark.fault("76", "P13")
def test_start_twice() -> None:
    """The second start() does nothing: one connection."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        starters = [threading.Thread(target=client.start) for _ in range(8)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(30)
        client.wait_ready(30)
        client.start()
        client.close()
        assert len(server.attempts) == 1


def test_start_inside_a_handler_after_close() -> None:
    """on_state may start the client again once it is CLOSED."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def restart(event: StateEvent) -> None:
            if event.state is State.CLOSED and len(server.connections) == 1:
                client.start()

        client.on_state(restart)
        client.start()
        client.wait_ready(30)
        client.close()
        server.wait_connected(2, 30)
        client.wait_ready(30)
        client.close()


@pytest.mark.fault("70")
def test_send_inside_a_handler() -> None:
    """Plain and coroutine handlers answer on the connection they are given messages from."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        async def also(message: Message) -> None:
            await client.send({"also": message.data})

        client.on_message(lambda message: client.send({"echo": message.data}))
        client.on_message(also)
        with client:
            client.wait_ready(30)
            send_many(server, 50)
            received = server.wait_received(100, 30)
    expected = [f'{{"{key}":"{n}"}}' for n in range(50) for key in ("echo", "also")]
    assert received == expected


def test_disconnect_event_of_a_close_of_our_own() -> None:
    """on_disconnect hears of it without an error: code 1000, nothing follows."""
    ended = Seen[DisconnectEvent]()
    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_disconnect(ended)
        with client:
            client.wait_ready(30)
    assert ended.all == [DisconnectEvent(1, 1000, "", None, False, None)]


# --- nothing is left --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["READY", "WAITING", "dialling", "FAILED", "drop"])
def test_nothing_is_left(end: str) -> None:
    """After close() no thread, task or descriptor is left, whatever the client was doing."""
    with StreamServer() as server, RawServer([Drain()]) as silent:
        before = Snapshot.take()
        url = silent.url if end == "dialling" else server.url
        client = Client(url, **FAST | {"max_reconnect_attempts": 3})
        client.on_message(lambda message: None)
        client.on_state(lambda event: None)
        if end in ("WAITING", "FAILED"):
            server.refuse(503)
        client.start()
        if end in ("READY", "drop"):
            client.wait_ready(30)
        elif end == "dialling":
            silent.wait_connections(1, 30)
        else:
            eventually(lambda: client.state.name == end)
        if end == "drop":
            server.abort()
        client.close()
        assert before.leaks(10) == []


def test_threads_end_when_the_last_client_closes() -> None:
    """Two clients share the loop's thread; it ends with the second of them."""
    with StreamServer() as server:
        one, two = Client(server.url, **FAST), Client(server.url, name="two", **FAST)
        one.start()
        two.start()
        one.wait_ready(30)
        two.wait_ready(30)

        def names() -> list[str]:
            return [t.name for t in threading.enumerate() if t.name.startswith("datastream")]

        assert names().count("datastream-loop") == 1
        one.close()
        assert names().count("datastream-loop") == 1
        two.wait_ready(30)
        two.close()
        eventually(lambda: not names())


def resources() -> dict[str, int]:
    """Count what a client is made of: threads, descriptors, objects of the package's classes."""
    gc.collect()
    folder = "/proc/self/fd"
    owned = [each for each in gc.get_objects() if is_engine_room(str(type(each).__module__))]
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir(folder)) if os.path.isdir(folder) else 0,
        "objects": len(owned),
    }


ENGINE_ROOM = {"async_client", "client", "handlers", "messages"}
ENGINE_ROOM |= {"connection", "handling", "lifecycle", "process"}


def is_engine_room(module: str) -> bool:
    package, _, unit = module.partition(".")
    return package == "datastream_ws" and unit.partition(".")[0] in ENGINE_ROOM


def cycles(count: int, before_measuring: int) -> None:
    with StreamServer(on_connect=lambda connection: connection.send("hello")) as server:
        seen = Seen[int]()
        client = Client(server.url, **FAST)
        client.on_message(lambda message: seen(message.seq))
        at_first: dict[str, int] = {}
        for n in range(1, count + 1):
            client.start()
            client.wait_ready(30)
            seen.wait(n)
            client.close()
            if n == before_measuring:
                at_first = resources()
                assert at_first["objects"] > 5
        # A connection of the server may end a moment later.
        eventually(lambda: all(now <= at_first[what] for what, now in resources().items()))


@pytest.mark.fault("74")
def test_200_connect_close_cycles_without_growth() -> None:
    """Threads and descriptors stay as many as they were; 2,000 cycles are in the soak below."""
    cycles(200, 20)


@pytest.mark.fault("74")
@pytest.mark.soak
@pytest.mark.timeout(600)
def test_2000_connect_close_cycles_without_growth() -> None:
    """The same ten times as long."""
    cycles(2000, 200)


async def test_100_async_connect_close_cycles_without_growth() -> None:
    """An AsyncClient made anew each time leaves no task on the user's loop."""
    with StreamServer() as server:
        tasks = len(asyncio.all_tasks())
        for _ in range(100):
            async with AsyncClient(server.url, **FAST) as client:
                await client.wait_ready(30)
        assert len(asyncio.all_tasks()) <= tasks + 1
        eventually(lambda: all(c.closed.is_set() for c in server.connections))


def test_a_forgotten_client_is_not_kept_alive() -> None:
    """A client that was closed, or never started, is collected."""
    import weakref

    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_message(lambda message: None)
        with client:
            client.wait_ready(30)
        reference = weakref.ref(client)
        del client
        eventually(lambda: gc.collect() is not None and reference() is None)


@pytest.mark.fault("G15")
def test_the_upgrade_that_was_under_way_is_not_leaked() -> None:
    """close() in the moment the handshake succeeds: the socket is gone at the server."""
    with RawServer([Upgrade()]) as server:
        for n in range(1, 31):
            client = Client(server.url, **FAST)
            client.start()
            server.wait_connections(n, 30)
            client.close(1)
        for connection in server.connections:
            assert connection.done.wait(30)


# --- bounds -----------------------------------------------------------------------------------


def test_close_returns_while_a_coroutine_handler_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """The log says where it blocks; the connection ends once it returns."""
    begun, go = threading.Event(), threading.Event()
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        @client.on_message
        async def stuck(message: Message) -> None:
            begun.set()
            go.wait(30)

        client.start()
        client.wait_ready(30)
        server.send("x")
        assert begun.wait(30)
        began = time.monotonic()
        client.close(0.5)
        took = time.monotonic() - began
        go.set()
        assert took < 1.5
        assert client.state is State.CLOSED
        assert "user code blocks the event loop" in caplog.text
        assert "go.wait(30)" in caplog.text
        assert server.connections[0].closed.wait(30)


def test_close_where_a_loop_runs() -> None:
    """As in a notebook's cell: nothing is raised, nothing is left."""

    async def cell(url: str) -> list[Message]:
        client, seen = Client(url, **FAST), Seen[Message]()
        client.on_message(seen)
        client.start()
        client.wait_ready(30)
        client.send("x")
        await asyncio.to_thread(seen.wait, 1)
        client.close()
        assert client.state is State.CLOSED
        return seen.all

    with StreamServer(on_message=lambda connection, data: connection.send(data)) as server:
        for _ in range(5):
            assert len(asyncio.run(cell(server.url))) == 1


class LeaseOfOne:
    """A lease that nobody else wants."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def acquire(self, ttl: float) -> int:
        return 1

    def renew(self, ttl: float) -> bool:
        return True

    def release(self) -> None:
        self.released.set()


def leaves_a_loop(test: Callable[..., asyncio.AbstractEventLoop]) -> Any:
    """Have asyncio complain now of the tasks in the closed loop, and not at the end of the run."""

    @pytest.mark.leaks_allowed("a loop is closed before its tasks and sockets")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @functools.wraps(test)
    def run(*arguments: Any, **more: Any) -> None:
        loop = test(*arguments, **more)
        eventually(lambda: gc.collect() is not None and not asyncio.all_tasks(loop))

    return run


@leaves_a_loop
def test_a_loop_that_is_closed_before_its_client(tmp_path: Path) -> asyncio.AbstractEventLoop:
    """Threads, file and lease are let go, nobody waits forever, and the client starts again."""
    lease, log, begun = LeaseOfOne(), Log(), threading.Event()
    with StreamServer(on_connect=lambda connection: connection.send("x")) as server:
        client = AsyncClient(
            server.url,
            lease=lease,
            spool=str(tmp_path / "spool"),
            handler_timeout=60,
            close_timeout=0.5,
            logger=log,
            **FAST,
        )
        client.on_message(lambda message: None)  # so that a thread waits for the coroutine

        @client.on_message
        async def hang(message: Message) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def start() -> None:
            await client.start()
            await asyncio.to_thread(begun.wait, 30)
            server.send("y")
            await asyncio.to_thread(eventually, lambda: client.stats().messages_received == 2)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(start())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        asyncio.run(client.wait_closed(30))
        assert lease.released.wait(30)
        assert any("event loop was closed before the client" in line for line in log.lines)
        eventually(lambda: any("hang failed with RuntimeError" in line for line in log.lines))
        names = "datastream-handler", "datastream-spool", "datastream-lease", "datastream-watch"
        eventually(lambda: not [t for t in threading.enumerate() if t.name in names])
        check_ledger(client.stats())

        async def again() -> None:
            async with client:
                await client.wait_ready(30)

        asyncio.run(again())
    return loop


@leaves_a_loop
def test_waits_on_another_loop_end_with_the_loop_of_the_client() -> asyncio.AbstractEventLoop:
    """wait_ready() and errors() waited forever for a loop that was closed."""
    client = AsyncClient("ws://localhost:1", min_reconnect_delay=20, proxy=None)

    async def all_errors() -> list[BaseException]:
        return [error async for error in client.errors()]

    async def elsewhere() -> None:
        waiting = asyncio.create_task(client.wait_ready())
        reading = asyncio.create_task(all_errors())
        await asyncio.sleep(0)
        loop.close()
        async with asyncio.timeout(30):
            with pytest.raises(NotConnectedError):
                await waiting
            assert [type(each) for each in await reading] == [ConnectionRefusedError]

    async def start() -> None:
        await client.start()
        errors: Any = client.errors()
        async with asyncio.timeout(30), contextlib.aclosing(errors):
            await anext(errors)  # the first attempt has ended, so no task is unstarted

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    asyncio.run(elsewhere())
    return loop


@leaves_a_loop
def test_verbs_on_another_loop_end_with_the_loop_of_the_client() -> asyncio.AbstractEventLoop:
    """receive() and flush() without a time limit waited forever for a loop that was closed."""
    stopped = threading.Event()

    async def elsewhere(client: AsyncClient) -> tuple[Any, ...]:
        receiving = asyncio.create_task(client.receive(timeout=None))
        await asyncio.to_thread(stopped.wait, 30)
        flushing = asyncio.create_task(client.flush())
        await asyncio.sleep(0)
        loop.close()
        async with asyncio.timeout(30):
            return await asyncio.gather(receiving, flushing, return_exceptions=True)

    async def start(client: AsyncClient) -> None:
        await client.start()
        await client.wait_ready(30)

    def is_asked(client: AsyncClient) -> bool:
        return client._life is not None and client._life.intake.requests.are_waiting

    loop = asyncio.new_event_loop()
    with StreamServer() as server, ThreadPoolExecutor() as pool:
        client = AsyncClient(server.url, **FAST)
        loop.run_until_complete(start(client))
        ended = pool.submit(lambda: asyncio.run(elsewhere(client)))
        loop.run_until_complete(asyncio.to_thread(eventually, lambda: is_asked(client)))
        loop.run_until_complete(loop.shutdown_default_executor())
        stopped.set()
        assert [type(each) for each in ended.result()] == [NotConnectedError] * 2
    return loop
