"""What one process makes of what it sees; time is the test's."""

from __future__ import annotations

import pytest

from datastream_ws.fleet import membership
from datastream_ws.fleet.membership import LocalState, Membership
from datastream_ws.lease import liveness
from datastream_ws.lease.shared import Held, MemberRecord, SharedView
from kit.memorystore import Clock

LIFE = 12.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(membership, "clock", made)
    monkeypatch.setattr(liveness, "clock", made)
    return made


def member(
    token: str, beat: int = 1, *, is_leaving: bool = False, limit: int | None = None
) -> MemberRecord:
    return MemberRecord(token=token, beat=beat, life=LIFE, is_leaving=is_leaving, limit=limit)


def view(*members: MemberRecord, **holders: str) -> SharedView:
    return SharedView(
        {found.token: found for found in members},
        {key: Held(token, 1) for key, token in holders.items()},
    )


def mine(
    token: str, keys: str = "", held: str = "", room: int = 99, giving: str = ""
) -> LocalState:
    return LocalState(token, frozenset(keys), dict.fromkeys(held, 1), set(giving), room)


ONE, TWO = "h:1:a:1", "h:2:b:1"


def test_a_beat_that_stands_still_for_its_life_is_a_dead_one_s(clock: Clock) -> None:
    judge = Membership()
    assert judge.dead(view(member(ONE), member(TWO)), ONE) == []
    clock.now += LIFE - 0.1
    assert judge.dead(view(member(ONE), member(TWO)), ONE) == []
    clock.now += 0.2
    assert judge.dead(view(member(ONE), member(TWO)), ONE) == [member(TWO)]
    assert judge.dead(view(member(ONE), member(TWO, 2)), ONE) == []


def test_the_store_knows_the_age_of_what_one_that_comes_sees_first(clock: Clock) -> None:
    judge, seen = Membership(), view(member(ONE), member(TWO))
    seen = SharedView(seen.members, seen.holders, {TWO: LIFE + 1})
    assert judge.dead(seen, ONE) == [member(TWO)]


def test_no_more_is_taken_than_there_is_room_for(clock: Clock) -> None:
    found = Membership().plan(view(member(ONE)), mine(ONE, "abcd", room=3))
    assert found.take == ("a", "b", "c")
    assert Membership().plan(view(member(ONE)), mine(ONE, "abcd", room=0)).take == ()


def test_what_nobody_takes_becomes_anybody_s(clock: Clock) -> None:
    """TWO has least, but does not know the key, or hangs."""
    judge, seen = Membership(), view(member(ONE), member(TWO), a=ONE)
    assert judge.plan(seen, mine(ONE, "ab", "a")).take == ()
    clock.now += membership.PATIENCE_SECONDS
    assert judge.plan(seen, mine(ONE, "ab", "a")).take == ("b",)


def test_at_most_twenty_are_in_flight(clock: Clock) -> None:
    keys = [f"{n:03}" for n in range(100)]
    seen = view(member(ONE), member(TWO), **dict.fromkeys(keys, ONE))
    judge, held = Membership(), dict.fromkeys(keys, 1)
    first = judge.plan(seen, LocalState(ONE, frozenset(keys), held, (), 0))
    assert len(first.give) == 20
    giving = set(first.give)
    assert judge.plan(seen, LocalState(ONE, frozenset(keys), held, giving, 0)).give == ()
    judge.offered(giving)
    left = [key for key in keys if key not in giving]
    seen = view(member(ONE), member(TWO), **dict.fromkeys(left, ONE))
    rest = LocalState(ONE, frozenset(keys), dict.fromkeys(left, 1), (), 99)
    assert judge.plan(seen, rest).give == (), "nobody has taken the first ones yet"
    seen = view(member(ONE), member(TWO), **dict.fromkeys(left, ONE), **dict.fromkeys(giving, TWO))
    assert judge.plan(seen, rest).give == (), "TWO may not have connected yet"
    clock.now += membership.ARRIVAL_SECONDS[0]
    assert len(judge.plan(seen, rest).give) == 20


