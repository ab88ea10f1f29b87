"""User code that blocks an event loop is told of while it does: real clients, real time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from datastream_ws import AsyncClient, Client, Message
from datastream_ws.testing.server import StreamServer

BLOCKED = "has blocked the event loop"


@contextmanager
def told() -> Iterator[tuple[threading.Event, list[str]]]:
    """The warnings of within, and whether there is one already."""
    seen, lines = threading.Event(), list[str]()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if BLOCKED in record.getMessage():
                assert record.levelno == logging.WARNING
                lines.append(record.getMessage())
                seen.set()

    listener, log = Listener(), logging.getLogger("datastream_ws")
    log.addHandler(listener)
    try:
        yield seen, lines
    finally:
        log.removeHandler(listener)


def test_a_coroutine_handler_that_blocks_is_named_while_it_does() -> None:
    ended = threading.Event()
    with told() as (seen, lines), StreamServer() as server:
        client = Client(server.url, name="prices")

        @client.on_message
        async def tick(message: Message) -> None:
            assert seen.wait(30)
            time.sleep(0.6)  # noqa: ASYNC251 - it goes on: not told again
            ended.set()

        with client:
            client.wait_ready(10)
            assert not lines
            server.send("1")
            assert ended.wait(30)
    where = f"at {__file__}:{tick.__code__.co_firstlineno + 2}"
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"stream prices: {__name__}.")
    assert ".tick has blocked the event loop for " in lines[0]
    assert where in lines[0]


def test_a_users_own_loop_is_watched_as_well() -> None:
    block_main(asyncio.run)


@pytest.mark.leaks_allowed("libuv keeps one signal pipe for the life of the process")
def test_a_loop_that_is_not_asyncios_is_watched_as_well() -> None:
    block_main(pytest.importorskip("uvloop").run)


def block_main(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    with told() as (seen, lines), StreamServer() as server:

        async def main() -> None:
            async with AsyncClient(server.url):
                assert seen.wait(30)

        run(main())
    assert len(lines) == 1, lines
    assert ".main has blocked the event loop" in lines[0]


def test_a_plain_handler_may_block() -> None:
    with told() as (_, lines), StreamServer() as server:
        client, ended = Client(server.url), threading.Event()

        @client.on_message
        def tick(message: Message) -> None:
            time.sleep(1.5)
            ended.set()

        with client:
            client.wait_ready(10)
            server.send("1")
            assert ended.wait(30)
    assert not lines


PROGRAM = """
import os, sys, time
from datastream_ws import Client
client = Client(sys.argv[1])

@client.on_message
async def tick(message):
    print("blocking", flush=True)
    time.sleep(0.05)
    time.sleep(float(sys.argv[2]))
    print("done", flush=True)

"""


def program(*arguments: str, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM + code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_stopped_process_was_not_blocked() -> None:
    """It is stopped within a call that blocks for less than a second."""
    with StreamServer() as server:
        run = program(server.url, "0.5", code="with client: sys.stdin.read()")
        assert run.stdout is not None
        server.wait_connected(1)
        server.send("1")
        assert run.stdout.readline() == "blocking\n"
        os.kill(run.pid, signal.SIGSTOP)
        time.sleep(2.0)  # it is stopped: there is no event to wait for
        os.kill(run.pid, signal.SIGCONT)
        assert run.stdout.readline() == "done\n"
        _, errors = run.communicate("", timeout=30)
    assert run.returncode == 0
    assert BLOCKED not in errors


FORK = """
client.start()
client.wait_ready(10)
child = os.fork()
if child:
    os.waitpid(child, 0)
    client.close()
else:
    @client.on_ready
    async def hello():
        time.sleep(1.5)

    with client:
        client.wait_ready(30)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_a_forked_child_watches_its_own_loop() -> None:
    with StreamServer() as server:
        run = program(server.url, "0", code=FORK)
        _, errors = run.communicate("", timeout=60)
    assert errors.count("__main__.hello " + BLOCKED) == 1, errors
