"""The inbox: limits, overflow, conflation, lanes, and a ledger that always adds up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import datastream_ws.handling.lazy_messages as lazy_module
import datastream_ws.messages as messages_module
from datastream_ws import Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.budget import Budget
from datastream_ws.handling.inbox import Inbox, Portion, Put
from datastream_ws.handling.lazy_messages import LazyMessages
from datastream_ws.messages import Origin, payload_bytes

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")
POLICIES = ["block", "drop_oldest", "drop_newest", "disconnect"]


def messages(*payloads: str | bytes) -> list[Message]:
    return [Message(data, ORIGIN, seq, 0.0) for seq, data in enumerate(payloads, 1)]


def inbox_with(**options: Any) -> Inbox:
    return Inbox(**options)


def payloads(inbox: Inbox) -> list[str | bytes]:
    """Pop what may be popped and leave it in hand; return the payloads."""
    found = []
    while (message := inbox.pop()) is not None:
        found.append(message.data)
    return found


def first_letter(message: Message) -> Any:
    return message.data[0] if message.data else None


def adds_up(inbox: Inbox) -> bool:
    """The ledger of the contract."""
    counts = inbox.counts()
    settled = counts.handled + counts.failed + sum(counts.dropped.values())
    return counts.received == settled + counts.waiting


# --- in and out -------------------------------------------------------------------------------


def test_first_in_first_out() -> None:
    """What goes in comes out, in order, and is then in hand."""
    inbox = Inbox()
    assert inbox.put(messages("a", "b", "c")) == Put(3)
    assert payloads(inbox) == ["a", "b", "c"]
    assert inbox.pop() is None
    assert inbox.waiting == 3


def test_counters() -> None:
    """Handled, failed, unrouted (among the handled), dropped by cause, waiting."""
    inbox = Inbox()
    inbox.put(messages(*"abcdef"))
    a, b, c, d, _ = (inbox.pop() for _ in range(5))
    assert a
    assert b
    assert c
    assert d
    inbox.done(a)
    inbox.done(b, unrouted=True)
    inbox.done(c, failed=True)
    inbox.discard(d, "shutdown")
    counts = inbox.counts()
    assert (counts.received, counts.handled, counts.failed, counts.unrouted) == (6, 2, 1, 1)
    assert (counts.dropped, counts.waiting) == ({"shutdown": 1}, 2)


def test_pop_after_counts_and_pops() -> None:
    """Two steps in one."""
    inbox = Inbox()
    inbox.put(messages("a", "b"))
    first = inbox.pop()
    assert first
    second, _ = inbox.pop_after(first)
    assert second
    assert second.data == "b"
    assert inbox.pop_after(second)[0] is None
    assert (inbox.counts().handled, inbox.waiting) == (2, 0)


def test_last_message_is_the_last_received() -> None:
    """Dropped or handled: it is where to resume from."""
    inbox = Inbox(size=1, overflow="drop_newest")
    assert inbox.last_message is None
    given = messages("a", "b")
    inbox.put(given)
    assert inbox.last_message is given[1]


@pytest.mark.parametrize(
    ("data", "size"),
    [("", 0), ("abc", 3), ("ü", 2), ("😀", 4), (b"\xff\x00", 2), ("\ud800", 1)],
)
def test_payload_bytes(data: str | bytes, size: int) -> None:
    """Bytes, not characters; half a surrogate pair does no harm."""
    assert payload_bytes(data) == size


# --- limits -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def payloads_alone() -> Iterator[None]:
    """Messages cost nothing besides their payloads, so that limits are small numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (messages_module, lazy_module):
            patch.setattr(module, "MESSAGE_BYTES", 0)
        yield


pytestmark = pytest.mark.usefixtures("payloads_alone")


LIMITS: list[Any] = [{"size": 3}, {"size_bytes": 3}, {"size": 3, "size_bytes": 100}]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_block_takes_what_fits(limits: Any) -> None:
    """The rest stays with the caller, who stops reading."""
    inbox = Inbox(**limits)
    assert inbox.put(messages(*"abcde")) == Put(3, full=True)
    assert inbox.counts().received == 3
    assert payloads(inbox) == ["a", "b", "c"]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_messages_in_hand_count(limits: Any) -> None:
    """They are not handled yet."""
    inbox = Inbox(**limits)
    inbox.put(messages(*"abc"))
    in_hand = inbox.pop()
    assert inbox.put(messages("d")) == Put(0, full=True)
    assert in_hand
    inbox.done(in_hand)
    assert inbox.put(messages("d")) == Put(1, full=True)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_block_says_full_with_the_last_that_fits(limits: Any) -> None:
    """Not with the next one, which is on the wire already."""
    inbox = Inbox(**limits)
    assert inbox.put(messages("a", "b")) == Put(2)
    assert inbox.put(messages("c")) == Put(1, full=True)


