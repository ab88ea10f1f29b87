"""The order in which messages leave, against the simplest thing that could be meant."""

from __future__ import annotations

import gc
from collections import Counter, deque
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws import Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.lazy_messages import LazyMessages
from datastream_ws.handling.stores import NO_KEYS, Fifo, Keyed, Keys, size_of
from datastream_ws.messages import Origin, memory_bytes

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")


def message(data: str, seq: int = 1) -> Message:
    return Message(data, ORIGIN, seq, 0.0)


def lazy(*payloads: str) -> LazyMessages:
    return LazyMessages(list(payloads), ORIGIN, 1, 0.0)


# --- first in, first out ---


@pytest.mark.parametrize("store", [Fifo(), Keyed()])
def test_nothing_there(store: Fifo | Keyed) -> None:
    assert (len(store), store.ready, store.pop(), store.oldest()) == (0, 0, None, None)
    assert not store.has_place(NO_KEYS)


def test_an_empty_fifo_has_no_oldest_to_drop() -> None:
    with pytest.raises(IndexError):
        Fifo().pop_oldest()


def test_single_messages_and_parts_in_their_order() -> None:
    store = Fifo()
    store.push(message("a"))
    store.extend(lazy("b", "c"))
    store.extend([])
    store.push(message("d"))
    oldest = store.oldest()
    assert oldest is not None
    assert oldest.data == "a"
    assert (len(store), store.size) == (4, 4 * memory_bytes("a"))
    assert [m.data for m in store.pop_many(2)] == ["a", "b"]
    oldest = store.oldest()
    assert oldest is not None
    assert oldest.data == "c"
    assert store.pop_oldest().data == "c"
    last = store.pop()
    assert last is not None
    assert last.data == "d"
    assert store.pop_many(5) == []
    assert (len(store), store.size) == (0, 0)


@pytest.mark.parametrize("way", ["extend", "give_back"])
def test_messages_that_were_taken_are_not_kept(way: str) -> None:
    """The waiting ones would keep them otherwise, with everything that was decoded of them."""
    store = Fifo()
    getattr(store, way)([message(data) for data in "abc"])
    [first] = store.pop_many(1)
    assert [each for each in gc.get_referrers(first) if isinstance(each, list | deque)] == []


def test_what_is_given_back_is_the_oldest_again() -> None:
    store = Fifo()
    store.extend(lazy("a", "b", "c"))
    taken = store.pop_many(2)
    store.give_back(taken[1:])
    store.give_back([])
    assert [m.data for m in store.pop_many(9)] == ["b", "c"]


@given(st.lists(st.integers(1, 4) | st.sampled_from([-1, -2, -3, 0]), max_size=40))
def test_any_steps_of_a_fifo(steps: list[int]) -> None:
    """More than zero: so many come together; fewer: so many leave; zero: one by itself."""
    store, expected, seq = Fifo(), list[str](), 0
    for step in steps:
        if step < 0:
            assert [m.data for m in store.pop_many(-step)] == expected[:-step]
            del expected[:-step]
            continue
        made = [str(seq + at) for at in range(max(1, step))]
        seq += len(made)
        expected += made
        if step:
            store.extend(lazy(*made))
        else:
            store.push(message(made[0]))
        assert (len(store), store.size) == (len(expected), sum(map(memory_bytes, expected)))


def test_the_size_of_messages_and_of_lazy_ones() -> None:
    assert size_of([message("ü"), message("abc")]) == memory_bytes("ü") + memory_bytes("abc")
    assert size_of(lazy("ü", "abc")) == size_of([message("ü"), message("abc")])


# --- places and lanes ---


def test_a_newer_message_takes_the_place_of_the_older() -> None:
    store = Keyed()
    assert store.push(message("a1"), Keys(conflation="a")) is None
    store.push(message("b1"), Keys(conflation="b"))
    assert store.has_place(Keys(conflation="a"))
    replaced = store.push(message("a2"), Keys(conflation="a"))
    assert replaced is not None
    assert replaced.data == "a1"
    first = store.pop()
    assert first is not None
    assert first.data == "a2"
    assert not store.has_place(Keys(conflation="a"))  # it is in hand


def test_one_of_a_lane_at_a_time() -> None:
    store = Keyed()
    for data in ("x1", "x2", "y1"):
        store.push(message(data), Keys(order=data[0]))
    first, other = store.pop(), store.pop()
    assert first is not None
    assert other is not None
    assert (first.data, other.data, store.pop(), store.ready, len(store)) == (
        "x1", "y1", None, 0, 1,
    )  # fmt: skip
    store.release(other)  # nothing is behind it
    store.release(message("nobody's"))
    assert store.pop() is None
    store.release(first)
    second = store.pop()
    assert second is not None
    assert second.data == "x2"


def test_the_oldest_may_be_parked() -> None:
    """While the one before it is in hand."""
    store = Keyed()
    for data in ("x1", "x2", "x3"):
        store.push(message(data), Keys(order="x"))
    first = store.pop()
    assert first is not None
    assert store.pop_oldest().data == "x2"
    store.release(first)
    last = store.pop()
    assert last is not None
    assert last.data == "x3"


KEYS = st.sampled_from([None, "x", "y"])
STEPS = st.lists(st.tuples(KEYS, KEYS) | st.sampled_from(["pop", "oldest", "release"]), max_size=60)


@given(STEPS)
def test_any_steps_of_places_and_lanes(steps: list[tuple[Hashable, Hashable] | str]) -> None:
    """A lane's messages leave in order, one at a time, and every message leaves once."""
    store = Keyed()
    hand: list[Message] = []
    lane_of: dict[int, Hashable] = {}
    waiting: list[int] = []
    gone = Counter[int]()
    for seq, step in enumerate(steps, 1):
        if isinstance(step, tuple):
            conflation, order = step
            replaced = store.push(message(str(seq), seq), Keys(conflation, order))
            if replaced is None:
                lane_of[seq] = order
                waiting.append(seq)
            else:
                gone[replaced.seq] += 1
                lane_of[seq] = lane_of[replaced.seq]
                waiting[waiting.index(replaced.seq)] = seq
        elif step == "release" and hand:
            store.release(hand.pop(0))
        elif step == "oldest" and waiting:
            assert store.pop_oldest().seq == waiting[0]
            gone[waiting.pop(0)] += 1
        elif step == "pop":
            held = {lane_of[m.seq] for m in hand} - {None}
            may = [seq for seq in waiting if lane_of[seq] not in held]
            taken = store.pop()
            assert (taken is None) == (not may)
            if taken is not None:
                lane = lane_of[taken.seq]
                assert lane is None or taken.seq == next(s for s in may if lane_of[s] == lane)
                waiting.remove(taken.seq)
                gone[taken.seq] += 1
                hand.append(taken)
        assert len(store) == len(waiting)
    assert set(gone.values()) <= {1}
