"""Processes that share a fleet: any story of ends, pauses and failing stores, on a fake clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Never
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastream_ws.fleet import holding as holding_module
from datastream_ws.fleet import membership as membership_module
from datastream_ws.fleet import sharing as sharing_module
from datastream_ws.fleet.holding import Holding
from datastream_ws.fleet.sharing import Sharing
from datastream_ws.lease import liveness as liveness_module
from datastream_ws.lease import store_calls as store_calls_module
from kit.memorystore import Clock, Memory, MemoryStore

TTL = 15.0


@contextmanager
def patched(clock: Clock) -> Iterator[None]:
    modules = (
        holding_module,
        liveness_module,
        membership_module,
        sharing_module,
        store_calls_module,
    )
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "clock", clock))
        yield


class Process:
    """One member; its clients start and end at once, as far as the lease lets them."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.store = MemoryStore(world.memory)
        self.reports: list[str] = []
        self.epochs: dict[str, int] = {}  # of the clients that run
        self.is_leaving = False
        self.sharing = Sharing(
            self.store,
            TTL,
            limit=None,
            room=self.room,
            on_change=lambda: None,
            report=lambda error: self.reports.append(str(error)),
        )
        self.sharing._id = f"{name}:1:x"
        self.sharing._term = self.sharing._new_term()
        self._started: dict[str, Holding] = {}

    def room(self) -> int:
        return 25

    def step(self, keys: set[str]) -> None:
        self.sharing.want(keys)
        self.sharing.step()
        self.follow()

    def follow(self) -> None:
        """What the loop's side does: start what is held, end what is not or is to be given."""
        held, giving = self.sharing.held(), self.sharing.giving()
        for key, holding in held.items():
            if key in giving or key not in self.sharing._keys:
                self._started.pop(key, None)
                self.sharing.release(key, holding)
            elif not holding.is_used:
                holding(on_change=lambda: None, report=lambda error: None)
                self._started[key] = holding

    def at_work(self) -> dict[str, int]:
        """Epochs by key of the clients that would handle a message now."""
        tenures = {key: holding.tenure() for key, holding in self._started.items()}
        return {key: epoch for key, epoch in tenures.items() if epoch is not None}


class Paced(Process):
    """One that dials fifty streams in a second; its world notes how long each was offline."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, world)
        self._world = world
        self._to_dial: list[str] = []

    def room(self) -> int:
        return 25 - len(self._to_dial)

    def follow(self) -> None:
        before = set(self._started)
        super().follow()
        self._world.offline |= dict.fromkeys(before - self._started.keys(), self._world.clock.now)
        self._to_dial += self._started.keys() - before

    def dial(self, seconds: float) -> None:
        count = round(50 * seconds)
        due, self._to_dial = self._to_dial[:count], self._to_dial[count:]
        for key in due:
            if key in self._world.offline:
                self._world.gaps.append(self._world.clock.now - self._world.offline.pop(key))


class World:
    def __init__(self) -> None:
        self.offline: dict[str, float] = {}  # of those that are paced
        self.gaps: list[float] = []
        self.clock = Clock()
        self.memory = Memory(self.clock)
        self.processes: list[Process] = []
        self.keys = {f"k{n:02}" for n in range(30)}
        self.latest: dict[str, int] = {}
        self.moves = 0
        self._made = 0
        self._owners: dict[str, str] = {}

    def join(self, n: int = 0) -> Process:
        self._made += 1
        self.processes.append(Process(f"p{self._made}", self))
        return self.processes[-1]

    def _one(self, n: int) -> Process | None:
        return self.processes[n % len(self.processes)] if self.processes else None

    def step(self, n: int) -> None:
        if process := self._one(n):
            process.step(self.keys)
            self.check()

    def wait(self, n: int) -> None:
        """Time passes, and nobody does anything: all are stopped, or the machine sleeps."""
        self.clock.now += n % 17
        self.check()

    def tick(self, n: int) -> None:
        """Time passes as it should."""
        for _ in range(n % 12):
            self.clock.now += 0.2
            for process in list(self.processes):
                process.step(self.keys)
                self.check()

    def lag(self, n: int) -> None:
        """All but one go on."""
        stopped = self._one(n)
        for _ in range(n % 40):
            self.clock.now += 0.5
            for process in self.processes:
                if process is not stopped:
                    process.step(self.keys)
                    self.check()

    def die(self, n: int) -> None:
        if process := self._one(n):
            self.processes.remove(process)

    def leave(self, n: int) -> None:
        if process := self._one(n):
            process.is_leaving = True
            process.sharing.leave()

    def end(self, n: int) -> None:
        """The orderly end of one process, whether it has handed over or not."""
        if process := self._one(n):
            self.processes.remove(process)
            process._started.clear()
            process.sharing._end()

    def hang(self, n: int) -> None:
        self.memory.hangs = not self.memory.hangs

    def unheard(self, n: int) -> None:
        """The answer to one process's next call of a kind is lost; the store has done it."""
        if process := self._one(n):
            store: Any = process.store
            name = ("take", "release", "renew", "join", "look", "remove")[n % 6]
            whole = getattr(MemoryStore, name)

            def lost(*arguments: object) -> Never:
                delattr(store, name)
                whole(store, *arguments)
                raise TimeoutError("no answer")

            setattr(store, name, lost)

    def lose(self, n: int) -> None:
        """The store restarts without its data; a process is there that says so to others."""
        self.memory.lose_data()

    def rows(self, n: int) -> None:
        self.keys = set(self.keys) ^ {f"k{n % 50:02}"}

    def again(self, n: int) -> None:
        """A row changes: its client ends, and the next one starts."""
        if (process := self._one(n)) and process._started:
            key = sorted(process._started)[n % len(process._started)]
            process.sharing.take_again(key, process._started.pop(key))

    def check(self) -> None:
        """One owner at a time, and no older epoch after a newer one."""
        at_work = [(key, p.name, e) for p in self.processes for key, e in p.at_work().items()]
        twice = [key for key, count in Counter(key for key, *_ in at_work).items() if count > 1]
        assert not twice, f"two owners: {[found for found in at_work if found[0] in twice]}"
        for key, name, epoch in at_work:
            assert epoch >= self.latest.get(key, 0), "an older epoch"
            assert epoch != self.latest.get(key) or self._owners[key] == name, "one epoch, two"
            self.moves += self._owners.get(key) != name
            self.latest[key] = epoch
            self._owners[key] = name

    def settle(self) -> None:
        self.memory.hangs = False
        for _ in range(450):
            self.clock.now += 0.15
            for process in self.processes:
                process.step(self.keys)
            self.check()

    def loads(self) -> dict[str, int]:
        return {p.name: len(p.at_work()) for p in self.processes if not p.is_leaving}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with patched(made.clock):
        yield made