@pytest.mark.parametrize(("size", "resumed_at"), [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)])
@pytest.mark.parametrize("unit", ["size", "size_bytes"])
def test_reading_resumes_at_half(unit: str, size: int, resumed_at: int) -> None:
    """Said once, so that reading does not stop and go for every message."""
    inbox = inbox_with(**{unit: size})
    inbox.put(messages(*"x" * size))
    left = []
    for message in [inbox.pop() for _ in range(size)]:
        assert message
        if inbox.done(message):
            left.append(inbox.waiting)
    assert left == [resumed_at]


@pytest.mark.parametrize("way", ["done", "failed", "discard", "pop_after"])
def test_every_way_out_makes_room(way: str) -> None:
    """However a message leaves."""
    inbox = Inbox(size=1)
    inbox.put(messages("a"))
    message = inbox.pop()
    assert message
    if way == "done":
        assert inbox.done(message)
    elif way == "failed":
        assert inbox.done(message, failed=True)
    elif way == "discard":
        assert inbox.discard(message, "shutdown")
    else:
        assert inbox.pop_after(message) == (None, True)


def test_force_takes_all() -> None:
    """What was received stays received, also when its connection is gone by then."""
    inbox = Inbox(size=1)
    assert inbox.put(messages(*"abc"), force=True) == Put(3)
    assert payloads(inbox) == ["a", "b", "c"]


def test_one_message_larger_than_all_bytes() -> None:
    """It is taken when there is room for anything at all, else it could never be handled."""
    inbox = Inbox(size_bytes=3)
    assert inbox.put(messages("x" * 10)) == Put(1, full=True)
    assert payloads(inbox) == ["x" * 10]


def test_no_limits() -> None:
    """`None` means none."""
    inbox = Inbox(size=None, size_bytes=None)
    assert inbox.put(messages(*["x" * 1000] * 1000)) == Put(1000)


# --- overflow ---------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize(
    ("overflow", "put", "left"),
    [
        ("block", Put(3, full=True), "abc"),
        ("drop_oldest", Put(5, dropped=2), "cde"),
        ("drop_newest", Put(5, dropped=2), "abc"),
        ("disconnect", Put(3, disconnect=True), "abc"),
    ],
)
def test_overflow(limits: Any, overflow: str, put: Put, left: str) -> None:
    """Five messages where three fit."""
    inbox = Inbox(overflow=overflow, **limits)
    assert inbox.put(messages(*"abcde")) == put
    assert payloads(inbox) == list(left)
    assert inbox.counts().dropped == ({"overflow": put.dropped} if put.dropped else {})
    assert adds_up(inbox)


@pytest.mark.parametrize("overflow", POLICIES)
def test_a_full_inbox_that_overflows_nothing(overflow: str) -> None:
    """As many as fit: nothing is dropped, no connection ended; only reading may stop."""
    inbox = Inbox(size=3, overflow=overflow)
    assert inbox.put(messages(*"abc")) == Put(3, full=overflow == "block")


def test_drop_oldest_never_drops_what_is_in_hand() -> None:
    """Nor the newest: with everything else in hand there is one more than fits."""
    inbox = Inbox(size=2, overflow="drop_oldest")
    inbox.put(messages("a", "b"))
    inbox.pop()
    inbox.pop()
    assert inbox.put(messages("c")) == Put(1)
    assert inbox.put(messages("d")) == Put(1, dropped=1)
    assert payloads(inbox) == ["d"]


def test_drop_oldest_by_bytes() -> None:
    """As many as the new one needs."""
    inbox = Inbox(size_bytes=5, overflow="drop_oldest")
    assert inbox.put(messages("aa", "b", "c", "dddd")) == Put(4, dropped=2)
    assert payloads(inbox) == ["c", "dddd"]


# --- conflation -------------------------------------------------------------------------------


def test_conflation_keeps_the_place() -> None:
    """The newer message is handled where the older one waited."""
    inbox = Inbox(conflate=first_letter)
    inbox.put(messages("a1", "b1", "a2", "c1", "b2"))
    assert payloads(inbox) == ["a2", "b2", "c1"]
    assert inbox.counts().dropped == {"conflated": 2}
    assert adds_up(inbox)


def test_no_conflation_with_what_is_in_hand() -> None:
    """It is being handled: the newer one waits on its own."""
    inbox = Inbox(conflate=first_letter)
    inbox.put(messages("a1"))
    inbox.pop()
    inbox.put(messages("a2", "a3"))
    assert payloads(inbox) == ["a3"]


def test_messages_without_a_key_are_not_conflated() -> None:
    """`None` is no key."""
    inbox = Inbox(conflate=lambda message: None)
    inbox.put(messages("a", "a"))
    assert payloads(inbox) == ["a", "a"]


