"""Receivers as handlers: who is called, where, and what happens when one raises."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.dispatch import receiver
from django.test import override_settings

from datastream_ws import HandlerError
from datastream_ws.testing import StreamServer
from datastream_ws_django import Stream, datastream, datastreams
from datastream_ws_django.models import FailedMessage
from datastream_ws_django.signals import (
    message_received,
    stream_connected,
    stream_disconnected,
    stream_error,
    stream_failed,
    stream_ready,
)
from datastream_ws_django.testing import deliver
from kit.seen import Seen, eventually

FAST = {"MIN_RECONNECT_DELAY": 0.02, "MAX_RECONNECT_DELAY": 0.1, "PROXY": None}
# The hooks that keep failed messages would use a database.
STREAM = {"URL": "ws://127.0.0.1:1/", "DEAD_LETTER_DAYS": 0, **FAST}


TESTS = Path(__file__).parents[1]
IN_A_CHILD = """
import os, signal, threading
import kit.djangohere
from datastream_ws_django import datastreams
from datastream_ws_django.signals import message_received

held, done = threading.Event(), threading.Event()

def receive(**facts): pass

def hold():
    stream = datastreams["default"]
    with stream._lock, datastreams.lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    message_received.connect(receive, weak=False)
    datastreams["made later"].forget_client()
    datastreams["default"].forget_client()
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
done.set()
thread.join()
print(code)
"""


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    """Which may hold any of the locks while the process forks."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", IN_A_CHILD]
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": paths}
    )
    assert found.stdout.splitlines()[-1:] == ["0"], found.stderr


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> Iterator[Stream]:
    """A stream that no other test knows."""
    alias = request.node.name
    with override_settings(DATASTREAMS={alias: STREAM, "other": STREAM}):
        yield datastreams[alias]


@pytest.fixture
def connected(stream: Stream, stream_server: StreamServer) -> Iterator[StreamServer]:
    """The server of *stream*."""
    with override_settings(DATASTREAMS={stream.alias: {**STREAM, "URL": stream_server.url}}):
        yield stream_server
        stream.forget_client()


def test_plain_and_coroutine_receivers_get_stream_and_message(stream: Stream) -> None:
    seen: list[Any] = []

    @receiver(message_received, sender=stream)
    def plain(sender: Any, *, stream: Any, message: Any, **kwargs: Any) -> None:
        seen.append((sender, stream, message.json(), kwargs["signal"]))

    @receiver(message_received, sender=stream)
    async def coroutine(sender: Any, *, stream: Any, message: Any, **kwargs: Any) -> None:
        seen.append((sender, stream, message.json(), kwargs["signal"]))

    deliver(stream.alias, {"a": 1})
    deliver("other", {"a": 2})
    assert seen == [(stream, stream, {"a": 1}, message_received)] * 2


def test_without_a_sender_all_streams_are_meant_those_made_later_too(stream: Stream) -> None:
    seen: list[Any] = []

    @receiver(message_received)
    def every(sender: Any, **kwargs: Any) -> None:
        seen.append(sender.alias)

    deliver(stream.alias, "x")
    deliver("other", "x")
    message_received.disconnect(every)
    deliver("other", "x")
    assert seen == [stream.alias, "other"]


