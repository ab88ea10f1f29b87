"""Signals, interpreter exit and forks, in processes of their own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from datastream_ws.testing import StreamServer
from kit.numbered import NumberedServer, check_numbers
from kit.seen import eventually

PRELUDE = """
import json, os, signal, sys, threading, time
from datastream_ws import AsyncClient, Client, NotConnectedError, State

def say(**facts):
    # One write: lines of two processes do not mix.
    os.write(1, (json.dumps(facts) + "\\n").encode())

url = sys.argv[1]
options = dict(proxy=None, min_reconnect_delay=0.02, max_reconnect_delay=0.1)
go = threading.Event()
handled = []
client = Client(url, close_timeout=30, **options)

def handle_500(message):
    # Hold the first one until all have been received, and somebody was told.
    if not handled:
        while client.stats().messages_received < 500:
            time.sleep(0.005)
        say(received=500)
        go.wait(60)
    handled.append(message.data)
"""


class Program:
    """A Python process: what it says line by line, and how it ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def hear(self, timeout: float = 60.0) -> Any:
        """Return the next thing it says."""
        return json.loads(self.lines.get(timeout=timeout))

    def end(self, timeout: float = 60.0) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code


@contextmanager
def program(code: str, *arguments: str) -> Iterator[Program]:
    """Run PRELUDE and *code*; what it writes to stderr is shown with a failing test."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        running = Program(process)
        try:
            yield running
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children have its stdout, too
            running.end()


def send_500(server: StreamServer) -> None:
    server.wait_connected(1, 60)
    for n in range(500):
        server.send(str(n))


# --- signals ----------------------------------------------------------------------------------

RUN = """
client.on_message(handle_500)
client.on_state(lambda event: go.set() if event.state is State.CLOSING else None)
client.run()
say(handled=handled, state=client.state.name, dropped=dict(client.stats().messages_dropped))
"""

RUN_ASYNC = """
import asyncio
client = AsyncClient(url, close_timeout=30, **options)
client.on_message(handle_500)
client.on_state(lambda event: go.set() if event.state is State.CLOSING else None)
asyncio.run(client.run())
say(handled=handled, state=client.state.name, dropped=dict(client.stats().messages_dropped))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [RUN, RUN_ASYNC], ids=["Client", "AsyncClient"])
def test_a_signal_during_run_drains(code: str, number: signal.Signals) -> None:
    """500 messages waiting: all are handled, close code 1000 at the server, exit code 0."""
    with StreamServer() as server, program(code, server.url) as running:
        send_500(server)
        assert running.hear() == {"received": 500}
        running.process.send_signal(number)
        end = running.hear()
        assert end == {
            "handled": [str(n) for n in range(500)],
            "state": "CLOSED",
            "dropped": {},
        }
        assert running.end() == 0
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000


STUCK = """
client.on_message(handle_500)
client.on_state(lambda event: say(state=event.state.name))
client.run()
say(dropped=dict(client.stats().messages_dropped))
"""


def test_a_second_signal_aborts() -> None:
    """A handler hangs: the first signal waits for it, the second one ends run() at once."""
    with StreamServer() as server, program(STUCK, server.url) as running:
        send_500(server)
        while "received" not in running.hear():
            pass
        running.process.send_signal(signal.SIGTERM)
        while running.hear() != {"state": "CLOSING"}:  # earlier states may be told later
            pass
        running.process.send_signal(signal.SIGTERM)
        heard = [running.hear(10), running.hear(10)]
        assert {"dropped": {"shutdown": 499}} in heard
        assert running.end(20) == 0
        assert server.connections[0].closed.wait(30)


RUN_TWICE = """
for n in (1, 2):
    handled.clear()
    client.on_state(lambda event: go.set() if event.state is State.CLOSING else None)
    if n == 1:
        client.on_message(handle_500)
    client.run()
    say(handled=len(handled))
    go.clear()
    time.sleep(0.1)
"""


