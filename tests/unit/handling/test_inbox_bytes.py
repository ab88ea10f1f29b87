"""``inbox_bytes`` bounds what waiting messages take in memory, whatever they hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from datastream_ws import Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.inbox import Inbox
from datastream_ws.handling.lazy_messages import LazyMessages
from datastream_ws.messages import MESSAGE_BYTES, Origin

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")
LIMIT = 2**20
READ = 100  # messages of one read

ASTRAL = "\U0001f600"
PAYLOADS: dict[str, Callable[[int], str | bytes]] = {
    "empty": lambda n: "",
    "two bytes": lambda n: f"{n % 90 + 10}",
    "no text": lambda n: n.to_bytes(4, "big"),
    "a line": lambda n: f"{n:>60}",
    "Latin": lambda n: f"{n}é" + "x" * 50,
    "astral": lambda n: f"{n}{ASTRAL}" * 10,
    "one astral": lambda n: f"{n}{ASTRAL}" + "x" * 2000,
}


def one_by_one(payloads: list[str | bytes], seq: int) -> Sequence[Message]:
    return [Message(data, ORIGIN, seq + n, float(seq)) for n, data in enumerate(payloads)]


def at_once(payloads: list[str | bytes], seq: int) -> Sequence[Message]:
    return LazyMessages(payloads, ORIGIN, seq, float(seq))


@pytest.mark.parametrize(
    "options", [{}, {"conflate": lambda message: message.seq}], ids=["plain", "keyed"]
)
@pytest.mark.parametrize("made", [one_by_one, at_once])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_no_message_takes_more_than_it_counts(kind: str, made: Any, options: Any) -> None:
    """A full inbox without ``inbox_size`` takes about ``inbox_bytes``, not 37 times as much."""
    payload = PAYLOADS[kind]
    inbox = Inbox(size=None, size_bytes=LIMIT, **options)
    tracemalloc.start()
    try:
        seq = 1
        while True:
            put = inbox.put(made([payload(seq + n) for n in range(READ)], seq))
            seq += READ
            if put.full:
                break
            assert seq < LIMIT, "it is never full"
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    most = 4 * LIMIT if options else 2 * LIMIT  # keys are the user's, and have places
    assert taken < most


def test_what_went_in_comes_out_of_the_count() -> None:
    inbox = Inbox(size=None, size_bytes=LIMIT)
    for data in ("", "x", "é", ASTRAL, b"", "x" * 100 + ASTRAL):
        inbox.put([Message(data, ORIGIN, 1, 0.0)])
        inbox.put(LazyMessages([data, data], ORIGIN, 2, 0.0))
    while (message := inbox.pop()) is not None:
        inbox.done(message)
    assert inbox._bytes == 0


def test_empty_messages_fill_it() -> None:
    inbox = Inbox(size=None, size_bytes=3 * MESSAGE_BYTES)
    assert inbox.put(LazyMessages([""] * 5, ORIGIN, 1, 0.0)).taken == 3