def test_conflation_needs_no_room() -> None:
    """A full inbox that drops the newest still takes a newer one for a place it has."""
    inbox = Inbox(size=2, overflow="drop_newest", conflate=first_letter)
    assert inbox.put(messages("a1", "b1", "a2", "c1")) == Put(4, dropped=1)
    assert payloads(inbox) == ["a2", "b1"]


def test_conflation_counts_bytes() -> None:
    """Those of the message that is there."""
    inbox = Inbox(size_bytes=5, conflate=first_letter)
    inbox.put(messages("aaaa", "a"))
    assert inbox.put(messages("bbbb")) == Put(1, full=True)


@pytest.mark.parametrize("option", ["conflate", "ordering_key"])
@pytest.mark.parametrize("key", [lambda message: 1 / 0, lambda message: []], ids=["raise", "list"])
def test_key_function_that_fails(option: str, key: Callable[[Message], Any]) -> None:
    """It raises, or returns what cannot be a key: reported, and the message has none."""
    reported: list[BaseException] = []
    inbox = inbox_with(**{option: key}, report=reported.append)
    inbox.put(messages("a", "a"))
    assert payloads(inbox) == ["a", "a"]
    assert [type(error) for error in reported] in ([ZeroDivisionError] * 2, [TypeError] * 2)


# --- lanes ------------------------------------------------------------------------------------


def take(inbox: Inbox, payload: str) -> Message:
    """Pop the message that is expected next."""
    message = inbox.pop()
    assert message
    assert message.data == payload
    return message


def test_one_of_a_lane_at_a_time() -> None:
    """The next one of a key comes once the one in hand is done; the others do not wait."""
    inbox = Inbox(ordering_key=first_letter)
    inbox.put(messages("a1", "a2", "b1", "a3", "c1"))
    a1 = take(inbox, "a1")
    b1 = take(inbox, "b1")
    take(inbox, "c1")
    assert inbox.pop() is None
    assert inbox.ready == 0
    inbox.done(a1)
    inbox.done(b1)
    assert inbox.ready == 1
    inbox.done(take(inbox, "a2"), failed=True)
    inbox.discard(take(inbox, "a3"), "shutdown")
    assert inbox.pop() is None


def test_released_lane_goes_on() -> None:
    """A message that waits in a batch is not done, yet no longer in the way."""
    inbox = Inbox(ordering_key=first_letter)
    inbox.put(messages("a1", "a2"))
    a1 = take(inbox, "a1")
    inbox.release(a1)
    a2 = take(inbox, "a2")
    inbox.done(a1)
    inbox.put(messages("a3"))
    assert inbox.pop() is None
    inbox.done(a2)
    take(inbox, "a3")


def test_messages_without_a_lane_never_wait() -> None:
    """`None` is no key."""
    inbox = Inbox(ordering_key=first_letter)
    inbox.put(messages("", "", "a1"))
    assert payloads(inbox) == ["", "", "a1"]


def test_pop_after_frees_the_lane() -> None:
    """The message it counts was the one in the way."""
    inbox = Inbox(ordering_key=first_letter)
    inbox.put(messages("a1", "a2"))
    following, _ = inbox.pop_after(take(inbox, "a1"))
    assert following
    assert following.data == "a2"


def test_drop_oldest_with_lanes() -> None:
    """Parked or not, the oldest goes; its lane goes on with the next."""
    inbox = Inbox(size=3, overflow="drop_oldest", ordering_key=first_letter)
    inbox.put(messages("a1", "a2", "b1", "a3"))  # a1 goes, a2 is free
    b1 = take(inbox, "b1")
    inbox.put(messages("b2"))  # a2 goes, a3 is free; b2 is parked
    inbox.put(messages("c1"))  # a3 goes
    take(inbox, "c1")
    assert inbox.pop() is None
    inbox.done(b1)
    take(inbox, "b2")
    inbox.put(messages("a4"))
    take(inbox, "a4")
    assert inbox.counts().dropped == {"overflow": 3}


@pytest.mark.parametrize("option", ["ordering_key", "conflate"])
def test_what_is_dropped_leaves_nothing_behind(option: str) -> None:
    """100,000 dropped behind one slow handler: neither places nor keys pile up."""
    inbox = inbox_with(size=2, overflow="drop_oldest", **{option: lambda message: message.seq % 3})
    inbox.put(messages(*"abc"))
    inbox.pop()
    for _ in range(1000):
        inbox.put(messages(*"x" * 100))
    store: Any = inbox._store
    assert len(store._free) + sum(map(len, store._parked.values())) <= 2
    assert len(store._place_of) + len(store._parked) <= 4
    assert inbox.ready <= 2


# --- portions ---------------------------------------------------------------------------------


def portion_of(inbox: Inbox) -> Portion:
    portion = inbox.pop_many()
    assert portion is not None
    return portion


def begin(portion: Portion) -> Message:
    """Take the next message of a portion as a worker does; it is in hand until it is finished."""
    message = portion.in_hand = next(portion.taken())
    return message


