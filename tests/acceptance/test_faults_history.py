"""Bugs that relatives of this package had, and faults of handlers and resources."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
import time

import pytest

from datastream_ws import AsyncClient, Client, HandlerError, Message
from datastream_ws.testing import StreamServer
from kit.faultproxy import FaultProxy, Pass, Swallow
from kit.seen import FAST, Seen, eventually


@pytest.mark.fault("G5")
def test_getters_in_many_threads_while_the_connection_flaps() -> None:
    """No order of locks to get wrong: readers, hooks and the connection never wait in a ring."""
    stop = threading.Event()
    rounds = Seen[int]()

    def read() -> None:
        while not stop.is_set():
            for _ in range(200):
                assert isinstance(client.is_ready and client.is_connected, bool)
                client.stats()
                repr((client.state, client.error, client.last_message))
            rounds(1)

    with StreamServer() as server:
        client = Client(server.url, stable_after=0.001, **FAST)
        client.on_state(lambda event: client.is_ready)
        readers = [threading.Thread(target=read) for _ in range(4)]
        with client:
            for reader in readers:
                reader.start()
            for n in range(1, 31):
                server.wait_connected(n, 30)
                client.wait_ready(30)
                server.abort()
            stop.set()
            for reader in readers:
                reader.join(30)
    assert not any(reader.is_alive() for reader in readers)
    assert len(rounds) >= 4


@pytest.mark.fault("G6")
def test_a_failed_cycle_costs_one_connection() -> None:
    """on_ready fails once: two connections in all, though the first one's end comes later."""
    with StreamServer() as server:
        client = Client(server.url, **FAST)

        def initialise() -> None:
            if client.stats().connections == 1:
                raise LookupError("not yet")

        client.on_ready(initialise)
        with client:
            client.wait_ready(30)
            time.sleep(0.5)  # five of the longest delays
            assert client.is_ready
            assert len(server.connections) == 2


@pytest.mark.fault("G7")
def test_a_connection_given_up_is_closed() -> None:
    """Once keepalive has failed the old socket is gone, which the server sees when it can."""
    with (
        StreamServer() as server,
        FaultProxy(server.url) as proxy,
        Client(proxy.url, pong_timeout=0.4, **FAST) as client,
    ):
        client.wait_ready(30)
        proxy.both(Swallow())
        eventually(lambda: not client.is_connected)
        proxy.both(Pass())
        assert server.connections[0].closed.wait(30)
        eventually(lambda: client.is_ready)


@pytest.mark.fault("G18")
def test_nothing_of_the_process_is_changed() -> None:
    """Defaults of sockets, TLS, logging and asyncio stay as the application has them."""

    def globals_of_the_process() -> list[object]:
        loggers = [logging.getLogger(name) for name in (None, "websockets", "asyncio")]
        return [
            socket.getdefaulttimeout(),
            socket.getaddrinfo,
            ssl._create_default_https_context,
            # Not get_event_loop_policy(): it is deprecated, and sets a policy if there is none.
            vars(asyncio.events)["_event_loop_policy"],
            *[(each.level, list(each.handlers), list(each.filters)) for each in loggers],
            dict(os.environ),
        ]

    before = globals_of_the_process()
    with StreamServer() as server, Client(server.url, **FAST) as client:
        client.wait_ready(30)
        assert globals_of_the_process() == before
    assert globals_of_the_process() == before


@pytest.mark.fault("P12")
async def test_cancellation_comes_through() -> None:
    """A task that is cancelled in run() or wait_ready() ends as cancelled, the client with it."""
    with StreamServer() as server:
        client = AsyncClient(server.url, **FAST)
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        client.on_ready(lambda: loop.call_soon_threadsafe(ready.set))
        running = asyncio.create_task(client.run())
        await ready.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await client.close()
        assert await asyncio.to_thread(server.connections[0].closed.wait, 30)
        server.stop()
        async with AsyncClient(server.url, **FAST) as unready:
            waiting = asyncio.create_task(unready.wait_ready())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting


@pytest.mark.fault("63")
def test_a_drop_every_few_moments() -> None:
    """A hundred drops of stable connections: one connection for each, and nothing adds up."""
    descriptors: list[int] = []
    delays = {"min_reconnect_delay": 0.001, "max_reconnect_delay": 0.002}
    with StreamServer() as server:
        client = Client(server.url, stable_after=0.001, **FAST | delays)
        with client:
            for n in range(1, 101):
                server.wait_connected(n, 30)
                client.wait_ready(30)
                eventually(lambda: all(c.closed.is_set() for c in server.connections[:-1]))
                descriptors.append(len(os.listdir("/dev/fd")))
                server.abort()
            threads = threading.active_count()
            server.wait_connected(101, 30)
            client.wait_ready(30)
            assert client.stats().connections == 101
            assert threading.active_count() <= threads
    assert max(descriptors[50:]) <= max(descriptors[5:50])


@pytest.mark.fault("67")
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("coroutine", [False, True])
def test_handlers_that_want_to_end_everything(kind: type[BaseException], coroutine: bool) -> None:
    """sys.exit() in a handler fails that message; the next ones are handled, as ever."""
    seen, errors = Seen[str](), Seen[BaseException]()

    def plain(message: Message) -> None:
        if message.data == "1":
            raise kind("no more")
        seen(str(message.data))

    async def asynchronous(message: Message) -> None:
        plain(message)

    with StreamServer() as server:
        client = Client(server.url, **FAST)
        client.on_message(asynchronous if coroutine else plain)
        client.on_error(errors)
        with client:
            client.wait_ready(30)
            for n in range(5):
                server.send(str(n))
            assert seen.wait(4) == ["0", "2", "3", "4"]
            error = errors.wait()[0]
            assert client.stats().messages_failed == 1
            assert client.stats().connections == 1
    assert isinstance(error, HandlerError)
    assert isinstance(error.__cause__, kind)


@pytest.mark.fault("73")
def test_a_blocking_call_on_the_event_loop(caplog: pytest.LogCaptureFixture) -> None:
    """time.sleep() in a coroutine handler is reported with its name, and the stream recovers."""
    seen = Seen[Message]()

    async def blocks_the_loop(message: Message) -> None:
        if message.data == "0":
            time.sleep(1.5)  # noqa: ASYNC251  (the fault)
        seen(message)

    with StreamServer() as server:
        client = Client(
            server.url, handler_timeout=0.2, ping_interval=0.2, pong_timeout=0.6, **FAST
        )
        client.on_message(blocks_the_loop)
        with client:
            client.wait_ready(30)
            server.send("0")
            seen.wait(1)
            eventually(lambda: "blocks_the_loop" in caplog.text)
            # The connection may be replaced at any moment now, with what is on its way.
            eventually(lambda: server.send("1") and len(seen) > 1)
