"""The messages of one read: made when taken, alike however often they are."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.lazy_messages import TOGETHER, LazyMessages
from datastream_ws.messages import Message, Origin, memory_bytes, payload_bytes

ORIGIN = Origin("default", 3, 7, JsonCodec(), "type")
PAYLOADS = st.lists(st.text(max_size=5) | st.binary(max_size=5), max_size=8)


def lazy_of(*payloads: str | bytes, size: int | None = None) -> LazyMessages:
    return LazyMessages(list(payloads), ORIGIN, 10, 5.0, size)


def test_numbered_in_order_and_alike_each_time() -> None:
    lazy = lazy_of("a", b"b", "c")
    made = list(lazy)
    assert [(m.data, m.seq, m.connection, m.epoch) for m in made] == [
        ("a", 10, 3, 7),
        (b"b", 11, 3, 7),
        ("c", 12, 3, 7),
    ]
    assert [lazy[0], lazy[1], lazy[-1]] == made
    assert list(lazy) == made
    assert lazy.made(1, 3) == made[1:]


def test_a_slice_keeps_the_numbers() -> None:
    assert [(m.data, m.seq) for m in lazy_of(*"abcde")[1:3]] == [("b", 11), ("c", 12)]
    assert list(lazy_of(*"ab")[5:]) == []


def test_no_message_that_was_taken_is_kept() -> None:
    """What is decoded is large; a read has hundreds."""
    origin = Origin("default", 3, 7, JsonCodec(), "type")
    alive = []
    for number, message in enumerate(LazyMessages(["x"] * 250, origin, 10, 5.0)):
        assert message.seq == 10 + number
        if number % (TOGETHER // 2) == 0 or number == 249:  # the look takes long
            alive.append(sum(isinstance(each, Message) for each in gc.get_referrers(origin)))
    assert max(alive) <= TOGETHER + 1
    assert alive[-1] <= 2


def test_whether_characters_are_bytes() -> None:
    """Where it is known, nothing is measured again; a slice of plain ones is plain."""
    assert lazy_of("abc", size=3).is_plain
    assert not lazy_of("abü", size=4).is_plain
    assert not lazy_of("abü").is_plain
    plain = lazy_of("abc", "d", size=4)
    assert plain.is_plain
    assert plain[:1].is_plain
    assert plain[:1].size == 3


def test_the_memory_of_a_slice_is_measured_without_encoding() -> None:
    """Encoding each text that isn't ASCII took a quarter of the time of a full inbox."""

    class Text(str):
        __slots__ = ()

        def encode(self, *args: object, **kwargs: object) -> bytes:
            raise AssertionError("encoded")

    texts = [Text("ü" * 50_000), Text("é" * 50_000)]
    slice_of_them = lazy_of(*texts, size=200_000)[:1]
    assert slice_of_them.memory == memory_bytes(texts[0])


@given(PAYLOADS, st.booleans(), st.integers(0, 8), st.integers(0, 8))
def test_sizes_add_up(payloads: list[str | bytes], known: bool, first: int, last: int) -> None:
    """Of the whole and of any slice, whether the reader has told the size or not."""
    size = sum(map(payload_bytes, payloads)) if known else None
    lazy = lazy_of(*payloads, size=size)
    for some, expected in [(lazy, payloads), (lazy[first:last], payloads[first:last])]:
        assert some.size == sum(map(payload_bytes, expected))
        assert some.memory == sum(map(memory_bytes, expected))
        assert len(some) == len(expected)
