"""Pings are answered, the latest at least; a peer that reads nothing makes nothing pile up."""

from __future__ import annotations

import pytest

from kit.rawsteps import CONTINUATION, PING, TEXT, Close, Frame
from kit.wire import Wire

from .test_fuzz_frames import pongs

FLOOD = 500


def ping(payload: object) -> bytes:
    return Frame(PING, str(payload)).data


def test_pings_are_answered_in_order() -> None:
    """In the middle of a fragmented message, too."""
    with Wire() as wire:
        wire.open(ping(1) + ping(2))
        wire.feed(Frame(TEXT, "a", fin=False).data + ping(3), Frame(CONTINUATION, "b").data)
    assert pongs(wire.sent) == [b"1", b"2", b"3"]
    assert wire.messages == ["ab"]


def test_of_many_in_one_read_the_latest_are_answered() -> None:
    """RFC 6455 section 5.5.3."""
    with Wire() as wire:
        wire.open(b"".join(map(ping, range(100))))
    assert pongs(wire.sent) == [str(n).encode() for n in range(84, 100)]


@pytest.mark.parametrize("payload", ["", "x" * 125])
def test_any_payload_comes_back(payload: str) -> None:
    with Wire() as wire:
        wire.open(ping(payload))
    assert pongs(wire.sent) == [payload.encode()]


def test_a_length_in_more_bytes_than_it_needs_is_no_way_around() -> None:
    with Wire() as wire:
        wire.open(b"\x89\x7e\x00\x011" * 99)
    assert pongs(wire.sent) == [b"1"] * 16


def test_at_most_one_waits() -> None:
    """A peer that reads nothing: once something is unsent no pong is added, and one follows it."""
    with Wire() as wire:
        wire.open()
        wire.is_stuck = True
        for n in range(FLOOD):
            wire.feed(ping("x" * 120 + str(n)))
        assert wire.engine.unsent == 2 + 4 + 121  # header, mask, the first's payload
        wire.drain()
        wire.end()
    assert [pong[120:] for pong in pongs(wire.sent)] == [b"0", str(FLOOD - 1).encode()]


def test_a_pong_goes_before_what_waits() -> None:
    """What is queued must not starve it: writing resumes behind the pong."""
    with Wire() as wire:
        wire.open()
        wire.is_stuck = True
        wire.do("write", [(True, b"data")])
        wire.feed(ping(1), ping(2))
        assert wire.events == ["paused"]
        wire.drain()
        assert wire.events == ["paused", "resumed"]
        assert pongs(wire.sent) == [b"2"]


def test_none_on_a_connection_that_is_lost() -> None:
    """asyncio would log each: the transport of the kit fails for any that is written."""
    with Wire() as wire:
        wire.open()
        wire.do("abort")
        wire.feed(*[ping(n) for n in range(9)])
        wire.do("ping", b"?")
        wire.do("write", [(True, b"data")])
    assert wire.sent == b""
    assert wire.escaped == []


def test_none_in_the_moment_of_the_loss() -> None:
    """The transport is closing, and the engine has not been told yet."""
    with Wire() as wire:
        wire.open()

        def lose_and_write() -> None:
            wire.engine.abort()
            wire.engine.ping(b"?")
            wire.engine.write([(True, b"data")])

        wire.call(lose_and_write)
    assert wire.sent == b""
    assert wire.escaped == []


def test_lost_while_one_waits() -> None:
    with Wire() as wire:
        wire.open()
        wire.is_stuck = True
        wire.feed(ping(1), ping(2))
        wire.end(ConnectionResetError())
        wire.drain()
    assert wire.escaped == []
    assert wire.end_seen is not None


def test_none_behind_a_close_frame() -> None:
    """RFC 6455 section 5.5.2."""
    with Wire() as wire:
        wire.open(ping(1) + Close(1000).data)
        sent = wire.sent
        wire.feed(ping(2))
    assert pongs(sent) == []
    assert wire.sent == sent


def test_still_answered_while_ours_is_on_its_way() -> None:
    with Wire() as wire:
        wire.open()
        wire.do("close", 1000, "")
        wire.feed(ping(1))
    assert pongs(wire.sent) == [b"1"]