def finish(portion: Portion) -> None:
    portion.in_hand = None


def handle(portion: Portion, number: int = 1) -> list[str | bytes]:
    """Handle messages of a portion."""
    found = [begin(portion).data for _ in range(number)]
    finish(portion)
    return found


def test_a_portion_is_counted_as_it_goes() -> None:
    """Though the one that handles asks for no lock; what it has not begun with waits."""
    inbox = Inbox()
    inbox.put(messages("a", "b", "c"))
    portion = portion_of(inbox)
    begin(portion)
    assert (inbox.counts().handled, inbox.waiting) == (0, 3)
    finish(portion)
    assert (inbox.counts().handled, inbox.waiting) == (1, 2)
    begin(portion)
    assert (inbox.counts().handled, inbox.waiting) == (1, 2)
    assert adds_up(inbox)


def test_what_is_left_of_a_portion_comes_first_again() -> None:
    """A run ends before its portion does: order is kept."""
    inbox = Inbox()
    inbox.put(messages(*"abcd"))
    portion = portion_of(inbox)
    inbox.put(messages("e"))
    assert handle(portion) == ["a"]
    assert not inbox.settle(portion)
    assert payloads(inbox) == ["b", "c", "d", "e"]
    assert inbox.counts().handled == 1


def test_the_message_a_portion_was_left_with_is_in_hand() -> None:
    """Its handler failed: it may be tried again, and is counted on its own."""
    inbox = Inbox()
    inbox.put(messages("a", "b", "c"))
    portion = portion_of(inbox)
    handle(portion)
    failing = begin(portion)
    inbox.settle(portion)
    assert (inbox.counts().handled, inbox.waiting) == (1, 2)
    inbox.done(failing, failed=True)
    assert (inbox.counts().failed, inbox.waiting) == (1, 1)
    assert payloads(inbox) == ["c"]


@pytest.mark.parametrize(("size", "most"), [(None, 100), (1000, 100), (500, 50), (19, 1), (1, 1)])
def test_a_portion_is_at_most_a_tenth_of_the_inbox(size: int | None, most: int) -> None:
    """So that reading resumes at about half, however slow the handler is."""
    inbox = Inbox(size=size)
    inbox.put(messages(*["x"] * (size or 1000)))
    assert len(portion_of(inbox).left) == most


def test_reading_resumes_with_the_portion_that_reaches_half() -> None:
    """Said by settle(), once."""
    inbox = Inbox(size=20)
    inbox.put(messages(*"x" * 20))
    told = []
    while portion := inbox.pop_many():
        handle(portion, len(portion.left))
        if inbox.settle(portion):
            told.append(inbox.waiting)
    assert told == [10]


def test_a_client_does_not_resume_behind_what_it_dropped_with_its_lease() -> None:
    """A process that loses a lease and acquires it again resumed after the last received one."""
    inbox = Inbox()
    inbox.put(messages("a", "b"))
    in_hand = inbox.pop()
    assert in_hand
    assert inbox.drop("lease_lost") == 1
    last = [inbox.last_message]
    inbox.put(messages("c"))
    last.append(inbox.last_message)
    inbox.discard(in_hand, "lease_lost")
    last.append(inbox.last_message)
    assert [each.data if each else None for each in last] == [None, "c", None]


def test_what_a_later_tenure_received_stays_the_last_message() -> None:
    inbox = Inbox()
    inbox.put(messages("a"))
    in_hand = inbox.pop()
    assert in_hand
    later = Message("b", Origin("default", 2, 2, JsonCodec(), "type"), 1, 0.0)
    inbox.put([later])
    inbox.discard(in_hand, "lease_lost")
    assert inbox.last_message is later


def test_all_handled_before_the_lease_was_lost() -> None:
    inbox = Inbox()
    inbox.put(messages("a"))
    message = inbox.pop()
    assert message
    inbox.done(message)
    assert inbox.drop("lease_lost") == 0
    assert inbox.last_message is message


@pytest.mark.parametrize("cause", ["shutdown", "lease_lost"])
def test_what_is_dropped_is_taken_out_of_a_portion(cause: str) -> None:
    """What has been begun with is the worker's, what has not is dropped: each message once."""
    inbox = Inbox()
    inbox.put(messages("a", "b", "c"))
    portion = portion_of(inbox)
    begin(portion)
    inbox.put(messages("d"))
    assert (inbox.close() if cause == "shutdown" else inbox.drop(cause)) == 3
    assert not portion.left
    finish(portion)
    assert not inbox.settle(portion)
    assert inbox.pop_many() is None
    assert (inbox.counts().handled, inbox.waiting) == (1, 0)
    assert inbox.counts().dropped == {cause: 3}


