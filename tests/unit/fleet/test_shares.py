"""How streams are shared: a few cases by hand, and any story of joins, ends and old views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from datastream_ws.fleet import shares
from datastream_ws.fleet.shares import Moves, at_once, beyond_limits, targets
from datastream_ws.lease.shared import MemberRecord


def member(name: str, limit: int | None = None, *, is_leaving: bool = False) -> MemberRecord:
    return MemberRecord(token=name, beat=0, life=0.0, limit=limit, is_leaving=is_leaving)


def moves(
    me: str,
    members: Collection[MemberRecord],
    holders: Mapping[str, str | None],
    last: Mapping[str, str] | None = None,
) -> Moves:
    return shares.moves(me, members, holders, last or {})


def holders_of(**loads: int) -> dict[str, str | None]:
    return {f"{name}{n:03}": name for name, load in loads.items() for n in range(load)}


def members(*names: str, **limits: int) -> list[MemberRecord]:
    return [member(name, limits.get(name)) for name in names]


def test_the_first_one_takes_all() -> None:
    free = dict.fromkeys(["1", "2", "3"])
    assert moves("a", members("a"), free) == Moves(take=("1", "2", "3"))


def test_free_keys_go_to_whoever_has_least() -> None:
    holders = {**holders_of(a=3, b=1), "x": None, "y": None}
    assert moves("a", members("a", "b"), holders).take == ()
    assert moves("b", members("a", "b"), holders).take == ("x", "y")


def test_one_that_joins_is_given_its_share_and_no_more() -> None:
    there = members("a", "b", "c")
    holders = holders_of(a=45, b=45)
    assert [len(moves(name, there, holders).give) for name in "abc"] == [15, 15, 0]


def test_what_others_have_handed_over_already_makes_nobody_give_more() -> None:
    """The three of 30 are to have 23, 23 and 22, in whatever order they hand over."""
    there = members("a", "b", "c", "d")
    assert len(moves("a", there, holders_of(a=30, b=30, c=30, d=0)).give) == 7
    assert moves("a", there, holders_of(a=23, b=30, c=30, d=7)).give == ()
    assert len(moves("c", there, holders_of(a=23, b=23, c=30, d=14)).give) == 8


def test_all_that_give_share_what_one_receiver_can_dial() -> None:
    there = members(*"abcde")
    assert at_once(there, holders_of(a=30, b=30, c=30, d=30), 20) == 5
    assert at_once(there, holders_of(a=30, b=30, c=30), 20) == 13
    assert at_once(there, holders_of(a=90), 20) == 20
    assert at_once(there, holders_of(a=30, b=30, c=30, d=30), 2) == 1, "it is to end sometime"


def test_a_difference_of_a_tenth_moves_nothing() -> None:
    holders = holders_of(a=105, b=96)
    assert moves("a", members("a", "b"), holders).give == ()
    assert len(moves("a", members("a", "b"), holders_of(a=120, b=80)).give) == 20


def test_one_that_leaves_gives_all_if_somebody_takes_it() -> None:
    leaving = member("a", is_leaving=True)
    assert len(moves("a", [leaving, member("b")], holders_of(a=9, b=3)).give) == 9
    assert moves("a", [leaving], holders_of(a=9)).give == ()


def test_a_limit_is_kept() -> None:
    there = members("a", "b", a=5)
    assert len(moves("a", there, holders_of(a=9)).give) == 4
    assert targets(there, {}, 100) == {"a": 5, "b": 95}
    assert moves("a", members("a", a=1), {"1": None, "2": None}).take == ("1",)


def test_how_many_are_beyond_all_limits() -> None:
    there = members("a", "b", a=3, b=2)
    free = dict.fromkeys(["x", "y"])
    assert beyond_limits(there, {**holders_of(a=3, b=2), **free}) == 2
    assert beyond_limits(there, {**holders_of(a=3, b=1), **free}) == 1
    assert beyond_limits(there, holders_of(a=3, b=2)) == 0
    assert beyond_limits(members("a", "c", a=1), {**holders_of(a=1), **free}) == 0
    leaving = [member("a", 9, is_leaving=True), member("b", 2)]
    assert beyond_limits(leaving, {**holders_of(a=4, b=2), **free}) == 2, "what it has still runs"


def test_who_had_a_key_has_it_again() -> None:
    free = dict.fromkeys(["1", "2"])
    last = {"1": "b", "2": "a"}
    assert moves("a", members("a", "b"), free, last).take == ("2",)
    assert moves("b", members("a", "b"), free, last).take == ("1",)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "die", "add", "remove", "step", "step", "look"]),
        st.integers(0, 1000),
    ),
    max_size=60,
)


class World:
    """Processes that look when they like, and leases that refuse whoever comes second."""

    def __init__(self) -> None:
        self.holders: dict[str, str | None] = {}
        self.members: dict[str, MemberRecord] = {}
        self.views: dict[str, tuple[list[MemberRecord], dict[str, str | None]]] = {}
        self.moved = 0
        self._made = 0

    def happen(self, event: str, n: int) -> None:
        getattr(self, event)(n)

    def join(self, n: int) -> None:
        self._made += 1
        name = f"m{self._made}"
        self.members[name] = member(name)
        self.look(self._made)

    def _one(self, n: int) -> str | None:
        names = sorted(self.members)
        return names[n % len(names)] if names else None

    def leave(self, n: int) -> None:
        if name := self._one(n):
            self.members[name] = member(name, is_leaving=True)

    def die(self, n: int) -> None:
        if name := self._one(n):
            del self.members[name]
            self.views.pop(name, None)
            self.holders = {k: None if h == name else h for k, h in self.holders.items()}

    def add(self, n: int) -> None:
        for number in range(n % 20):
            self.holders.setdefault(f"k{n}-{number}", None)

    def remove(self, n: int) -> None:
        for key in sorted(self.holders)[n % 7 :: 5]:
            del self.holders[key]

    def look(self, n: int) -> None:
        if name := self._one(n):
            self.views[name] = (list(self.members.values()), dict(self.holders))

    def step(self, n: int) -> None:
        """One member acts on what it saw last."""
        name = self._one(n)
        if name is None or name not in self.views:
            return
        there, seen = self.views[name]
        found = moves(name, there, seen)
        for key in found.give:
            if self.holders.get(key) == name:
                self.holders[key] = None
        for key in found.take:
            if key in self.holders and self.holders[key] is None:  # what a lease checks
                self.holders[key] = name

    def settle(self) -> int:
        """Let all look and act in turn until nothing moves; return how many streams were given."""
        given = 0
        for _ in range(20):
            before = dict(self.holders)
            for n, name in enumerate(sorted(self.members)):
                self.look(n)
                given += len(moves(name, *self.views[name]).give)
                self.step(n)
            if before == self.holders:
                return given
        raise AssertionError("streams move for ever")


@given(EVENTS)
def test_any_story_ends_balanced_with_as_few_moves_as_that_takes(
    events: list[tuple[str, int]],
) -> None:
    world = World()
    for event, n in events:
        world.happen(event, n)
    staying = [name for name, member in world.members.items() if not member.is_leaving]
    loads = Counter(holder for holder in world.holders.values() if holder)
    wanted = targets(list(world.members.values()), loads, len(world.holders))
    most = sum(max(0, loads[name] - wanted[name]) for name in world.members)
    given = world.settle()
    assert given <= most, "more than balance needs"
    if staying:
        assert None not in world.holders.values(), "a stream without an owner"
        final = Counter(world.holders.values())
        shares = [final[name] for name in staying]
        assert max(shares) - min(shares) <= max(1, 0.1 * len(world.holders) / len(staying))


@given(st.integers(0, 500), st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=9))
def test_targets_add_up_and_keep_to_limits(keys: int, limits: list[int | None]) -> None:
    there = [member(f"m{n}", limit) for n, limit in enumerate(limits)]
    found = targets(there, {}, keys)
    assert sum(found.values()) == min(keys, sum(member.room for member in there))
    assert all(found[member.token] <= member.room for member in there)
    open_ones = [found[m.token] for m in there if found[m.token] < m.room]
    assert not open_ones or max(found.values()) <= min(open_ones) + 1
