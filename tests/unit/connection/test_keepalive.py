"""Keepalive: when to ping, and when silence is death."""

from __future__ import annotations

import pytest

from datastream_ws import StreamClosedError
from datastream_ws.connection.keepalive import Keepalive
from datastream_ws.connection.write_queue import NEVER


class Rig:
    def __init__(
        self,
        *,
        ping_interval: float | None = None,
        pong_timeout: float | None = None,
        idle_timeout: float | None = None,
    ) -> None:
        self.pings: list[bytes] = []
        self.keepalive = Keepalive(
            ping_interval=ping_interval,
            pong_timeout=pong_timeout,
            idle_timeout=idle_timeout,
            ping=self.pings.append,
            now=0.0,
        )
        self.check = self.keepalive.check


def test_nothing_is_due_without_limits() -> None:
    assert Rig().check(1e6) == NEVER


def test_a_ping_each_interval() -> None:
    rig = Rig(ping_interval=5.0)
    assert rig.check(4.9) == 5.0
    assert rig.pings == []
    assert rig.check(5.0) == 10.0
    assert rig.check(7.0) == 10.0
    assert len(rig.pings) == 1
    rig.check(10.0)
    assert len(set(rig.pings)) == 2


def test_the_round_trip_of_the_latest_ping_only() -> None:
    rig = Rig(ping_interval=5.0)
    rig.check(5.0)
    rig.check(10.0)
    first, second = rig.pings
    assert rig.keepalive.pong(first, 10.5) is None
    assert rig.keepalive.pong(second, 10.5) == 0.5


def test_a_pong_without_a_ping_is_no_round_trip() -> None:
    """RFC 6455 section 5.5.3: a server may send pongs as a heartbeat, mostly empty ones."""
    rig = Rig(ping_interval=5.0)
    assert rig.keepalive.pong(b"", 3.0) is None
    rig.check(5.0)
    assert rig.keepalive.pong(rig.pings[0], 5.5) == 0.5
    assert rig.keepalive.pong(rig.pings[0], 9.0) is None, "the same pong once more"


def test_silence_is_death() -> None:
    rig = Rig(pong_timeout=60.0)
    assert rig.check(59.9) == 60.0
    with pytest.raises(StreamClosedError, match="nothing received for 60 s"):
        rig.check(60.0)


def test_any_byte_proves_life() -> None:
    rig = Rig(pong_timeout=60.0)
    rig.keepalive.heard(59.0)
    assert rig.check(100.0) == 119.0


def test_nothing_is_judged_while_reading_is_paused() -> None:
    """What the peer sends waits unread; it has its whole time again afterwards."""
    rig = Rig(ping_interval=50.0, pong_timeout=60.0, idle_timeout=10.0)
    rig.keepalive.ready(0.0)
    rig.keepalive.paused()
    assert rig.check(1000.0) == 1050.0
    assert len(rig.pings) == 1
    rig.keepalive.resumed(1000.0)
    assert rig.check(1001.0) == 1010.0


def test_no_message_while_ready() -> None:
    """Pongs do not count, and before READY nothing is expected."""
    rig = Rig(idle_timeout=10.0)
    rig.keepalive.message(1.0)
    assert rig.check(100.0) == NEVER
    rig.keepalive.ready(100.0)
    rig.keepalive.heard(109.0)
    assert rig.check(109.0) == 110.0
    rig.keepalive.message(109.5)
    assert rig.check(110.0) == 119.5
    with pytest.raises(StreamClosedError, match="no message received for 10 s"):
        rig.check(119.5)


def test_the_handshake_counts_as_a_sign_of_life() -> None:
    rig = Rig(pong_timeout=60.0)
    rig.keepalive.opened(50.0)
    assert rig.check(60.0) == 110.0
