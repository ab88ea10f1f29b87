"""One owner among three processes, with a Redis of the tests' own behind a fault proxy."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from datastream_ws.testing.connection import StreamConnection
from datastream_ws.testing.server import StreamServer
from kit.faultproxy import Blackhole, FaultProxy, Pass
from kit.redisserver import PrivateRedis
from kit.seen import eventually
from kit.streams import Handled, StreamProcess, entries

pytestmark = pytest.mark.timeout(300)

TTL = 3.0
MANY = [pytest.param(3), pytest.param(20, marks=pytest.mark.soak)]


class Feed(StreamServer):
    """Sends numbers to whoever is connected, and pings, with a timeout below the TTL."""

    def __init__(self) -> None:
        super().__init__(on_connect=self._feed, ping_interval=0.3, ping_timeout=0.5)
        self._numbers = itertools.count(1)

    async def _feed(self, connection: StreamConnection) -> None:
        import asyncio

        while True:
            await connection.websocket.send(json.dumps({"n": next(self._numbers)}))
            await asyncio.sleep(0.005)


class Cluster:
    """Three processes of one stream that want the same lease."""

    def __init__(self, server: StreamServer, redis: str, log: Path) -> None:
        self.server = server
        self.log = log
        self._redis = redis
        self._stack = ExitStack()
        self.processes: list[StreamProcess] = []

    def __enter__(self) -> Cluster:
        for _ in range(3):
            self.add()
        eventually(lambda: self.count("standby") == 2, 30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def add(self) -> StreamProcess:
        process = StreamProcess(self.server.url, self.log, lease=self._redis, lease_ttl=TTL)
        self.processes.append(self._stack.enter_context(process))
        return process

    def remove(self, process: StreamProcess) -> None:
        self.processes.remove(process)

    def count(self, state: str) -> int:
        return sum(process.state == state for process in self.processes)

    def holder(self, timeout: float = 20.0) -> StreamProcess:
        """Wait until one is ready."""
        eventually(lambda: self.count("ready") == 1, timeout, lambda: self.report())
        return next(process for process in self.processes if process.state == "ready")

    def report(self) -> str:
        return str([(process.pid, process.state, process.errors) for process in self.processes])

    @property
    def handled(self) -> list[Handled]:
        """By all processes, in the order of handling."""
        found = [Handled(**each) for each in entries(self.log) if "n" in each]
        return sorted(found, key=lambda each: each.at)

    def wait_new(self, epoch: int, timeout: float = 20.0) -> Handled:
        """Wait for the first message handled of a later epoch."""

        def later() -> list[Handled]:
            return [each for each in self.handled if each.epoch > epoch]

        eventually(lambda: bool(later()), timeout, lambda: self.report())
        return later()[0]

    def check_promise(self) -> None:
        """No message of an older epoch after the first of a newer one; one process an epoch."""
        epochs = [each.epoch for each in self.handled]
        assert epochs == sorted(epochs), "an older epoch after a newer one"
        owners = {(each.epoch, each.pid) for each in self.handled}
        assert len(owners) == len({epoch for epoch, _ in owners})
        numbers = [each.n for each in self.handled]
        assert len(numbers) == len(set(numbers)), "one message handled twice"


@pytest.fixture
def server() -> Iterator[Feed]:
    with Feed() as feed:
        yield feed


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path) as private:
        yield private


@pytest.mark.fault("77")
@pytest.mark.parametrize("times", MANY)
def test_kill_9_hands_over_within_the_ttl(
    server: Feed, redis: PrivateRedis, tmp_path: Path, times: int
) -> None:
    with Cluster(server, redis.url, tmp_path / "log") as cluster:
        for _ in range(times):
            holder = cluster.holder()
            last = holder.wait_handled(len(holder.handled) + 5)[-1]
            killed = time.monotonic()
            holder.kill()
            cluster.remove(holder)
            taken = cluster.wait_new(last.epoch)
            print(f"killed: its successor handles after {taken.at - killed:.2f} s of {TTL} s")
            assert taken.at - killed < TTL
            cluster.add().wait_state("standby")
        cluster.check_promise()


@pytest.mark.fault("77")
@pytest.mark.parametrize("times", MANY)
def test_an_orderly_end_hands_over_within_a_second(
    server: Feed, redis: PrivateRedis, tmp_path: Path, times: int
) -> None:
    with Cluster(server, redis.url, tmp_path / "log") as cluster:
        for _ in range(times):
            holder = cluster.holder()
            last = holder.wait_handled(len(holder.handled) + 5)[-1]
            assert holder.terminate() == 0
            ended = max(each["at"] for each in holder.said)
            cluster.remove(holder)
            taken = cluster.wait_new(last.epoch)
            print(f"ended: its successor handles after {taken.at - ended:.2f} s")
            assert taken.at - ended < 1.0
            cluster.add().wait_state("standby")
        cluster.check_promise()


@pytest.mark.parametrize("times", MANY)
def test_a_stopped_process_hands_nothing_on_when_it_wakes(
    server: Feed, redis: PrivateRedis, tmp_path: Path, times: int
) -> None:
    with Cluster(server, redis.url, tmp_path / "log") as cluster:
        for _ in range(times):
            holder = cluster.holder()
            last = holder.wait_handled(len(holder.handled) + 5)[-1]
            holder.stop()
            cluster.wait_new(last.epoch)
            open_ones = [each for each in server.connections if each.is_open]
            assert len(open_ones) <= 1, "the server's ping has ended the other"
            holder.go_on()
            holder.wait_state("standby")
            assert all(each.epoch <= last.epoch for each in holder.handled)
        cluster.check_promise()


def test_redis_restarted_without_its_data(
    server: Feed, redis: PrivateRedis, tmp_path: Path
) -> None:
    """The holder goes on: nobody else takes what it has, though Redis has forgotten."""
    with Cluster(server, redis.url, tmp_path / "log") as cluster:
        holder = cluster.holder()
        epoch = holder.wait_handled(len(holder.handled) + 5)[-1].epoch
        for _ in range(3):
            redis.kill()
            redis.start()
            seen = len(holder.handled)
            holder.wait_handled(seen + 150)
        assert cluster.holder() is holder
        assert {each.epoch for each in cluster.handled} == {epoch}
        assert len(server.connections) == 1


def test_redis_gone_for_longer_than_the_ttl(
    server: Feed, redis: PrivateRedis, tmp_path: Path
) -> None:
    with Cluster(server, redis.url, tmp_path / "log") as cluster:
        holder = cluster.holder()
        last = holder.wait_handled(len(holder.handled) + 5)[-1]
        redis.kill()
        gone = time.monotonic()
        holder.wait_state("standby")
        lost = [each["at"] for each in holder.said if each.get("state") == "standby"][-1]
        assert lost - gone < TTL
        assert all(not each.is_open for each in server.connections)
        assert sum("LeaseError" in each for each in holder.errors) <= 3, "not one a poll"
        redis.start()
        cluster.wait_new(last.epoch)
        cluster.check_promise()


def test_redis_that_hangs_does_not_hold_the_holder(
    server: Feed, redis: PrivateRedis, tmp_path: Path
) -> None:
    """It closes its connection before the lease runs out, and stays able to answer signals."""
    with FaultProxy(redis.url) as proxy, Cluster(server, proxy.url, tmp_path / "log") as cluster:
        holder = cluster.holder()
        last = holder.wait_handled(len(holder.handled) + 5)[-1]
        proxy.both(Blackhole())
        hung = time.monotonic()
        holder.wait_state("standby")
        lost = [each["at"] for each in holder.said if each.get("state") == "standby"][-1]
        assert lost - hung < TTL
        assert all(not each.is_open for each in server.connections)
        proxy.both(Pass())
        cluster.wait_new(last.epoch)
        cluster.check_promise()
        proxy.both(Blackhole())
        assert cluster.processes[0].terminate() == 0
