"""A fleet that three processes share, with a Redis of the tests' own: the server counts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datastream_ws import ConfigurationError, Fleet, LeaseError, Message, State
from datastream_ws.lease.shared import SharedStore
from kit.fleets import SIZES, FleetFeed, Fleets, check_gaps, fleets_of, share_by_the_second
from kit.fleets import feed as feed
from kit.redisserver import PrivateRedis
from kit.seen import eventually

pytestmark = pytest.mark.timeout(600)

STREAMS = 90
TTL = 3.0
FAST: dict[str, Any] = {"min_reconnect_delay": 0.05, "max_reconnect_delay": 0.1}
MANY = [pytest.param(2), pytest.param(20, marks=pytest.mark.soak)]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path) as private:
        yield private


@pytest.fixture
def fleets(feed: FleetFeed, redis: PrivateRedis, tmp_path: Path) -> Iterator[Fleets]:
    with fleets_of(
        feed, tmp_path, streams=STREAMS, ttl=TTL, processes=3, lease=redis.url
    ) as fleets:
        yield fleets


@pytest.mark.parametrize("times", MANY)
def test_kill_9_is_made_up_for_within_the_ttl(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        fleets.any().kill()
        seconds = fleets.wait_connected(30)
        print(f"killed: all connected again after {seconds:.2f} s of {TTL} s + 1 s")
        assert seconds <= TTL + 1
        fleets.wait_shared(10)
        fleets.add()
        fleets.wait_shared(30)


@pytest.mark.parametrize("times", MANY)
def test_one_that_joins_is_given_its_share(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        before = len(fleets.feed.spans)
        began = time.monotonic()
        process = fleets.add()
        eventually(lambda process=process: fleets.feed.loads[process.pid] > 0, 30)  # type: ignore[misc]
        first = time.monotonic()
        seconds = fleets.wait_shared(30)
        gaps, moved = fleets.feed.gaps(began), len(fleets.feed.spans) - before
        print(f"joined: its share after {seconds:.2f} s, {moved} moves, gaps ≤ {max(gaps):.2f} s")
        assert time.monotonic() - first <= TTL
        assert moved <= STREAMS // 4 + 1, "more moves than needed"
        check_gaps(gaps, times, TTL)
        fleets.any().kill()
        fleets.wait_shared(30)


@pytest.mark.parametrize("times", MANY)
def test_sigterm_hands_over_twenty_at_a_time(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        began = time.monotonic()
        leaver = fleets.any()
        assert leaver.terminate() == 0
        seconds = time.monotonic() - began
        fleets.wait_connected(10)
        gaps = fleets.feed.gaps(began)
        print(f"ended after {seconds:.2f} s; {len(gaps)} moved, gaps ≤ {max(gaps):.2f} s")
        check_gaps(gaps, times, TTL)
        ends = fleets.feed.ends(leaver.pid, began)
        assert len(ends) == STREAMS // 3
        assert ends[20] - ends[0] > 0.1, "more than twenty at a time"
        fleets.add()
        fleets.wait_shared(30)


@pytest.mark.parametrize("times", MANY)
def test_a_stopped_process_hands_nothing_on_when_it_wakes(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        fleets.outlive_a_stop()


def hang(redis: PrivateRedis) -> None:
    os.kill(redis._process.pid, signal.SIGSTOP)


def wake(redis: PrivateRedis) -> None:
    os.kill(redis._process.pid, signal.SIGCONT)


OUTAGES = [
    pytest.param(hang, wake, id="hung"),
    pytest.param(PrivateRedis.kill, PrivateRedis.start, id="gone, its data too"),
]


@pytest.mark.parametrize(("begin", "end"), OUTAGES)
@pytest.mark.parametrize("times", MANY)
def test_without_redis_all_stand_by_and_all_come_back(
    fleets: Fleets,
    redis: PrivateRedis,
    begin: Callable[[PrivateRedis], None],
    end: Callable[[PrivateRedis], None],
    times: int,
) -> None:
    for _ in range(times):
        began = time.monotonic()
        begin(redis)
        eventually(lambda: fleets.feed.connected == 0, TTL + 5, fleets.report)
        assert time.monotonic() - began <= TTL
        end(redis)
        print(f"all came back after {fleets.wait_shared(30):.2f} s")


def test_a_redis_that_restarts_without_its_data_goes_unnoticed(
    fleets: Fleets, redis: PrivateRedis
) -> None:
    before = len(fleets.feed.spans)
    redis.kill()
    redis.start()
    eventually(lambda: _members(redis) == 3, 10)
    time.sleep(TTL)  # whatever was wrong would have been noticed by now
    fleets.wait_shared(10)
    assert len(fleets.feed.spans) == before, "no stream has moved"


def _members(redis: PrivateRedis) -> int:
    import redis as library

    with library.Redis.from_url(redis.url) as client:
        found: int = client.hlen("datastream-ws:{accounts}:members")
        return found


# --- in this process --------------------------------------------------------------------------


def shared(url: str, redis: PrivateRedis, **options: Any) -> Fleet:
    rows = {key: {"url": f"{url}/{key}", "headers": {"X-Process": "1"}} for key in range(6)}
    fleet = Fleet(lambda: rows, name="here", lease=redis.url, lease_ttl=TTL, **FAST, **options)
    fleet.on_message(lambda message: None)
    return fleet


def is_ready(fleet: Fleet, streams: int) -> bool:
    return len(fleet) == streams and all(fleet[key].is_ready for key in list(fleet))


def test_who_has_what(feed: FleetFeed, redis: PrivateRedis) -> None:
    one, two = shared(feed.url, redis), shared(feed.url, redis)
    assert (one.processes, one.owner(1)) == ([], None)
    with one, two:
        eventually(lambda: is_ready(one, 3) and is_ready(two, 3), 20)
        own = f"{socket.gethostname()}:{os.getpid()}"
        eventually(lambda: one.processes == [own, own] and one.owner(0) == own, 20)
        elsewhere = next(iter(two))
        assert elsewhere not in one
        assert one.state(elsewhere) is State.STANDBY
        assert two.state(elsewhere) is State.READY
        with pytest.raises(KeyError):
            one.state("unknown")
        with pytest.raises(KeyError):
            one[elsewhere]


def test_what_no_process_has_room_for_is_said_once(
    feed: FleetFeed, redis: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = (shared(feed.url, redis, limit=2) for _ in range(2))
    with one, two:
        eventually(lambda: is_ready(one, 2) and is_ready(two, 2), 20)
        eventually(lambda: one.stats().streams_beyond_limit == 2, 20)
        eventually(lambda: caplog.text.count("2 streams run in no process") == 2, 20)
        assert "2 processes have reached their limits (limit=2, 4 in all)" in caplog.text
        assert "2 processes share 6 streams; 2 run here" in caplog.text, "nothing is to be done"
        with shared(feed.url, redis, limit=2) as third:
            eventually(lambda: is_ready(third, 2), 20)
            eventually(
                lambda: caplog.text.count("every stream has room in a process again") == 2, 20
            )
            assert one.stats().streams_beyond_limit == 0
    assert caplog.text.count("run in no process") == 2, "once in each process"


def test_a_changed_row_is_replaced_where_it_is_with_a_later_epoch(
    feed: FleetFeed, redis: PrivateRedis
) -> None:
    rows: dict[int, dict[str, Any]] = {
        key: {"url": f"{feed.url}/{key}", "headers": {"X-Process": "1"}} for key in range(4)
    }
    got: list[Message] = []
    fleet = Fleet(lambda: dict(rows), name="here", lease=redis.url, lease_ttl=TTL, **FAST)
    fleet.on_message(got.append)
    with fleet:
        eventually(lambda: is_ready(fleet, 4) and any(m.key == 2 for m in got), 20)
        first, others = got[-1].epoch, [fleet[key] for key in (0, 1, 3)]
        rows[2] = {**rows[2], "headers": {"X-Process": "2"}}
        fleet.refresh()
        eventually(lambda: any(m.key == 2 and m.epoch > first for m in got), 20)
        eventually(lambda: feed.loads == {1: 3, 2: 1}, 20)
        assert [fleet[key] for key in (0, 1, 3)] == others
        del rows[0]
        fleet.refresh()
        eventually(lambda: feed.loads == {1: 2, 2: 1}, 20)
        eventually(lambda: _held(redis) == {b"1", b"2", b"3"}, 20)
    assert _held(redis) == set()
    assert feed.twice == []


def _held(redis: PrivateRedis) -> set[bytes]:
    import redis as library

    with library.Redis.from_url(redis.url) as client:
        return set(client.hkeys("datastream-ws:{here}:holders"))


def test_close_returns_beside_a_blocked_loop_and_others_take_over(
    feed: FleetFeed, redis: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go = threading.Event(), threading.Event()
    stuck, other = shared(feed.url, redis), shared(feed.url, redis)

    @stuck.on_message
    async def block(message: Message) -> None:
        begun.set()
        go.wait(60)

    try:
        stuck.start()
        assert begun.wait(30)
        began = time.monotonic()
        stuck.close(0.5)
        assert time.monotonic() - began < 1.5
        assert "user code blocks the event loop" in caplog.text
        assert "go.wait(60)" in caplog.text
        assert (len(stuck), stuck.is_running) == (0, False)
        with other:
            eventually(lambda: is_ready(other, 6), 30)
    finally:
        go.set()
    eventually(lambda: feed.connected == 0, 30)
    feed.twice.clear()  # nobody can close a connection whose loop is blocked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_fork_the_child_is_no_member(feed: FleetFeed, redis: PrivateRedis) -> None:
    fleet = shared(feed.url, redis)
    with fleet:
        eventually(lambda: is_ready(fleet, 6), 20)
        child = os.fork()
        if not child:
            is_idle = len(fleet) == 0 and not fleet.is_running and fleet.processes == []
            os._exit(0 if is_idle else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        time.sleep(TTL)  # what the child had spoilt would be lost by now
        assert is_ready(fleet, 6)
        assert len(feed.spans) == 6


class NotShared:
    def acquire(self, ttl: float) -> int | None:
        return 1

    def renew(self, ttl: float) -> bool:
        return True

    def release(self) -> None:
        pass


def test_a_lease_without_its_store_makes_start_raise() -> None:
    class Broken(NotShared):
        def shared_store(self) -> SharedStore:
            raise OSError("no such store")

    fleet = Fleet(dict, lease=Broken())
    for _ in range(2):
        with pytest.raises(OSError, match="no such store"):
            fleet.start()
        assert not fleet.is_running
    fleet.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lease": "ftp://localhost"}, "redis:// URL"),
        ({"lease": "redis://localhost:port"}, "is not a valid Redis URL"),
        ({"lease": NotShared()}, "cannot be shared with this object. Use a redis:// URL"),
        ({"lease": "redis://localhost", "lease_ttl": 0}, "lease_ttl"),
    ],
)
def test_wrong_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Fleet(dict, **options)


def test_a_redis_that_is_not_there_is_reported_once_and_waited_for(
    feed: FleetFeed, redis: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.kill()
    fleet, errors = shared(feed.url, redis), list[BaseException]()
    fleet.on_error(errors.append)
    with fleet:
        eventually(lambda: bool(errors), 20)
        time.sleep(1.0)
        assert feed.connected == 0
        redis.start()
        eventually(lambda: is_ready(fleet, 6), 30)
    assert [type(error) for error in errors] == [LeaseError]
    assert caplog.text.count("Redis is unavailable") == 1


def test_close_returns_while_redis_hangs(feed: FleetFeed, redis: PrivateRedis) -> None:
    fleet = shared(feed.url, redis)
    fleet.start()
    try:
        eventually(lambda: is_ready(fleet, 6), 20)
        hang(redis)
        began = time.monotonic()
        fleet.close(1.0)
        assert time.monotonic() - began < 2.0
        assert feed.connected == 0
    finally:
        wake(redis)


# --- as many as there may be ------------------------------------------------------------------


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("streams", SIZES)
def test_many_streams(redis: PrivateRedis, tmp_path: Path, streams: int) -> None:
    share_by_the_second(tmp_path, streams, lease=redis.url)