def test_what_nobody_takes_is_not_offered_again_and_again(clock: Clock) -> None:
    judge, there = Membership(), (member(ONE), member(TWO))
    seen = view(*there, a=ONE, b=ONE)
    offer = judge.plan(view(*there, a=ONE, b=ONE, c=ONE), mine(ONE, "abc", "abc")).give
    assert offer == ("c",)
    judge.offered(offer)
    assert judge.plan(seen, mine(ONE, "abc", "ab")).take == (), "it is another's turn"
    clock.now += membership.PATIENCE_SECONDS
    assert judge.plan(seen, mine(ONE, "abc", "ab")).take == ()
    clock.now += membership.PATIENCE_SECONDS
    again = judge.plan(seen, mine(ONE, "abc", "ab")).take
    assert again == ("c",)
    judge.taken(again, seen)
    whole, all_mine = view(*there, a=ONE, b=ONE, c=ONE), mine(ONE, "abc", "abc")
    assert judge.plan(whole, all_mine).give == ()
    clock.now += membership.STUCK_SECONDS[0]
    assert judge.plan(whole, all_mine).give == ("c",)
    judge.offered("c")
    judge.taken("c", seen)
    third = view(*there, member("h:3:c:1"), a=ONE, b=ONE, c=ONE)
    assert judge.plan(third, all_mine).give == ("b", "c"), "one that has come may take it"


def test_one_that_leaves_is_done_once_all_is_taken(clock: Clock) -> None:
    there = (member(ONE, is_leaving=True), member(TWO))
    judge = Membership()
    found = judge.plan(view(*there, a=ONE), mine(ONE, "a", "a"))
    assert (found.give, found.is_done) == (("a",), False)
    judge.offered("a")
    assert not judge.plan(view(*there), mine(ONE, "a")).is_done
    clock.now += membership.ARRIVAL_SECONDS[0]
    assert judge.plan(view(*there, a=TWO), mine(ONE, "a")).is_done
    alone = Membership().plan(view(there[0], a=ONE), mine(ONE, "a", "a"))
    assert (alone.give, alone.is_done) == ((), True)


def test_what_the_store_has_differently(clock: Clock) -> None:
    seen = view(member(ONE), member(TWO), a=TWO, b=ONE, c="h:9:c:1", d="h:9:c:1")
    found = Membership().plan(seen, mine(ONE, "abc", "a"))
    assert found.lost == ("a",)
    assert found.release == ("d",), "the source has no d"


def test_what_was_taken_although_the_answer_was_lost_is_taken_again(clock: Clock) -> None:
    seen, own = view(member(ONE), member(TWO), a=ONE, b=ONE), mine(ONE, "abc", "a")
    found = Membership().plan(seen, own)
    assert (found.take, found.release) == (("b",), ())
    full = Membership().plan(seen, mine(ONE, "abc", "a", room=0))
    assert (full.take, full.release) == ((), ("b",)), "others may have room"
    gone = Membership().plan(seen, mine(ONE, "a", "a"))
    assert (gone.take, gone.release) == ((), ("b",)), "its row is gone"
    leaving = view(member(ONE, is_leaving=True), member(TWO), a=ONE, b=ONE)
    left = Membership().plan(leaving, own)
    assert (left.take, left.release) == ((), ("b",))


def test_the_next_term_of_a_process_has_what_it_had(clock: Clock) -> None:
    again, other = "h:1:a:2", "h:2:b:2"
    seen = view(member(again), member(other), a=ONE, b=TWO, c=ONE, d=TWO)
    assert Membership().plan(seen, mine(again, "abcd")).take == ("a", "c")
    assert Membership().plan(seen, mine(other, "abcd")).take == ("b", "d")


def test_what_no_process_has_room_for_keeps_nobody_busy(clock: Clock) -> None:
    judge = Membership()
    there = (member(ONE, limit=1), member(TWO, limit=1))
    share = LocalState(ONE, frozenset("abcd"), {"a": 1})
    crowded = view(*there, a=ONE, b=TWO)
    found = judge.plan(crowded, share)
    assert (found.beyond_limit, found.is_settled, found.take) == (2, True, ())
    assert judge.plan(crowded, share).beyond_limit == 2, "nothing has changed"
    one_less = judge.plan(view(*there, a=ONE), share)
    assert (one_less.beyond_limit, one_less.is_settled) == (2, False), "TWO may take one"
    joined = SharedView({**crowded.members, "h:3:c:1": member("h:3:c:1")}, crowded.holders)
    assert (found := judge.plan(joined, share)).beyond_limit == 0
    assert not found.is_settled


def test_nothing_is_worked_out_again_while_nothing_changes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, keys = Membership(), frozenset("ab")
    seen = view(member(ONE), a=ONE, b=ONE)
    share = LocalState(ONE, keys, dict.fromkeys("ab", 1))
    judge.plan(seen, share)
    with monkeypatch.context() as patch:
        patch.setattr(membership, "moves", None)
        found = judge.plan(seen, share)
        assert (found.is_settled, found.is_done) == (True, True)
    joined = SharedView({ONE: member(ONE), TWO: member(TWO)}, seen.holders)
    assert judge.plan(joined, share).give == ("b",)
    assert not judge.plan(SharedView(joined.members, {}), share).is_settled
