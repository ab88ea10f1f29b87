"""A fleet that three processes share, with a Redis of the tests' own: the server counts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.fleets import FleetFeed, FleetProcess, Fleets
from kit.redisserver import PrivateRedis
from kit.streams import until

pytestmark = pytest.mark.timeout(600)

STREAMS = 90
TTL = 3.0
MANY = [pytest.param(2), pytest.param(20, marks=pytest.mark.soak)]


@pytest.fixture
def feed() -> Iterator[FleetFeed]:
    with FleetFeed() as feed:
        yield feed


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path) as private:
        yield private


@pytest.fixture
def fleets(feed: FleetFeed, redis: PrivateRedis, tmp_path: Path) -> Iterator[Fleets]:
    def start(log: Path) -> FleetProcess:
        options: dict[str, Any] = {"lease": redis.url, "lease_ttl": TTL}
        return FleetProcess(feed.url, log, STREAMS, **options)

    with Fleets(feed, start, tmp_path, STREAMS, TTL) as made:
        for _ in range(3):
            made.add()
        made.wait_shared(30)
        yield made
    assert feed.twice == [], "a stream had two connections at a time"
    made.check_promise()


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
        until(lambda process=process: fleets.feed.loads[process.pid] > 0, 30)  # type: ignore[misc]
        first = time.monotonic()
        seconds = fleets.wait_shared(30)
        gaps, moved = fleets.feed.gaps(began), len(fleets.feed.spans) - before
        print(f"joined: its share after {seconds:.2f} s, {moved} moves, gaps ≤ {max(gaps):.2f} s")
        assert time.monotonic() - first <= TTL
        assert moved <= STREAMS // 4 + 1, "more moves than needed"
        assert max(gaps) <= 1.0
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
        assert max(gaps) <= 1.0
        ends = fleets.feed.ends(leaver.pid, began)
        assert len(ends) == STREAMS // 3
        assert ends[20] - ends[0] > 0.1, "more than twenty at a time"
        fleets.add()
        fleets.wait_shared(30)


@pytest.mark.parametrize("times", MANY)
def test_a_stopped_process_hands_nothing_on_when_it_wakes(fleets: Fleets, times: int) -> None:
    for _ in range(times):
        process = fleets.processes[0]
        process.stop()
        others = {other.pid for other in fleets.processes[1:]}
        until(
            lambda others=others: (  # type: ignore[misc]
                fleets.feed.connected == STREAMS and set(fleets.feed.loads) <= others
            ),
            30,
            fleets.report,
        )
        process.go_on()
        fleets.wait_shared(30)


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
        until(lambda: fleets.feed.connected == 0, TTL + 5, fleets.report)
        assert time.monotonic() - began <= TTL
        end(redis)
        print(f"all came back after {fleets.wait_shared(30):.2f} s")


def test_a_redis_that_restarts_without_its_data_goes_unnoticed(
    fleets: Fleets, redis: PrivateRedis
) -> None:
    before = len(fleets.feed.spans)
    redis.kill()
    redis.start()
    until(lambda: _members(redis) == 3, 10)
    time.sleep(TTL)  # whatever was wrong would have been noticed by now
    fleets.wait_shared(10)
    assert len(fleets.feed.spans) == before, "no stream has moved"


def _members(redis: PrivateRedis) -> int:
    import redis as library

    with library.Redis.from_url(redis.url) as client:
        found: int = client.hlen("datastream-ws:{accounts}:members")
        return found