@pytest.mark.leaks_allowed("asgiref's thread lives as long as the traceback through it")
def test_one_that_raises_is_reported_and_the_others_still_run(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    errors: list[Any] = []
    stream.on_error(errors.append)

    @receiver(message_received, sender=stream)
    def bad(sender: Any, **kwargs: Any) -> None:
        raise LookupError("on purpose")

    @receiver(message_received, sender=stream)
    async def also_bad(sender: Any, **kwargs: Any) -> None:
        raise KeyError("on purpose")

    @receiver(message_received, sender=stream)
    def good(sender: Any, **kwargs: Any) -> None:
        seen.append("good")

    deliver(stream.alias, "x", robust=True)
    assert seen == ["good"]
    assert [type(error.__cause__) for error in errors] == [LookupError, KeyError]
    assert "test_one_that_raises" in str(errors[0])
    assert "on purpose" in caplog.text
    with pytest.raises(LookupError):
        deliver(stream.alias, "x")


def test_receivers_that_are_gone_are_not_called(stream: Stream) -> None:
    seen: list[Any] = []

    class Listener:
        def listen(self, sender: Any, **kwargs: Any) -> None:
            seen.append("called")

    listener = Listener()
    message_received.connect(listener.listen, sender=stream)
    message_received.connect(listener.listen, sender=stream)
    deliver(stream.alias, "x")
    del listener
    gc.collect()
    deliver(stream.alias, "x")
    assert seen == ["called"]


def test_uids_are_unique_and_disconnect(stream: Stream) -> None:
    seen: list[Any] = []
    for number in range(3):

        def counted(sender: Any, number: int = number, **kwargs: Any) -> None:
            seen.append(number)

        message_received.connect(counted, sender=stream, weak=False, dispatch_uid="one")
    deliver(stream.alias, "x")
    assert message_received.disconnect(sender=stream, dispatch_uid="one")
    deliver(stream.alias, "x")
    assert seen == [0]
    assert not stream.handlers.has_message_handlers


def test_a_wrong_sender_or_receiver_is_refused_at_once() -> None:
    def listen(sender: Any, **kwargs: Any) -> None: ...

    def no_room(sender: Any, stream: Any, message: Any) -> None: ...

    with pytest.raises(TypeError, match=r"datastreams\['default'\]"):
        message_received.connect(listen, sender="default")
    with pytest.raises(ValueError, match="keyword arguments"):
        message_received.connect(no_room, sender=datastream)


def test_the_life_of_a_stream_is_told(stream: Stream, connected: StreamServer) -> None:
    seen = Seen[str]()

    def tell(name: str) -> Any:
        def told(sender: Any, *, stream: Any, **kwargs: Any) -> None:
            seen(name)

        return told

    signals = {
        "connected": stream_connected,
        "ready": stream_ready,
        "disconnected": stream_disconnected,
        "error": stream_error,
        "failed": stream_failed,
    }
    for name, signal in signals.items():
        signal.connect(tell(name), sender=stream, weak=False)
    stream.prepare(foreground=True).start()
    stream.wait_ready(30)
    connected.refuse(401)
    connected.close(1001)
    seen.wait_for(lambda name: name == "failed")
    with pytest.raises(Exception, match="401"):
        stream.wait_closed(30)
    assert seen.all == ["connected", "ready", "error", "disconnected", "error", "failed"]


def test_async_receivers_run_on_the_stream_s_loop_and_may_send(
    stream: Stream, connected: StreamServer
) -> None:
    @receiver(stream_ready, sender=stream)
    async def subscribe(sender: Any, *, stream: Any, **kwargs: Any) -> None:
        await stream.aio.send({"type": "subscribe"})

    with stream:
        assert connected.wait_received(1, 30) == ['{"type":"subscribe"}']


def test_a_receiver_that_raises_in_production_is_counted_and_reported(
    stream: Stream, connected: StreamServer
) -> None:
    errors = Seen[Any]()
    threads = Seen[Any]()
    stream.on_error(errors)

    @receiver(message_received, sender=stream)
    def bad(sender: Any, **kwargs: Any) -> None:
        raise LookupError

    @receiver(message_received, sender=stream)
    def good(sender: Any, **kwargs: Any) -> None:
        threads(threading.current_thread())

    with stream:
        stream.wait_ready(30)
        connected.send("x")
        threads.wait()
        assert isinstance(errors.wait()[0], HandlerError)
    assert stream.stats().messages_failed == 1


def test_a_receiver_for_every_stream_is_no_handler_of_one_in_particular(stream: Stream) -> None:
    def listen(sender: Any, **kwargs: Any) -> None: ...

    told: list[bool] = []
    for signal in (message_received, stream_failed):
        signal.connect(listen)
        told.append(stream.has_handlers)
        signal.connect(listen, sender=stream)
        told.append(stream.has_handlers)
        assert signal.disconnect(listen, sender=stream)
        assert signal.disconnect(listen)
        assert stream.for_every_stream == []
    assert told == [False, True, False, True]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_test_s_database_in_memory_is_closed_in_our_threads(
    kind: str, transactional_db: None, stream: Stream, connected: StreamServer
) -> None:
    """Else each ends in a ResourceWarning (Python 3.13), for Django itself never closes one."""
    seen: list[Any] = []

    def count() -> None:
        FailedMessage.objects.count()
        seen.append(connections["default"])

    if kind == "plain":
        stream.on_message(lambda message: count())
    else:

        @stream.on_message
        async def handle(message: Any) -> None:
            await sync_to_async(count)()

    with stream:
        connected.wait_connected(1)
        connected.send("a")
        eventually(lambda: seen)
    eventually(lambda: seen[0].connection is None)
    assert connections["default"] is not seen[0]
    assert FailedMessage.objects.count() == 0  # the test's own is open
    deliver(stream.alias, "b")
    assert kind == "coroutine" or connections["default"].connection is not None


def test_a_stream_that_is_made_while_a_receiver_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that serve their first requests; each of them needs what the other may hold."""
    begun = threading.Event()
    seen: list[str] = []

    def slowly(stream: Stream) -> None:
        begun.set()
        time.sleep(0.2)

    def note(sender: Any, *, message: Any, **kwargs: Any) -> None:
        seen.append(message.data)

    monkeypatch.setattr(datastreams, "_on_made", [slowly, *datastreams._on_made])
    monkeypatch.setattr(datastreams, "_made", dict(datastreams._made))
    making = threading.Thread(target=lambda: datastreams["made-late"], daemon=True)
    connecting = threading.Thread(target=lambda: message_received.connect(note), daemon=True)
    making.start()
    begun.wait(5)
    connecting.start()
    for thread in (making, connecting):
        thread.join(5)
        assert not thread.is_alive()
    with override_settings(DATASTREAMS={"made-late": STREAM}):
        deliver("made-late", "once")
    message_received.disconnect(note)
    assert seen == ["once"]