def test_three_share_and_one_that_joins_is_given_no_more_than_its_share(world: World) -> None:
    for _ in range(3):
        world.join()
    world.settle()
    assert sorted(world.loads().values()) == [10, 10, 10]
    moved = world.moves
    world.join()
    world.settle()
    assert sorted(world.loads().values()) in ([7, 7, 8, 8], [7, 7, 7, 9])
    assert world.moves - moved in (7, 8)


def test_one_that_joins_is_handed_no_more_at_once_than_it_can_dial(world: World) -> None:
    world.keys = {f"k{n:03}" for n in range(600)}
    paced = [Paced(f"p{n}", world) for n in range(4)]

    def live(seconds: int) -> None:
        for _ in range(10 * seconds):
            world.clock.now += 0.1
            for process in world.processes:
                process.step(world.keys)
            for each in paced:
                each.dial(0.1)

    world.processes += paced[:3]
    live(20)
    world.gaps.clear()
    world.processes.append(paced[3])
    live(8)
    assert max(world.loads().values()) - min(world.loads().values()) <= 15, "a tenth of a share"
    assert len(world.gaps) <= 150
    assert max(world.gaps) <= 1.0


def test_one_that_dies_is_followed_within_the_ttl(world: World) -> None:
    for _ in range(3):
        world.join()
    world.settle()
    world.die(0)
    died = world.clock.now
    while len(world.latest) == 30 and sum(world.loads().values()) < 30:
        world.clock.now += 0.1
        for process in world.processes:
            process.step(world.keys)
        world.check()
    assert world.clock.now - died <= TTL
    assert sorted(world.loads().values()) == [15, 15]


def test_nothing_that_a_stopped_process_held_is_its_own_when_it_wakes(world: World) -> None:
    stopped, other = world.join(), world.join()
    world.settle()
    held = dict(stopped._started)
    assert held
    for _ in range(20):
        world.clock.now += 1.0
        other.step(world.keys)
    assert len(other.at_work()) == 30
    assert stopped.at_work() == {}, "before it does anything"
    assert all(holding.tenure() is None for holding in held.values())
    stopped.step(world.keys)
    world.settle()
    assert "lease lost: it could not be renewed in time; 15 streams" in stopped.reports[0]
    assert len(stopped.at_work()) == len(other.at_work()) == 15


def test_a_store_that_hangs_beyond_the_ttl_makes_all_stand_by_and_come_back(world: World) -> None:
    for _ in range(3):
        world.join()
    world.settle()
    before = {p.name: set(p.at_work()) for p in world.processes}
    world.memory.hangs = True
    for _ in range(80):
        world.clock.now += 0.2
        for process in world.processes:
            process.step(world.keys)
        world.check()
    assert sum(world.loads().values()) == 0
    assert [len(p.reports) for p in world.processes] == [2, 2, 2], "reported once, then lost"
    world.settle()
    assert {p.name: set(p.at_work()) for p in world.processes} == before, "each has its own again"


def test_a_store_that_holds_the_thread_up_is_reported_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = world.join()
    world.settle()

    def hang(_: object) -> bool:
        """The loop looks each second, while the thread waits for an answer."""
        for _ in range(12):
            world.clock.now += 1.0
            process.sharing.report_hang()
        return True

    world.clock.now += 5.0
    with monkeypatch.context() as patch:
        patch.setattr(process.store, "renew", hang)
        process.step(world.keys)
    assert process.reports == ["lease: the store has not responded for 6 s"]
    world.settle()
    process.sharing.report_hang()
    assert len(process.reports) == 2, "and the streams that were lost"


