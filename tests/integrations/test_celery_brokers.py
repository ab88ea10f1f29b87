"""Brokers that are restarted, killed and hang while messages arrive; the ledger is printed."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit.celeryproject import CeleryProject, Worker, check_published, ledger, wait_until
from kit.faultproxy import Blackhole, FaultProxy, Pass, Swallow
from kit.numbered import NumberedServer
from kit.services import missing

RATE = 500  # messages/s
FOR_EVER = 10**9  # messages
BATCH = {"batch": (100, 0.2)}


class RedisServer:
    """A redis-server of the test's own, whose data survive its death."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *where, *durable], stdout=log)
        wait_until(self._answers, 30)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(30)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Alive to the system, and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    pytest.importorskip("redis")
    server = RedisServer(tmp_path / "redis")
    try:
        server.start()
    except FileNotFoundError:
        missing("no redis-server on the path (Debian: redis-server)")
    yield server
    server.end(signal.SIGKILL)


class Watch:
    """What the worker's memory is, from one look to the next."""

    def __init__(self, worker: Worker) -> None:
        self._process = psutil.Process(worker.pid)
        self.megabytes: list[int] = []

    def look(self) -> None:
        self.megabytes.append(self._process.memory_info().rss // 2**20)


def finish(
    project: CeleryProject, worker: Worker, server: NumberedServer, broker: str, watch: Watch
) -> None:
    """Wait until everything has arrived, stop the worker, and hold the books against the queue."""
    server.end_soon()
    server.wait_finished()
    worker.wait_stats(lambda stats: stats["messages_handled"] >= server.count, 300)
    watch.look()
    stats = worker.stats()
    code = worker.stop()
    doubled = check_published(project.published(broker), server.count)
    print(f"\n{ledger(stats)}; doubled {doubled}, reconnects {stats['reconnects']}")
    print(f"memory of the worker in MiB: {watch.megabytes}")
    assert code == 0, worker.log[-3000:]
    assert stats["reconnects"] == 0
    assert stats["messages_received"] == server.count
    assert watch.megabytes[-1] < watch.megabytes[0] + 80


# The hang is longer than what a publish waits for.
SCALES = pytest.mark.parametrize(
    ("rate", "rounds", "patience", "hang", "options"),
    [
        pytest.param(RATE, 1, 1.0, 3.0, BATCH, id="batches"),
        pytest.param(60, 1, 1.0, 3.0, {}, id="single"),
        pytest.param(60, 1, None, 12.0, {}, id="with its own patience", marks=pytest.mark.soak),
        pytest.param(RATE, 2, None, 30.0, BATCH, id="a minute", marks=pytest.mark.ci),
        pytest.param(RATE, 10, None, 30.0, BATCH, id="ten minutes", marks=pytest.mark.soak),
    ],
)


@SCALES
@pytest.mark.timeout(1800)
def test_redis_restarted_hung_and_killed(
    tmp_path: Path,
    redis_server: RedisServer,
    rate: int,
    rounds: int,
    patience: float | None,
    hang: float,
    options: dict[str, Any],
) -> None:
    """Messages go on arriving, and all of them are in the queue afterwards, in order."""
    with NumberedServer(FOR_EVER, rate=rate) as server:
        project = CeleryProject(
            tmp_path / "p",
            broker=redis_server.url,
            feed=server.url,
            resume=True,
            forward_options=options,
            patience=patience,
        )
        with project.worker("--datastream") as worker:
            worker.wait_stats(lambda stats: stats["messages_handled"] > rate)
            watch = Watch(worker)
            watch.look()
            for _ in range(rounds):
                redis_server.end(signal.SIGTERM)
                goes_on_receiving(worker, rate)
                redis_server.start()
                publishes_again(worker)
                with redis_server.hanging():
                    time.sleep(hang)
                publishes_again(worker)
                redis_server.end(signal.SIGKILL)
                goes_on_receiving(worker, rate)
                redis_server.start()
                publishes_again(worker)
                watch.look()
            finish(project, worker, server, redis_server.url, watch)


@SCALES
@pytest.mark.timeout(1800)
def test_rabbitmq_refused_hung_reset_and_dead(
    tmp_path: Path,
    amqp_url: str,
    rate: int,
    rounds: int,
    patience: float | None,
    hang: float,
    options: dict[str, Any],
) -> None:
    """The same with RabbitMQ and its confirms."""
    with NumberedServer(FOR_EVER, rate=rate) as server, FaultProxy(amqp_url) as proxy:
        project = CeleryProject(
            tmp_path,
            broker=proxy.url,
            feed=server.url,
            # Celery's own: RabbitMQ keeps an exclusive queue for a dead socket until its heartbeat
            # has failed, and a worker that comes back before ends with RESOURCE_LOCKED.
            conf={"control_queue_exclusive": False},
            resume=True,
            forward_options=options,
            patience=patience,
        )
        with project.worker("--datastream") as worker:
            worker.wait_stats(lambda stats: stats["messages_handled"] > rate)
            watch = Watch(worker)
            watch.look()
            for _ in range(rounds):
                proxy.refuse()
                proxy.sever()
                goes_on_receiving(worker, rate)
                proxy.accept()
                publishes_again(worker)
                proxy.both(Swallow())
                time.sleep(hang)
                proxy.both(Pass())
                proxy.sever()
                publishes_again(worker)
                for _ in range(3):
                    proxy.sever()
                    publishes_again(worker)
                never_again(proxy)
                publishes_again(worker)
                watch.look()
            finish(project, worker, server, amqp_url, watch)


def never_again(proxy: FaultProxy) -> None:
    """Sockets that never carry a byte again, and never end; new connections are well."""
    for link in proxy.links:
        for direction in (link.up, link.down):
            proxy._loop.call(direction.switch, Blackhole())


def goes_on_receiving(worker: Worker, least: int) -> None:
    """Wait until *least* more messages have come from the stream."""
    received = worker.stats()["messages_received"]
    worker.wait_stats(lambda stats: stats["messages_received"] > received + least)


def publishes_again(worker: Worker) -> None:
    """Wait until more is published than is now."""
    handled = worker.stats()["messages_handled"]
    worker.wait_stats(lambda stats: stats["messages_handled"] > handled)
