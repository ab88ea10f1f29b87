"""What is called in a forked child, and in which order; with and without Python's hook."""

from __future__ import annotations

import gc
import logging
import os
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from datastream_ws import forks
from datastream_ws.forks import Callbacks, bury
from datastream_ws.process import loop_use


class Thing:
    """Compares by value, as users' classes may."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, calls: list[str], name: str) -> None:
        self.calls = calls
        self.name = name

    def __eq__(self, other: object) -> bool:
        return True

    def renew(self) -> None:
        self.calls.append(self.name)


def test_callbacks_are_called_in_order_as_long_as_their_objects_live() -> None:
    calls: list[str] = []
    first, gone, last = Thing(calls, "first"), Thing(calls, "gone"), Thing(calls, "last")
    callbacks = Callbacks()
    callbacks.add(first.renew)
    callbacks.add(gone.renew)
    callbacks.add(lambda: calls.append("function"))
    callbacks.add(last.renew)
    reference = weakref.ref(gone)
    del gone
    gc.collect()
    assert reference() is None, "the registry keeps nothing alive"
    callbacks.call()
    assert calls == ["first", "function", "last"]


def test_a_callback_that_raises_keeps_nobody_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    def broken() -> None:
        raise ZeroDivisionError

    callbacks = Callbacks()
    callbacks.add(broken)
    callbacks.add(lambda: calls.append("called"))
    with caplog.at_level(logging.ERROR, "datastream_ws"):
        callbacks.call()
    assert calls == ["called"]
    assert "after a fork" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_locks_are_renewed_before_any_client_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(forks, "_renewals", Callbacks())
    monkeypatch.setattr(forks, "_clients", Callbacks())

    class Client:
        def _forget_parent(self) -> None:
            calls.append("client")

    client = Client()
    forks.watch_forks(client)
    forks.in_child(lambda: calls.append("lock"))
    forks._after_fork_in_child()
    assert calls == ["lock", "client"]


def test_a_fork_that_called_no_hook_is_noticed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    renewals = Callbacks()
    monkeypatch.setattr(forks, "_renewals", renewals)
    monkeypatch.setattr(forks, "_clients", Callbacks())
    monkeypatch.setattr(forks, "_pid", forks._pid)

    def renew() -> None:
        forks.notice_fork()  # as reading a client's state does
        calls.append(forks._pid)

    renewals.add(renew)
    forks.notice_fork()
    assert calls == []
    forks._pid = -1
    forks.notice_fork()
    forks.notice_fork()
    assert calls == [os.getpid()]


def test_descriptors_of_the_parent_are_pointed_elsewhere() -> None:
    reading, writing = os.pipe()
    try:
        bury(object(), [writing, -1])
        assert os.read(reading, 1) == b"", "the last writer is gone"
        os.write(writing, b"x")  # into /dev/null
        bury(object(), [1_000_000])
    finally:
        os.close(reading)
        os.close(writing)


def test_a_child_without_a_free_descriptor_has_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_use, "_process", before := loop_use._process)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        loop_use._renew()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert loop_use._process is not before


def test_a_child_has_a_pool_and_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_use, "_process", before := loop_use._process)
    loop_use._renew()
    assert loop_use._process is not before
    assert loop_use.threads() is not before.pool
    assert before in forks._graveyard


# Each lock is taken by a thread of the parent when it forks. The child would wait for ever.
HELD = """
import logging, os, threading
from datastream_ws.handlers import Handlers
from datastream_ws.process import loop_use
from datastream_ws.spool import file_lock
from datastream_ws import Client

handlers = Handlers()
logging.disable()
alone = Client("ws://localhost:1")
taken, done = threading.Event(), threading.Event()

def hold():
    with (
        loop_use._process.lock, loop_use._process.pool._lock, file_lock._guard, handlers._lock,
        alone.aio._state._lock, alone.aio._errors._count._lock,
        alone.aio._subscriptions._lock,
    ):
        taken.set()
        done.wait()

thread = threading.Thread(target=hold, daemon=True)
thread.start()
assert taken.wait(10)
pid = os.fork()
if pid == 0:
    handlers.on_message(lambda message: None)
    file_lock.FileLock(PATH).release()
    loop_use.threads().submit(int).result(5)
    alone.subscribe("x")
    assert list(alone.errors(0)) == []
    alone.start()
    alone.close(0)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
done.set()
thread.join()
print(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_no_lock_of_the_parent_is_waited_for(tmp_path: Path) -> None:
    code = f"PATH = {str(tmp_path / 'spool')!r}\n{HELD}"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("0\n", "")
