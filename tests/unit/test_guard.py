"""The guard sees each kind of leak, names it, and leaves tidy tests alone."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datastream_ws.testing.loop import LoopOnThread
from kit.guard import Snapshot, watched_loops

pytest_plugins = ["pytester"]

# Long enough for what ends by itself, and all that a test of a real leak has to wait.
GRACE = 0.05
TESTS = Path(__file__).parents[1]


async def for_ever() -> None:
    await asyncio.Event().wait()


@contextmanager
def thread() -> Iterator[str]:
    end = threading.Event()
    leak = threading.Thread(target=end.wait, name="forgotten", daemon=True)
    leak.start()
    yield "thread forgotten"
    end.set()
    leak.join()


@contextmanager
def task_on_a_thread() -> Iterator[str]:
    loop = LoopOnThread("tidy")
    loop.start()
    before = Snapshot.take()
    task = loop.call(asyncio.ensure_future, for_ever())
    assert any("for_ever" in leak for leak in before.leaks(GRACE))
    loop.call(task.cancel)
    yield "thread tidy"
    loop.stop()


@contextmanager
def open_file() -> Iterator[str]:
    with Path(__file__).open() as file:
        yield f"descriptor {file.fileno()}: "


@contextmanager
def pipe() -> Iterator[str]:
    ends = os.pipe()
    yield f"descriptor {ends[0]}: pipe"
    for end in ends:
        os.close(end)


@contextmanager
def connection() -> Iterator[str]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        # Both ends are named, so that one sees what it was connected to.
        yield f"to {listener.getsockname()}"


@pytest.mark.parametrize("leak", [thread, task_on_a_thread, open_file, pipe, connection])
def test_leak_is_named(leak: type) -> None:
    """What was not there before is described so that one can find it; once gone, it is no leak."""
    before = Snapshot.take()
    with leak() as name:
        assert any(name in found for found in before.leaks(GRACE)), before.leaks(0)
    assert before.leaks(GRACE) == []


def test_what_ends_within_the_grace_is_no_leak() -> None:
    """A thread on its way out is waited for, no longer than it takes."""
    before = Snapshot.take()
    threading.Timer(0.03, lambda: None).start()
    begun = time.monotonic()
    assert before.leaks(grace=5) == []
    assert time.monotonic() - begun < 1


def test_what_a_reference_cycle_keeps_is_no_leak() -> None:
    """A descriptor that the garbage collector will close gets its chance."""
    before = Snapshot.take()
    cycle: list[object] = [socket.socket()]
    cycle.append(cycle)
    del cycle
    with pytest.warns(ResourceWarning):
        assert before.leaks(grace=5) == []


@pytest.mark.leaks_allowed("to be seen by the watch within")
def test_task_that_asyncio_run_had_to_cancel() -> None:
    """A task that outlives asyncio.run is a leak, even though run ends it."""

    kept = []

    async def forget() -> None:
        kept.append(asyncio.create_task(for_ever()))

    with watched_loops() as abandoned:
        asyncio.run(forget())
    assert len(abandoned) == 1
    assert "for_ever" in abandoned[0]


def test_task_that_ends_by_itself_or_was_cancelled_is_no_leak() -> None:
    """A task needs not be awaited, only on its way out."""

    kept = []

    async def leave() -> None:
        kept.append(asyncio.create_task(asyncio.sleep(0.01)))
        kept.append(asyncio.create_task(for_ever()))
        kept[-1].cancel()

    with watched_loops() as abandoned:
        asyncio.run(leave())
    assert abandoned == []


@pytest.mark.leaks_allowed("to be seen by the watch within")
def test_task_in_a_loop_that_is_closed() -> None:
    """A loop that is closed over the head of a task leaks it."""
    with watched_loops() as abandoned:
        loop = asyncio.new_event_loop()
        task = loop.create_task(for_ever())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert len(abandoned) == 1
    coroutine = task.get_coro()
    assert coroutine is not None
    coroutine.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # or it complains


def test_fixture(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaking tests fail at their end, tidy and marked ones pass, a mark needs its reason."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    pytester.makeini("[pytest]\nmarkers = leaks_allowed(reason): may leak")
    pytester.makeconftest(
        """
        import kit.guard
        from kit.guard import leak_guard
        kit.guard.GRACE = 0.05
        """
    )
    pytester.makepyfile(
        """
        import asyncio, os, threading, time
        import pytest

        kept = []

        def test_thread():
            threading.Thread(target=time.sleep, args=(60,), daemon=True, name="sleepy").start()

        def test_descriptor():
            kept.extend(os.pipe())

        def test_task():
            async def forget():
                kept.append(asyncio.create_task(asyncio.sleep(60)))
            asyncio.run(forget())

        @pytest.mark.leaks_allowed("on purpose")
        def test_allowed():
            kept.extend(os.pipe())

        @pytest.mark.leaks_allowed
        def test_without_reason():
            pass

        def test_tidy():
            thread = threading.Thread(target=time.sleep, args=(0.01,))
            thread.start()
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=5, errors=4)
    result.stdout.fnmatch_lines(
        [
            "ERROR test_fixture.py::test_thread - *",
            "ERROR test_fixture.py::test_descriptor - *",
            "ERROR test_fixture.py::test_task - *",
            "ERROR test_fixture.py::test_without_reason - *",
        ]
    )
    result.stdout.fnmatch_lines(["*thread sleepy*"])
    result.stdout.fnmatch_lines(["*descriptor *: pipe*"])
    result.stdout.fnmatch_lines(["*task Task-* (sleep)*"])