@pytest.mark.parametrize(
    "options",
    [
        {"conflate": first_letter},
        {"ordering_key": first_letter},
        {"budget": Budget(5, lambda: None)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_portions_where_a_message_may_be_taken_back(options: Any) -> None:
    """There each is popped when it is handled."""
    inbox = Inbox(**options)
    inbox.put(messages("a"))
    assert inbox.pop_many() is None


def test_the_oldest_are_dropped_out_of_a_portion() -> None:
    """Those that the worker has not begun with; the one in hand stays."""
    inbox = Inbox(size=40, overflow="drop_oldest")
    inbox.put(messages(*map(str, range(40))))
    portion = portion_of(inbox)
    assert len(portion.left) == 4
    in_hand = begin(portion)
    assert inbox.put(messages("new", "newer")).dropped == 2
    assert not portion.left
    assert (in_hand.data, portion.in_hand) == ("0", in_hand)
    finish(portion)
    inbox.settle(portion)
    assert (inbox.waiting, inbox.counts().handled) == (39, 1)
    assert handle(portion_of(inbox), 3) == ["3", "4", "5"], "1 and 2 were dropped"


def test_handled_bytes_of_a_portion_drop_nothing() -> None:
    inbox = Inbox(size_bytes=10, overflow="drop_oldest")
    inbox.put(messages(*"abcdefgh"))
    portion = portion_of(inbox)
    handle(portion, 6)
    assert inbox.put(messages("1234")).dropped == 0
    inbox.settle(portion)
    assert handle(portion_of(inbox), 3) == ["g", "h", "1234"]


def test_popped_together() -> None:
    inbox = Inbox(size=4)
    assert inbox.put(messages(*"abcd")).full
    taken = inbox.pop_together(3)
    assert [message.data for message in taken] == ["a", "b", "c"]
    assert (inbox.ready, inbox.waiting) == (1, 4)
    assert not inbox.done_together(taken[:1], failed=True)
    assert inbox.done_together(taken[1:]), "half is free: reading may resume"
    assert (inbox.counts().handled, inbox.counts().failed, inbox.waiting) == (2, 1, 1)


def test_bytes_of_what_was_popped_together_make_room_where_they_matter() -> None:
    """They are not measured one by one, but they do not fill the inbox either."""
    inbox = Inbox(size_bytes=10)
    inbox.put(messages("aaaa", "bbbb", "c"))
    taken = inbox.pop_together(2)
    assert not inbox.done_together(taken)
    assert inbox.put(messages("dddddddd")) == Put(1)
    inbox.done_together(inbox.pop_together(2))
    assert inbox.put(messages("eeeeeeeee")) == Put(1)


def test_popped_together_where_each_is_to_be_popped() -> None:
    inbox = Inbox(conflate=first_letter)
    inbox.put(messages("a"))
    assert inbox.pop_together(3) == []


def test_bytes_are_measured_where_they_matter() -> None:
    """What a portion has handled does not fill the inbox, nor does it make room twice."""
    inbox = Inbox(size_bytes=10)
    inbox.put(messages("aaaa", "bb"))
    portion = portion_of(inbox)
    handle(portion)
    inbox.settle(portion)
    assert inbox.put(messages("cccccc")) == Put(1)
    assert inbox.put(messages("d", "e", "f")) == Put(2, full=True)


def test_a_portion_over_several_reads() -> None:
    """Single messages and those of several reads, in order."""
    inbox = Inbox()
    inbox.put(messages("a", "b"))
    inbox.put(LazyMessages(["c", "d"], ORIGIN, 3, 0.0))
    assert handle(portion_of(inbox), 4) == ["a", "b", "c", "d"]


def test_abandoned_portion() -> None:
    """After a fork the child's only thread may be the worker: it finds nothing more."""
    inbox = Inbox()
    inbox.put(messages("a", "b"))
    portion = portion_of(inbox)
    inbox.abandon()
    assert not portion.left


def test_a_portion_and_the_end_share_without_a_lock() -> None:
    """One thread handles while another drops: each message once."""
    for _ in range(50):
        inbox = Inbox()
        inbox.put(messages(*"x" * 100))
        portion = portion_of(inbox)
        closing = threading.Thread(target=inbox.close)
        handled = 0
        closing.start()
        while portion.left:
            with suppress(IndexError):
                handle(portion)
                handled += 1
        closing.join()
        inbox.settle(portion)
        counts = inbox.counts()
        assert (counts.handled, counts.waiting) == (handled, 0)
        assert adds_up(inbox)


# --- who takes nothing ------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", POLICIES)
def test_untaken_messages_make_room(overflow: str) -> None:
    """Nobody is there to take them: whatever overflow says, reading goes on."""
    inbox = Inbox(size=3, overflow=overflow)
    inbox.is_untaken = lambda: True
    assert inbox.put(messages(*"abcde")) == Put(5, untaken=2)
    assert payloads(inbox) == ["c", "d", "e"]
    assert inbox.counts().dropped == {"untaken": 2}
    assert adds_up(inbox)


def test_what_a_finalizer_leaves_is_counted() -> None:
    """It notes the message without the lock, which the very same thread may hold."""
    inbox = Inbox(size=2)
    inbox.put(messages("a", "b"))
    message = take(inbox, "a")
    with inbox._lock:
        inbox.finished.append(message)
    assert (inbox.counts().handled, inbox.counts().waiting) == (1, 1)
    assert not inbox.settle_finished()


def test_a_message_that_never_was_in_the_inbox() -> None:
    """It was handled inline: received and handled, or failed, and of a budget like any other."""
    told: list[str] = []
    inbox = Inbox(budget=Budget(2, lambda: told.append("spent")))
    assert inbox.is_budgeted
    inbox.count_inline(1, 0)
    assert told == []
    inbox.count_inline(0, 1)
    assert told == ["spent"]
    counts = inbox.counts()
    assert (counts.received, counts.handled, counts.failed) == (2, 1, 1)
    assert adds_up(inbox)


# --- how long they wait -----------------------------------------------------------------------


def aged(*seconds: float) -> list[Message]:
    """Messages that were received so long ago."""
    now = time.time()
    return [Message("x", ORIGIN, seq, now - age) for seq, age in enumerate(seconds, 1)]


@pytest.mark.parametrize("keyed", [{}, {"ordering_key": first_letter}], ids=["plain", "lanes"])
def test_oldest_waiting(keyed: Any) -> None:
    """The one in hand counts: it is not handled yet."""
    inbox = Inbox(**keyed)
    assert inbox.oldest_waiting() is None
    inbox.put(aged(30, 20, 10))
    assert inbox.oldest_waiting() == pytest.approx(30, abs=1)
    first = inbox.pop()
    assert first
    assert inbox.oldest_waiting() == pytest.approx(30, abs=1)
    inbox.done(first)
    assert inbox.oldest_waiting() == pytest.approx(20, abs=1)


def test_oldest_waiting_of_a_portion() -> None:
    """The one it is at, else the first that is left, else what waits behind it."""
    inbox = Inbox(size=20)
    inbox.put(aged(30, 20, 10))
    portion = portion_of(inbox)
    assert len(portion.left) == 2
    handle(portion)
    assert inbox.oldest_waiting() == pytest.approx(20, abs=1)
    begin(portion)
    assert inbox.oldest_waiting() == pytest.approx(20, abs=1)
    finish(portion)
    assert inbox.oldest_waiting() == pytest.approx(10, abs=1)


def test_a_clock_that_was_set_back() -> None:
    """No negative age."""
    inbox = Inbox()
    inbox.put(aged(-100))
    assert inbox.oldest_waiting() == 0


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [{}, {"ordering_key": first_letter}, {"conflate": first_letter}])
def test_close_drops_what_waits(keyed: Any) -> None:
    """Not what is in hand: that is counted when its handler is done."""
    inbox = Inbox(**keyed)
    inbox.put(messages("a1", "b1", "c1"))
    in_hand = inbox.pop()
    assert inbox.close("lease_lost") == 2
    assert inbox.counts().dropped == {"lease_lost": 2}
    assert inbox.pop() is None
    assert in_hand
    assert inbox.pop_after(in_hand)[0] is None
    assert (inbox.counts().handled, inbox.waiting) == (1, 0)
    assert adds_up(inbox)


def test_closed_inbox_hands_nothing_out() -> None:
    """What still comes in is received, and waits."""
    inbox = Inbox()
    inbox.close()
    inbox.put(messages("a"))
    assert inbox.pop() is None
    assert inbox.close() == 1


def test_abandoned_inbox() -> None:
    """After a fork: another thread may hold the lock, and does not exist here."""
    inbox = Inbox()
    inbox.put(messages("a"))
    inbox._lock.acquire()
    inbox.abandon()
    assert inbox.pop() is None


def test_budget() -> None:
    """So many messages in all, from whatever inboxes share it; told once."""
    told: list[str] = []
    budget = Budget(3, lambda: told.append("spent"))
    inboxes = [Inbox(budget=budget), Inbox(budget=budget, ordering_key=first_letter)]
    for inbox in inboxes:
        inbox.put(messages("a", "b"))
    assert payloads(inboxes[0]) == ["a", "b"]
    assert (told, budget.is_spent) == ([], False)
    first = take(inboxes[1], "a")
    assert (told, budget.is_spent) == (["spent"], True)
    assert inboxes[1].pop_after(first)[0] is None
    assert inboxes[1].waiting == 1
    assert told == ["spent"]


# --- many threads -----------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [{}, {"ordering_key": first_letter}], ids=["plain", "lanes"])
def test_threads(keyed: Any) -> None:
    """One puts, four handle: every message once, and in a lane one at a time, in order."""
    inbox = Inbox(size=50, **keyed)
    given = messages(*(f"{'abcdefg'[n % 7]}{n}" for n in range(5000)))
    handled: list[Message] = []
    busy: Counter[Any] = Counter()
    overtaken: list[Message] = []
    room = threading.Semaphore(0)

    def handle() -> None:
        while len(handled) < len(given):
            if (message := inbox.pop()) is None:
                continue
            lane = first_letter(message)
            busy[lane] += 1
            if keyed and busy[lane] > 1:
                overtaken.append(message)
            handled.append(message)
            busy[lane] -= 1
            if inbox.done(message):
                room.release()

    threads = [threading.Thread(target=handle) for _ in range(4)]
    for thread in threads:
        thread.start()
    left = given
    while left:
        put = inbox.put(left)
        left = left[put.taken :]
        if put.full:
            assert room.acquire(timeout=30)
    for thread in threads:
        thread.join()
    assert sorted(message.seq for message in handled) == list(range(1, 5001))
    assert overtaken == []
    for lane in "abcdefg" if keyed else "":
        order = [message.seq for message in handled if first_letter(message) == lane]
        assert order == sorted(order)
    assert (inbox.counts().handled, inbox.waiting) == (5000, 0)


# --- any sequence of steps --------------------------------------------------------------------


@dataclass
class Entry:
    """A message in the model's store; its conflation key and its lane."""

    message: Message
    key: Any
    lane: Any


@dataclass
class Model:
    """What an inbox is to do, in lists and loops."""

    size: int | None
    size_bytes: int | None
    overflow: str
    store: list[Entry] = field(default_factory=list)
    in_hand: list[Entry] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    blocked: bool = False
    closed: bool = False

    def load(self) -> tuple[int, int]:
        there = self.store + self.in_hand
        return len(there), sum(len(entry.message.data) for entry in there)

    def holds(self, count: int | None, size: int | None) -> bool:
        """Whether there is as much as that."""
        messages_, bytes_ = self.load()
        return (count is not None and messages_ >= count) or (size is not None and bytes_ >= size)

    @property
    def is_full(self) -> bool:
        return self.holds(self.size, self.size_bytes)

    def put(self, offered: list[Entry], force: bool) -> Put:
        taken, before = 0, self.counts["overflow"]
        for entry in offered:
            if self.overflow in ("block", "disconnect") and self.is_full and not force:
                break
            taken += 1
            self.take(entry)
        dropped = self.counts["overflow"] - before
        if taken == len(offered) and not dropped and not self.is_full:
            return Put(taken)
        self.blocked = self.overflow == "block" and self.is_full and not force
        left_over = self.overflow == "disconnect" and taken < len(offered)
        return Put(taken, dropped, self.blocked, left_over)

    def take(self, entry: Entry) -> None:
        self.counts["received"] += 1
        same = [old for old in self.store if entry.key is not None and old.key == entry.key]
        if self.overflow == "drop_newest" and self.is_full and not same:
            self.counts["overflow"] += 1
        elif same:
            same[0].message = entry.message
            self.counts["conflated"] += 1
        else:
            self.store.append(entry)
        over = self.size and self.size + 1, self.size_bytes and self.size_bytes + 1
        while self.overflow == "drop_oldest" and self.holds(*over) and len(self.store) > 1:
            del self.store[0]
            self.counts["overflow"] += 1

    def free(self) -> list[Entry]:
        """Return the entries that may be popped."""
        lanes = {entry.lane for entry in self.in_hand} - {None}
        found = []
        for entry in self.store:
            if entry.lane is None:
                found.append(entry)
            elif entry.lane not in lanes:
                lanes.add(entry.lane)
                found.append(entry)
        return found

    def out(self, entry: Entry, how: str) -> bool:
        self.in_hand.remove(entry)
        self.counts[how] += 1
        if not self.blocked:
            return False
        half = self.size and self.size // 2 + 1, self.size_bytes and self.size_bytes // 2 + 1
        self.blocked = self.holds(*half)
        return not self.blocked


class AnySequence(RuleBasedStateMachine):
    """The inbox beside the model, step by step."""

    @initialize(
        size=st.none() | st.integers(1, 5),
        size_bytes=st.none() | st.integers(1, 12),
        overflow=st.sampled_from(POLICIES),
        conflated=st.booleans(),
        ordered=st.booleans(),
    )
    def begin(
        self,
        size: int | None,
        size_bytes: int | None,
        overflow: str,
        conflated: bool,
        ordered: bool,
    ) -> None:
        self.conflated, self.ordered, self.seq = conflated, ordered, 0
        self.model = Model(size, size_bytes, overflow)
        self.inbox = Inbox(
            size=size,
            size_bytes=size_bytes,
            overflow=overflow,
            conflate=(lambda message: self.keys[message.seq][0]) if conflated else None,
            ordering_key=(lambda message: self.keys[message.seq][1]) if ordered else None,
        )
        self.keys: dict[int, tuple[Any, Any]] = {}

    # A conflation key has one lane: 4 keys in 2 lanes, and none in none.
    # No empty payloads: whether one still fits into bytes that are full depends on its company.
    @rule(
        offered=st.lists(st.tuples(st.sampled_from([None, 0, 1, 2, 3]), st.integers(1, 6))),
        force=st.booleans(),
        lazy=st.booleans(),
    )
    def put(self, offered: list[tuple[Any, int]], force: bool, lazy: bool) -> None:
        force = force and self.model.overflow == "block"
        entries = []
        for key, size in offered:
            self.seq += 1
            lane = None if key is None else key % 2
            self.keys[self.seq] = (key, lane)
            entries.append(
                Entry(
                    Message("x" * size, ORIGIN, self.seq, 0.0),
                    key if self.conflated else None,
                    lane if self.ordered else None,
                )
            )
        given: Sequence[Message] = [entry.message for entry in entries]
        if lazy:
            sent = [message.data for message in given]
            given = LazyMessages(sent, ORIGIN, self.seq - len(given) + 1, 0.0)
        assert self.inbox.put(given, force=force) == self.model.put(entries, force)

    def popped(self, message: Message | None) -> None:
        """Compare what came out: from the free ones, the first where there are no lanes."""
        free = [] if self.model.closed else self.model.free()
        if message is None:
            assert free == []
            return
        [entry] = [entry for entry in free if entry.message.seq == message.seq]
        assert entry.message.data == message.data
        assert self.ordered or entry is free[0]
        entry.message = message
        self.model.store.remove(entry)
        self.model.in_hand.append(entry)

    @rule()
    def pop(self) -> None:
        self.popped(self.inbox.pop())

    @precondition(lambda self: not self.model.in_hand)
    @rule(most=st.integers(0, 8), breaks_off=st.booleans())
    def portion(self, most: int, breaks_off: bool) -> None:
        """As popping and being done, but that nobody asks in between."""
        portion = self.inbox.pop_many()
        if portion is None:
            return
        number = min(most, len(portion.left))
        resume = False
        for _ in range(number):
            message = begin(portion)
            self.popped(message)
            if breaks_off:
                break
            finish(portion)
            resume = self.model.out(self.model.in_hand[0], "handled") or resume
        assert self.inbox.settle(portion) == resume

    def one_in_hand(self, data: st.DataObject) -> Entry:
        return data.draw(st.sampled_from(self.model.in_hand))

    @precondition(lambda self: self.model.in_hand)
    @rule(data=st.data(), how=st.sampled_from(["handled", "failed", "shutdown"]))
    def done(self, data: st.DataObject, how: str) -> None:
        entry = self.one_in_hand(data)
        if how == "shutdown":
            resume = self.inbox.discard(entry.message, how)
        else:
            resume = self.inbox.done(entry.message, failed=how == "failed")
        assert resume == self.model.out(entry, how)

    @precondition(lambda self: self.model.in_hand)
    @rule(data=st.data())
    def pop_after(self, data: st.DataObject) -> None:
        entry = self.one_in_hand(data)
        message, resume = self.inbox.pop_after(entry.message)
        assert resume == self.model.out(entry, "handled")
        self.popped(message)

    @precondition(lambda self: self.model.in_hand)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        entry = self.one_in_hand(data)
        self.inbox.release(entry.message)
        entry.lane = None

    @precondition(lambda self: self.seq > 20)
    @rule()
    def close(self) -> None:
        assert self.inbox.close() == len(self.model.store)
        self.model.counts["shutdown"] += len(self.model.store)
        self.model.store.clear()
        self.model.closed = True

    @invariant()
    def agrees(self) -> None:
        counts, model = self.inbox.counts(), self.model.counts
        assert adds_up(self.inbox)
        assert counts.waiting == self.inbox.waiting == self.model.load()[0]
        assert (counts.received, counts.handled, counts.failed) == (
            model["received"],
            model["handled"],
            model["failed"],
        )
        for cause in ("overflow", "conflated", "shutdown"):
            assert counts.dropped.get(cause, 0) == model[cause]
        assert self.inbox.ready == len(self.model.free())


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("option", ["conflate", "ordering_key"])
def test_a_key_that_exits_is_reported(option: str) -> None:
    """SystemExit came out of the socket's callback, and the messages of that read were lost."""

    def exits(message: Message) -> str:
        raise SystemExit

    reported: list[BaseException] = []
    options: dict[str, Any] = {option: exits, "report": reported.append}
    inbox = Inbox(**options)
    assert inbox.put(messages("a", "b")).taken == 2
    assert inbox.waiting == 2
    assert [type(error) for error in reported] == [SystemExit, SystemExit]