def test_a_signal_drains_the_second_run_too() -> None:
    """That the first run() was ended by a signal is forgotten: the next one still drains."""
    with StreamServer() as server, program(RUN_TWICE, server.url) as running:
        for n in (1, 2):
            server.wait_connected(n, 60)
            for _ in range(500):
                server.send("x")
            assert running.hear() == {"received": 500}
            running.process.send_signal(signal.SIGTERM)
            assert running.hear() == {"handled": 500}
        assert running.end() == 0


RUN_FAILS = """
try:
    Client(url, max_reconnect_attempts=2, **options).run()
except Exception as error:
    say(error=type(error).__name__, term=signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    sys.exit(3)
"""


def test_run_of_a_failing_client_leaves_with_its_error() -> None:
    """run() raises, and the process's signal handlers are what they were."""
    with StreamServer() as server:
        server.refuse(503)
        with program(RUN_FAILS, server.url) as running:
            assert running.hear() == {"error": "ReconnectError", "term": True}
            assert running.end() == 3


# --- interpreter exit -------------------------------------------------------------------------

EXIT = """
import atexit

def handle(message):
    handle_500(message)
    if len(handled) == 500:
        say(handled=handled)

client.on_message(handle)
client.on_state(lambda event: event.state is State.CLOSING and go.set())
atexit.register(lambda: say(before_ours=client.state.name))  # registered last, so it comes first
client.start()
while client.stats().messages_received < 500:
    time.sleep(0.005)
go.wait(0.5)
"""


def test_interpreter_exit_without_close() -> None:
    """What was received is handled, and the server is told 1000."""
    with StreamServer() as server, program(EXIT, server.url) as running:
        send_500(server)
        assert running.hear() == {"received": 500}
        assert running.hear() == {"before_ours": "READY"}
        assert running.hear() == {"handled": [str(n) for n in range(500)]}
        assert running.end() == 0
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000


EXIT_STUCK = """
stuck = Client(url, close_timeout=0.5, **options)
stuck.on_message(lambda message: (say(stuck=True), time.sleep(3600)))
stuck.start()
go.wait(2)
"""


def test_interpreter_exit_with_a_handler_that_hangs() -> None:
    """The exit takes close_timeout, not for ever."""
    with StreamServer() as server, program(EXIT_STUCK, server.url) as running:
        server.wait_connected(1, 60)
        server.send("x")
        assert running.hear() == {"stuck": True}
        assert running.end(20) == 0
        assert server.connections[0].closed.wait(30)
        assert server.connections[0].close_code == 1000


EXIT_ASYNC_HANDLERS = """
import asyncio
async def handle(message):
    await asyncio.sleep(0.001)
    handled.append(message.data)
    if len(handled) == 500:
        say(handled=500)
client.on_message(handle)
client.start()
while client.stats().messages_received < 500:
    time.sleep(0.005)
"""


def test_interpreter_exit_with_coroutine_handlers() -> None:
    """They are handled to the last one as well."""
    with StreamServer() as server, program(EXIT_ASYNC_HANDLERS, server.url) as running:
        send_500(server)
        assert running.hear() == {"handled": 500}
        assert running.end() == 0


# --- fork -------------------------------------------------------------------------------------

fork_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

FORK = """
numbers = []
done = threading.Event()
other = sys.argv[2]

@client.on_message
def handle(message):
    numbers.append(message.json()["n"])
    if numbers[-1] == 2000:
        done.set()

@client.on_ready
def resume():
    client.send({"resume": numbers[-1] if numbers else 0})

client.start()
client.wait_ready(30)
"""

FORK_WITH_OS = """
children = []
for n in range(5):
    while len(numbers) < 200 * n + 50:
        time.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        messages = client.stats().messages_received
        facts = {"child": n, "state": client.state.name, "messages": messages}
        try:
            client.send("from the child")
            facts["sent"] = True
        except NotConnectedError:
            facts["sent"] = False
        client.close()
        say(**facts)
        own = Client(other, **options)
        arrived = threading.Event()
        own.on_message(lambda message: arrived.set())
        own.start()
        own.wait_ready(30)
        own.send(f"child {n}")
        ok = arrived.wait(30)
        own.close()
        say(own=ok)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
done.wait(60)
say(numbers=numbers, connections=client.stats().connections)
client.close()
"""


