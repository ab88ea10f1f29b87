"""The threads of handlers: as many as are needed, and gone when idle."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from datastream_ws.process import handler_threads as module
from datastream_ws.process.handler_threads import (
    DaemonExecutor,
    HandlerThreads,
    is_handler_thread,
)
from kit.seen import eventually


@pytest.fixture
def pool() -> Iterator[HandlerThreads]:
    threads = HandlerThreads()
    yield threads
    threads.join(5)
    assert not threads._alive


def burst(pool: HandlerThreads) -> None:
    """Have six threads run at once."""
    go = threading.Event()
    more = [pool.submit(go.wait, 10) for _ in range(6)]
    go.set()
    for future in more:
        future.result(5)


def test_results_and_errors(pool: HandlerThreads) -> None:
    assert pool.submit(divmod, 7, 2).result(5) == (3, 1)
    assert pool.submit(is_handler_thread).result(5)
    assert not is_handler_thread()
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(5)


def test_what_a_future_of_asyncio_refuses(pool: HandlerThreads) -> None:
    """`url=iterator.__next__`: whoever awaits it would hang."""
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        pool.submit(next, iter(())).result(5)
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_held_pool_keeps_two_threads_and_uses_them_again(pool: HandlerThreads) -> None:
    pool.hold()
    pool.hold()
    used = {pool.submit(threading.get_ident).result(5) for _ in range(20)}
    assert len(pool._alive) == 2
    assert used <= {worker.thread.ident for worker in pool._alive}
    pool.let_go()
    assert len(pool._alive) == 2
    pool.join(5)
    assert len(pool._alive) == 2, "somebody still holds it"
    pool.let_go()


def test_calls_that_hang_get_threads_of_their_own(pool: HandlerThreads) -> None:
    go = threading.Event()
    stuck = [pool.submit(go.wait, 10) for _ in range(5)]
    assert pool.submit(int).result(5) == 0
    pool.join(0.01)  # not for those
    go.set()
    assert [future.result(5) for future in stuck] == [True] * 5


def test_idle_threads_end_after_a_while(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_THREAD_SECONDS", 0.01)
    pool.hold()
    burst(pool)
    eventually(lambda: len(pool._alive) <= 2)
    pool.let_go()


def test_idle_threads_end_under_steady_light_use(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that became idle last takes the next call."""
    monkeypatch.setattr(module, "IDLE_THREAD_SECONDS", 0.2)
    pool.hold()
    burst(pool)
    # The future is settled a moment before its thread idles: more than one may take a call.
    eventually(lambda: pool.submit(len, pool._alive).result(5) <= 3)
    pool.let_go()


def test_a_call_as_a_thread_gives_up_waiting(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_THREAD_SECONDS", 0.0)
    pool.hold()
    for number in range(2000):
        assert pool.submit(abs, -number).result(5) == number
    pool.let_go()


def test_an_idle_thread_keeps_nothing_alive(pool: HandlerThreads) -> None:
    """Neither a client nor a message, for the ten seconds or for ever."""

    class Thing:
        def method(self) -> None: ...

    thing = Thing()
    gone = weakref.ref(thing)
    pool.hold()
    pool.submit(thing.method).result(5)
    del thing
    done = threading.Event()
    while gone() is not None and not done.wait(0.001):
        gc.collect()
    pool.let_go()


def test_at_interpreter_exit_a_kept_thread_takes_the_call(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.hold()
    go = threading.Event()
    stuck = [pool.submit(go.wait, 10) for _ in range(2)]

    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        waiting = pool.submit(int)
    assert len(pool._alive) == 2
    go.set()
    assert waiting.result(5) == 0
    assert all(future.result(5) for future in stuck)
    pool.let_go()


def test_only_a_few_threads_rest(pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 30.0)
    locks = [threading.Lock() for _ in range(module.MOST_RESTING + 1)]
    for lock in locks:
        lock.acquire()
    *resting, other = locks
    futures = [pool.submit(pool.rest, lock) for lock in resting]
    eventually(lambda: len(pool._resting) == module.MOST_RESTING)
    assert not pool.submit(pool.rest, other).result(5)
    for lock in resting:
        lock.release()
    assert all(future.result(5) for future in futures)
    assert not pool._resting


def test_a_rest_takes_10_ms(pool: HandlerThreads) -> None:
    lock = threading.Lock()
    lock.acquire()
    began = time.monotonic()
    assert not pool.submit(pool.rest, lock).result(5)
    assert time.monotonic() - began >= 0.01
    assert not pool._resting


def test_join_on_a_thread_of_the_pool(pool: HandlerThreads) -> None:
    """A handler may end the last use of the loop: it does not wait for itself."""
    assert pool.submit(pool.join, 5).result(5) is None


def test_lookups_of_one_name_share_a_thread(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, calls = threading.Event(), list[Any]()

    def hanging(*arguments: Any) -> list[Any]:
        calls.append(arguments)
        go.wait(10)
        return [arguments]

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    executor = DaemonExecutor(pool)
    look_up: Any = socket.getaddrinfo
    first: Future[Any] = executor.submit(look_up, "a", 1)
    second: Future[Any] = executor.submit(look_up, "a", 1)
    other: Future[Any] = executor.submit(look_up, "b", 1)
    go.set()
    assert first.result(5) == second.result(5) == [("a", 1)]
    assert other.result(5) == [("b", 1)]
    assert executor.submit(look_up, "a", 1).result(5) == [("a", 1)]
    assert sorted(calls) == [("a", 1), ("a", 1), ("b", 1)]
    assert executor.submit(divmod, 7, 2).result(5) == (3, 1)
    executor.shutdown()


def test_a_failed_lookup_gives_each_caller_its_own_error(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt adds the host to the text, and the streams of a fleet often share a host."""
    go = threading.Event()

    def failing(*arguments: Any) -> list[Any]:
        go.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    executor = DaemonExecutor(pool)
    waiting: list[Future[Any]] = [executor.submit(socket.getaddrinfo, "a", 1) for _ in range(2)]
    go.set()
    first, second = (each.exception(5) for each in waiting)
    assert isinstance(first, socket.gaierror)
    assert isinstance(second, socket.gaierror)
    first.strerror = "of the first only"
    assert second.strerror == "Name or service not known"
    assert second.errno == socket.EAI_NONAME
    executor.shutdown()


def test_a_lookup_that_ends_while_another_asks_for_it(
    pool: HandlerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ending(dict[Any, Any]):
        """The lookup ends right after it was seen to be running."""

        def __contains__(self, key: object) -> bool:
            found = super().__contains__(key)
            self.pop(key, None)
            return found

    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: [arguments])
    executor = DaemonExecutor(pool)
    running: Future[Any] = Future()
    executor._lookups = Ending({("a", 1): running})
    found: Future[Any] = executor.submit(socket.getaddrinfo, "a", 1)
    running.set_result([("a", 1)])
    assert found.result(5) == [("a", 1)]
    executor.shutdown()
