"""``LEASE: "database"``: of two runners one works, and the other takes over."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import copy
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models import QuerySet
from django.utils import timezone

from datastream_ws.lease import liveness as watch
from datastream_ws_django.lease import DatabaseLease
from datastream_ws_django.models import StreamLease
from kit.djangoproject import Process, Project
from kit.djangoproject import database as database
from kit.numbered import NumberedServer, check_numbers

TTL = 4.0


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch, "clock", made)
    return made


@pytest.fixture
def pair(transactional_db: None) -> tuple[DatabaseLease, DatabaseLease]:
    return DatabaseLease("default"), DatabaseLease("default")


def test_a_grant_whose_answer_was_lost_is_released(
    pair: tuple[DatabaseLease, ...], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was written, and the connection broke; the client closes before it asks again."""
    first, second = pair
    update = QuerySet.update

    def lost(self: Any, **columns: Any) -> None:
        update(self, **columns)
        raise OperationalError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(QuerySet, "update", lost)
        with pytest.raises(OperationalError):
            first.acquire(TTL)
    assert second.acquire(TTL) is None
    first.release()
    assert second.acquire(TTL) is not None


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_an_hour_between_the_clocks_of_two_hosts(
    pair: tuple[DatabaseLease, ...], clock: Clock, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    """A living holder keeps it, a dead one is followed in time, and epochs rise all the same."""
    first, second = pair
    ahead = {first: 0, second: skew}
    real_time, real_now = time.time_ns, timezone.now

    def on(lease: DatabaseLease) -> DatabaseLease:
        """Have the wall clock be that of its host."""
        seconds = ahead[lease]
        monkeypatch.setattr(time, "time_ns", lambda: real_time() + seconds * 10**9)
        monkeypatch.setattr(timezone, "now", lambda: real_now() + timedelta(seconds=seconds))
        return lease

    epochs = [on(first).acquire(TTL)]
    for _ in range(5):
        assert on(second).acquire(TTL) is None
        clock.now += TTL * 0.9
        assert on(first).renew(TTL)
    assert on(second).acquire(TTL) is None  # sees the last renewal
    clock.now += TTL * 0.9
    assert on(second).acquire(TTL) is None
    clock.now += TTL * 0.2
    epochs.append(on(second).acquire(TTL))
    assert not on(first).renew(TTL)
    on(second).release()
    epochs.append(on(first).acquire(TTL))  # its clock may be an hour behind the last epoch's
    assert None not in epochs
    assert epochs == sorted({epoch or 0 for epoch in epochs})


def test_only_one_gets_it_and_epochs_rise(pair: tuple[DatabaseLease, ...], clock: Clock) -> None:
    first, second = pair
    epoch = first.acquire(TTL)
    assert epoch is not None
    assert second.acquire(TTL) is None
    first.release()
    later = second.acquire(TTL)
    assert later is not None
    assert later > epoch
    assert not first.renew(TTL)


def test_a_holder_that_renews_keeps_it(pair: tuple[DatabaseLease, ...], clock: Clock) -> None:
    first, second = pair
    first.acquire(TTL)
    for _ in range(10):
        assert second.acquire(TTL) is None
        clock.now += TTL / 2
        assert first.renew(TTL)


def test_a_counter_that_stands_still_for_the_holder_s_time_is_taken_over(
    pair: tuple[DatabaseLease, ...], clock: Clock
) -> None:
    first, second = pair
    first.acquire(2 * TTL)
    assert second.acquire(TTL) is None
    clock.now += 1.8 * TTL
    assert second.acquire(TTL) is None
    clock.now += 0.2 * TTL
    assert second.acquire(TTL) is not None
    assert not first.renew(TTL)
    first.release()  # of what it has no more: nothing happens
    assert second.renew(TTL)


def test_a_forked_child_is_another_owner(
    transactional_db: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master of ``gunicorn --preload`` may have built the client, and with it the lease."""
    lease = DatabaseLease("default")
    first, second = copy.deepcopy(lease), copy.deepcopy(lease)  # as in two workers
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert first.acquire(TTL) is not None
    monkeypatch.setattr(os, "getpid", lambda: parent + 2)
    assert second.acquire(TTL) is None
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert first.renew(TTL)
    child = copy.deepcopy(first)
    monkeypatch.setattr(os, "getpid", lambda: parent + 3)
    child.release()
    assert not child.renew(TTL)
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert first.renew(TTL), "the parent still holds it"


def test_wall_clocks_do_not_matter(pair: tuple[DatabaseLease, ...], clock: Clock) -> None:
    first, second = pair
    epoch = first.acquire(TTL)
    StreamLease.objects.update(renewed_at=None)
    assert second.acquire(TTL) is None
    StreamLease.objects.update(epoch=(epoch or 0) + 10**6)
    first.release()
    clock.now += 10 * TTL
    assert second.acquire(TTL) is None  # the row has changed: its time begins anew
    clock.now += TTL
    assert second.acquire(TTL) == (epoch or 0) + 10**6 + 1


class Runners:
    """Two runners of one stream, and who of them writes."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.running: dict[int, Process] = {}

    def start(self) -> Process:
        process = self.project.start("run_datastream")
        self.running[process.pid] = process
        return process

    def holder(self) -> int:
        """The process that holds the lease; 0: nobody."""
        holders = self.project.query("SELECT holder FROM datastream_streamlease")
        return int(holders[0].split(":")[1]) if holders and holders[0] else 0

    def wait_for_holder(self, other_than: int = 0) -> Process:
        anyone = next(process for pid, process in self.running.items() if pid != other_than)
        wanted = [pid for pid in self.running if pid != other_than]
        holder = anyone.wait_for(
            lambda: (found := self.holder()) in wanted and found, "another holder"
        )
        return self.running[holder]

    def wait_for_rows(self, process: Process) -> None:
        """Wait until *process*, which holds the lease, has handled something in this tenure."""
        sql = (
            "SELECT count(*) FROM shop_tick JOIN datastream_streamlease l"
            f" ON shop_tick.epoch = l.epoch WHERE handled_by = {process.pid}"
        )
        process.wait_for(lambda: self.project.query(sql)[0], f"rows of {process.pid}")

    def sleep(self, process: Process) -> None:
        """Stop a process where it does not lock others out of the database."""
        process.send_signal(signal.SIGSTOP)
        while self.project.is_locked():
            process.send_signal(signal.SIGCONT)
            process.wait_for(lambda: not self.project.is_locked(), "an unlocked database")
            process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        for process in self.running.values():
            process.__exit__(None, None, None)


def kill(runners: Runners, holder: Process) -> None:
    """It is gone without a word; within the TTL the other one writes."""
    began = time.monotonic()
    holder.send_signal(signal.SIGKILL)
    del runners.running[holder.pid]
    runners.wait_for_rows(runners.wait_for_holder(holder.pid))
    took = time.monotonic() - began
    holder.wait()
    runners.start().wait_output("standby")
    print(f"killed: its successor writes after {took:.2f} s of {TTL} s")
    assert took < TTL


def stop(runners: Runners, holder: Process) -> None:
    """It sleeps for longer than its time, and wakes up believing."""
    runners.sleep(holder)
    runners.wait_for_rows(runners.wait_for_holder(holder.pid))
    holder.send_signal(signal.SIGCONT)


def leave(runners: Runners, holder: Process) -> None:
    """It goes as it should."""
    holder.terminate()
    assert holder.wait() == 0, holder.output[-3000:]
    began = time.monotonic()
    del runners.running[holder.pid]
    runners.wait_for_rows(runners.wait_for_holder(holder.pid))
    took = time.monotonic() - began
    runners.start().wait_output("standby")
    print(f"left: its successor writes {took:.2f} s after its end")
    assert took < 1.0


WAYS: list[Callable[[Runners, Process], None]] = [kill, stop, leave]


def hand_over(project: Project, server: NumberedServer, times: int) -> None:
    runners = Runners(project)
    seed = random.Random(5)
    try:
        runners.start()
        holder = runners.wait_for_holder()
        runners.start().wait_output("standby")
        for way in itertools.islice(itertools.cycle(WAYS), times):
            runners.wait_for_rows(holder)
            wait_for_one_connection(holder, server)
            pause = server.highest + seed.randrange(50)
            holder.wait_for(lambda pause=pause: server.highest >= pause)
            way(runners, holder)
            holder = runners.wait_for_holder(holder.pid)
        runners.wait_for_rows(holder)
    finally:
        runners.end()


def check_epochs(rows: list[tuple[int, int, int]]) -> None:
    """No older epoch after the first of a newer one; one process per epoch."""
    epochs = [epoch for _, epoch, _ in rows]
    assert epochs == sorted(epochs)
    owners: dict[int, set[int]] = {}
    for _, epoch, pid in rows:
        owners.setdefault(epoch, set()).add(pid)
    assert {len(pids) for pids in owners.values()} == {1}


def wait_for_one_connection(holder: Process, server: NumberedServer) -> None:
    """Wait for the server's ping to end that of a predecessor which was stopped."""

    def number() -> int:
        return sum(not connection.closed.is_set() for connection in server.connections)

    holder.wait_for(lambda: number() == 1, "a single connection", 2.0)


def promise(tmp_path: Path, database: str, times: int) -> None:
    # A server that notices a silent client sooner than the lease ends.
    options: dict[str, Any] = {"ping_interval": 0.5, "ping_timeout": 0.5, "close_timeout": 0.5}
    with NumberedServer(10**7, rate=100, **options) as server:
        stream = {"LEASE": "database", "LEASE_TTL": TTL, "CLOSE_TIMEOUT": 60}
        project = Project(tmp_path, server.url, database=database, stream=stream)
        project.manage("migrate")
        hand_over(project, server, times)
    rows = project.query("SELECT number, epoch, handled_by FROM shop_tick ORDER BY id")
    check_epochs(rows)
    check_numbers([row[0] for row in rows], len(rows))
    assert len({epoch for _, epoch, _ in rows}) >= times + 1


@pytest.mark.timeout(300)
def test_hand_overs(tmp_path: Path, database: str) -> None:
    promise(tmp_path, database, 3)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_twenty_hand_overs(tmp_path: Path, database: str) -> None:
    promise(tmp_path, database, 20)