@pytest.mark.fault("P20")
@fork_only
def test_fork_with_a_running_client() -> None:
    """The parent misses nothing; each child's client is idle, and the child can run its own."""
    echo = StreamServer(on_message=lambda connection, data: connection.send(data))
    with (
        NumberedServer(2000, rate=1000) as server,
        echo,
        program(FORK + FORK_WITH_OS, server.url, echo.url) as running,
    ):
        heard = [running.hear() for _ in range(11)]
        assert running.end() == 0
        children = [facts for facts in heard if "child" in facts]
        assert children == [
            {"child": n, "state": "IDLE", "messages": 0, "sent": False}
            for n in [facts["child"] for facts in children]
        ]
        assert sorted(facts["child"] for facts in children) == [0, 1, 2, 3, 4]
        assert [facts["own"] for facts in heard if "own" in facts] == [True] * 5
        (parent,) = (facts for facts in heard if "numbers" in facts)
        check_numbers(parent["numbers"], 2000)
        assert parent["connections"] == 1
        assert server.received == ['{"resume":0}']
        assert len(echo.connections) == 5


FORK_AFTER_CLOSE = """
number = client.aio._life.connection._engine.descriptor
say(ready=True)
while client.is_connected:
    time.sleep(0.001)
client.close()
reading, writing = os.pipe()
if writing != number:
    os.dup2(writing, number)
    os.close(writing)
pid = os.fork()
if pid == 0:
    os.write(number, b"arrived")
    os._exit(0)
os.waitpid(pid, 0)
os.close(number)
say(read=os.read(reading, 100).decode())
"""


@fork_only
def test_a_closed_client_touches_no_file_of_a_forked_child() -> None:
    """A file with the number of the closed socket was replaced by /dev/null."""
    with (
        NumberedServer(10**6, rate=1000) as server,
        program(FORK + FORK_AFTER_CLOSE, server.url, "") as running,
    ):
        assert running.hear() == {"ready": True}
        server.close(1001)
        assert running.hear() == {"read": "arrived"}
        assert running.end() == 0


FORK_RESTART = """
def tell(who):
    complete = numbers == list(range(1, 2001))
    say(who=who, complete=complete, connection=client.stats().connections)

while len(numbers) < 50:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    numbers.clear()
    client.start()
    client.wait_ready(30)
    done.clear()
    ok = done.wait(60)
    tell("child")
    sys.exit(0)
os.waitpid(pid, 0)
done.wait(60)
tell("parent")
"""


@fork_only
def test_a_child_may_start_the_same_client() -> None:
    """start() works there, on a connection of its own; its exit closes only that one."""
    with (
        NumberedServer(2000, rate=1000) as server,
        program(FORK + FORK_RESTART, server.url, "") as running,
    ):
        expected = {"complete": True, "connection": 1}
        assert running.hear() == {"who": "child", **expected}
        assert running.hear() == {"who": "parent", **expected}
        assert running.end() == 0
        assert len(server.connections) == 2
        eventually(lambda: [c.close_code for c in server.connections] == [1000, 1000])


FORK_AT_ONCE = """
client = Client(url, **options)
client.start()
pid = os.fork()
client.start()
client.wait_ready(30)
if pid:
    say(code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@fork_only
def test_a_fork_right_after_the_start() -> None:
    """As gunicorn's --preload does. What is imported then would be locked in the child for ever."""
    with StreamServer() as server, program(FORK_AT_ONCE, server.url) as running:
        assert running.hear() == {"code": 0}
        assert running.end() == 0
        assert len(server.connections) == 2


# As uWSGI forks: Python's hooks are not called. PyDLL: with the GIL held. The other threads are
# idle: a child of such a fork inherits the GIL as it is, and hangs if another one waited for it.
FORK_IN_C = """
import contextlib, ctypes

client.start()
client.wait_ready(30)
client.request("ping", lambda message: message.data == "ping", timeout=30)
time.sleep(0.2)
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    FIRST
    say(child=client.state.name, connections=client.stats().connections)
    client.start()
    client.wait_ready(30)
    client.request("pong", lambda message: message.data == "pong", timeout=30)
    sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
client.request("still here", lambda message: message.data == "still here", timeout=30)
say(code=code, parent=client.state.name, connections=client.stats().connections)
"""