def test_a_store_that_loses_its_data_is_told_what_is_held(world: World) -> None:
    for _ in range(3):
        world.join()
    world.settle()
    moved, epochs = world.moves, dict(world.latest)
    world.memory.lose_data()
    world.settle()
    assert (world.moves, world.latest) == (moved, epochs), "nobody has noticed"


def test_one_that_has_lost_its_streams_with_the_data_waits_for_the_others(world: World) -> None:
    """Redis comes back empty: one's tenure is over by then, and another's is not yet."""
    early, late = world.join(), world.join()
    world.settle()
    world.clock.now += 5.0
    late.step(world.keys)
    world.memory.lose_data()
    world.memory.hangs = True
    world.clock.now += 0.7 * TTL - 4.9
    assert not early.at_work()
    assert late.at_work()
    world.memory.hangs = False
    for _ in range(10):
        world.clock.now += 0.2
        early.step(world.keys)
        world.check()
    world.settle()
    assert sorted(world.loads().values()) == [15, 15]


def test_an_answer_that_is_lost_costs_one_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has taken note, and a free stream is anybody's only after two seconds."""
    process = world.join()
    process.step(world.keys)
    world.clock.now += 1.0
    take = process.store.take

    def lost(token: str, keys: Collection[str], dead: Collection[str]) -> Never:
        take(token, keys, dead)
        raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(process.store, "take", lost)
        process.step(world.keys)
    assert not process.at_work()
    process.step(world.keys)
    assert len(process.at_work()) == 25


@pytest.mark.parametrize("term", [1, 2])
def test_one_that_ends_before_the_store_answers_leaves_nothing_behind(
    world: World, term: int
) -> None:
    """The store has made it a member, and the others would wait until it counts as dead."""
    process = world.join()
    if term == 2:
        world.settle()
        world.clock.now += 0.75 * TTL  # its streams are not its own any more, to itself
    join = process.store.join

    def lost(*arguments: Any) -> Never:
        join(*arguments)
        raise TimeoutError("no answer")

    setattr(process.store, "join", lost)  # noqa: B010  # a method, to mypy
    process.step(world.keys)
    world.end(0)
    assert (world.memory.members, world.memory.holders) == ({}, {})


def test_one_that_ends_while_it_is_no_member_releases_what_the_store_lists(world: World) -> None:
    process = world.join()
    world.settle()
    world.clock.now += 0.75 * TTL
    world.memory.hangs = True
    process.step(world.keys)
    world.memory.hangs = False
    world.end(0)
    assert (world.memory.members, world.memory.holders) == ({}, {})


def test_a_row_that_changes_while_another_is_taken_again_is_not_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = world.join()
    world.settle()
    take = process.store.take

    def take_while_another_ends(*arguments: Any) -> Any:
        patch.undo()
        process.sharing.take_again("k04", process._started.pop("k04"))
        return take(*arguments)

    process.sharing.take_again("k03", process._started.pop("k03"))
    with monkeypatch.context() as patch:
        patch.setattr(process.store, "take", take_while_another_ends)
        process.step(world.keys)
    world.settle()
    assert process.at_work().keys() == world.keys


def test_a_changed_row_is_another_tenure_of_the_same_process(world: World) -> None:
    process = world.join()
    world.settle()
    before = world.latest["k03"]
    process.sharing.take_again("k03", process._started.pop("k03"))
    world.settle()
    assert world.latest["k03"] > before
    assert world.moves == 30


def test_one_write_renews_all(world: World) -> None:
    process = world.join()
    world.keys = {f"k{n}" for n in range(3000)}
    world.settle()
    assert len(process.at_work()) == 3000
    process.sharing._renew_at = 0.0
    before = process.store.calls
    process.sharing._renew()
    assert process.store.calls - before == 1


RARE = ["join", "die", "leave", "end", "hang", "rows", "again", "lag", "wait", "unheard"]
KINDS = [*RARE, "tick", "tick", "tick", "step", "step"]
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 1000)), max_size=40)


@settings(max_examples=60)
@given(EVENTS, st.booleans(), st.integers(0, 2**32))
def test_any_story_has_one_owner_at_a_time_and_ends_shared(
    events: list[tuple[str, int]], loses: bool, seed: int
) -> None:
    world = World()
    random.seed(seed)
    with patched(world.clock):
        for _ in range(3):
            world.join()
        for event, n in events:
            getattr(world, event)(n)
            world.check()
        if loses and not any(event == "join" for event, _ in events[-10:]):
            world.settle()
            world.lose(0)
        world.settle()
        loads = world.loads()
        if loads:
            assert sum(loads.values()) == len(world.keys), world.memory.holders
            assert max(loads.values()) - min(loads.values()) <= max(
                1, 0.1 * len(world.keys) / len(loads)
            )