# What the child does first with the client that it has inherited.
FIRST = {
    "state": "client.state",
    "stats": "client.stats()",
    "error": "assert client.error is client.last_message is None",
    "errors": "assert list(client.errors(0)) == []",
    "close": "client.close()",
    "aio.close": "import asyncio; asyncio.run(client.aio.close(30))",
    "wait_closed": "client.wait_closed(30)",
    "aio.wait_closed": "import asyncio; asyncio.run(client.aio.wait_closed(30))",
    "unsubscribe": "client.unsubscribe('nothing')",
    "send": "with contextlib.suppress(NotConnectedError): client.send('to nobody')",
    "nothing": "sys.exit(0)  # and nothing of the parent's is waited for",
}


@fork_only
@pytest.mark.parametrize("first", FIRST)
def test_a_fork_in_c_is_noticed(first: str) -> None:
    """Without a hook, too, the child's client is idle, can be started there, and ends."""
    code = FORK_IN_C.replace("FIRST", FIRST[first])
    echo = StreamServer(on_message=lambda connection, data: connection.send(data))
    with echo, program(code, echo.url) as running:
        if first != "nothing":
            assert running.hear() == {"child": "IDLE", "connections": 0}
        assert running.hear() == {"code": 0, "parent": "READY", "connections": 1}
        assert running.end() == 0
        assert "to nobody" not in echo.received
        closed = [1000, 1000] if first != "nothing" else [1000]
        eventually(lambda: [c.close_code for c in echo.connections] == closed)


FORK_IN_HANDLER = """
@client.on_message
def fork(message):
    pid = os.fork()
    if pid == 0:
        say(child=client.state.name)
        os._exit(0)
    os.waitpid(pid, 0)
    say(parent=client.state.name, data=message.data)

client.start()
client.wait_ready(30)
go.wait(1)
while client.stats().messages_handled < 2:
    time.sleep(0.005)
"""


@fork_only
def test_fork_inside_a_handler() -> None:
    """The child of a handler's own thread is no second handler of the next message."""
    with StreamServer() as server, program(FORK_IN_HANDLER, server.url) as running:
        server.wait_connected(1, 60)
        server.send("a")
        server.send("b")
        heard = [running.hear() for _ in range(4)]
        assert heard == [
            {"child": "IDLE"},
            {"parent": "READY", "data": "a"},
            {"child": "IDLE"},
            {"parent": "READY", "data": "b"},
        ]
        assert running.end() == 0


MULTIPROCESSING = """
import multiprocessing

def work(n):
    facts = {"worker": n, "state": client.state.name}
    with Client(other, **options) as own:
        own.wait_ready(30)
        own.send(f"worker {n}")
        own.flush(30)
    say(**facts)

context = multiprocessing.get_context("fork")
workers = [context.Process(target=work, args=(n,)) for n in range(3)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join(60)
say(codes=[worker.exitcode for worker in workers])
done.wait(60)
say(numbers=numbers, connections=client.stats().connections)
"""


@fork_only
def test_multiprocessing_with_fork() -> None:
    """Workers of multiprocessing run their own clients and end by themselves."""
    with (
        NumberedServer(2000, rate=1000) as server,
        StreamServer() as other,
        program(FORK + MULTIPROCESSING, server.url, other.url) as running,
    ):
        heard = [running.hear() for _ in range(5)]
        assert running.end() == 0
        states = [facts["state"] for facts in heard if "worker" in facts]
        assert states == ["IDLE"] * 3
        assert {"codes": [0, 0, 0]} in heard
        (parent,) = (facts for facts in heard if "numbers" in facts)
        check_numbers(parent["numbers"], 2000)
        assert parent["connections"] == 1
        assert sorted(map(str, other.received)) == ["worker 0", "worker 1", "worker 2"]
