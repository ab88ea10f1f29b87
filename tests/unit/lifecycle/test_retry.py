"""How long to wait, and whether at all: the contract's "Retry or fail", without a network."""

from __future__ import annotations

import math
import random
import ssl
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws import (
    ConfigurationError,
    DataStreamError,
    HandlerError,
    HandshakeError,
    InboxOverflowError,
    NotConnectedError,
    ReconnectError,
    SendTimeoutError,
    StreamClosedError,
)
from datastream_ws.lifecycle.retry import Backoff, Verdict, judge

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOWEST = Backoff(uniform=lambda low, high: low)
HIGHEST = Backoff(uniform=lambda low, high: high)


def bounds(backoff: Backoff, n: int, verdict: Verdict | None = None) -> tuple[float, float]:
    """Return the shortest and the longest n-th wait."""
    low = Backoff(backoff.minimum, backoff.maximum, LOWEST.uniform)
    high = Backoff(backoff.minimum, backoff.maximum, HIGHEST.uniform)
    return low.delay(n, verdict), high.delay(n, verdict)


# --- how long ---------------------------------------------------------------------------------


@pytest.mark.fault("G16", "P15")
@pytest.mark.parametrize(
    ("minimum", "maximum"), [(1.0, 30.0), (0.2, 30.0), (0.001, 1e9), (7.0, 30.0), (3.0, 3.0)]
)
def test_envelope(minimum: float, maximum: float) -> None:
    """First [min, min(max, 5·min)], then [min, min(max, min·2ⁿ)]; no n overflows."""
    backoff = Backoff(minimum, maximum)
    assert bounds(backoff, 1) == (minimum, min(maximum, 5 * minimum))
    for n in range(2, 2001):
        exact = min(maximum, minimum * 2**n if n < 1000 else math.inf)
        assert bounds(backoff, n) == (minimum, exact), f"wait {n}"


def test_default_envelope() -> None:
    """With the default options, in seconds."""
    assert [bounds(Backoff(), n)[1] for n in (1, 2, 3, 4, 5, 6, 2000)] == [5, 4, 8, 16, 30, 30, 30]


@given(st.floats(0.001, 1e6), st.floats(1, 1e3), st.integers(1, 2000), st.integers())
def test_random_waits_lie_in_the_envelope(minimum: float, ratio: float, n: int, seed: int) -> None:
    """Whatever the options and the luck."""
    backoff = Backoff(minimum, minimum * ratio, random.Random(seed).uniform)
    low, high = bounds(backoff, n)
    assert low <= backoff.delay(n) <= math.nextafter(high, math.inf)


@pytest.mark.parametrize(
    ("code", "maximum", "expected"),
    [
        (1012, 30.0, (5.0, 30.0)),
        (1013, 30.0, (10.0, 30.0)),
        (1013, 300.0, (10.0, 60.0)),
        (1012, 3.0, (3.0, 3.0)),
        (1013, 8.0, (8.0, 8.0)),
        (1001, 30.0, (1.0, 5.0)),
    ],
)
def test_first_wait_after_close_code(
    code: int, maximum: float, expected: tuple[float, float]
) -> None:
    """1012 and 1013 ask for patience, within the longest back-off."""
    assert bounds(Backoff(1.0, maximum), 1, judge(StreamClosedError(code))) == expected


@pytest.mark.parametrize(
    ("asked", "n", "expected"),
    [
        (2.0, 1, (2.0, 6.25)),  # the back-off may be the larger one: 5 s
        (60.0, 1, (60.0, 75.0)),
        (300.0, 2000, (300.0, 375.0)),
        (1e9, 1, (300.0, 375.0)),
        (0.0, 1, (1.0, 6.25)),
    ],
)
def test_wait_after_retry_after(asked: float, n: int, expected: tuple[float, float]) -> None:
    """The larger of Retry-After and the back-off, plus up to a quarter."""
    verdict = judge(HandshakeError("busy", status=503, retry_after=asked))
    assert bounds(Backoff(), n, verdict) == expected


def test_slow_pace() -> None:
    """fatal_delay, ± 50 %."""
    assert (LOWEST.slow(300), HIGHEST.slow(300)) == (150, 450)


@pytest.mark.fault("G17")
def test_clients_dropped_together_disperse() -> None:
    """1,000 clients that lose their server at once: at most 60 of them dial in one 100 ms."""
    luck = random.Random(1)
    for n, allowed in [(1, 60), (3, 40), (8, 20)]:
        waits = [Backoff(uniform=luck.uniform).delay(n) for _ in range(1000)]
        slots = [int(10 * wait) for wait in waits]
        assert max(map(slots.count, slots)) <= allowed, f"wait {n}"


def test_luck_differs_by_default() -> None:
    """Nobody seeds it alike in two processes."""
    assert len({Backoff().delay(3) for _ in range(20)}) > 1


# --- Retry-After ------------------------------------------------------------------------------


# --- whether ----------------------------------------------------------------------------------

RETRIED_STATUSES = {408, 425, 429, *range(500, 600)}
FATAL_STATUSES = {101, *range(300, 400), *range(400, 500)} - RETRIED_STATUSES


@pytest.mark.parametrize("status", [*sorted(RETRIED_STATUSES | {200, 204}), None])
def test_retried_status(status: int | None) -> None:
    """408, 425, 429 and 5xx, and what is no answer of a WebSocket server at all."""
    assert judge(HandshakeError("no", status=status)).retry


@pytest.mark.parametrize("status", sorted(FATAL_STATUSES))
def test_fatal_status(status: int) -> None:
    """Other 4xx, a redirect not to be followed, an upgrade that breaks the protocol (101)."""
    assert not judge(HandshakeError("no", status=status)).retry


FATAL_CODES = {1008, 3000, 4001, 4003, 4401, 4403, *range(3500, 4000), *range(4500, 5000)}


def test_close_codes() -> None:
    """Every close code: fatal is what the contract lists, and nothing else."""
    codes = range(1000, 5000)
    assert {code for code in codes if not judge(StreamClosedError(code)).retry} == FATAL_CODES


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1006, 1007, 1009, 1011, 1012, 1013, 1014])
def test_retried_close_code(code: int) -> None:
    """The everyday ones, by name: a server restart must never end a client."""
    assert judge(StreamClosedError(code)).retry


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError("no route to host"), True),
        (EOFError(), True),
        (UnicodeError("host"), True),
        (RuntimeError("a callable of the user's"), True),
        (DataStreamError(), True),
        (NotConnectedError(), True),
        (SendTimeoutError(), True),
        (InboxOverflowError(), True),
        (HandlerError("on_ready failed", handler=None), True),
        (ssl.SSLError(), True),
        (ssl.SSLEOFError(), True),
        (ssl.SSLCertVerificationError(), False),
        (ConfigurationError("url: what the callable returned"), False),
        (ReconnectError("gave up", attempts=10), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_other_errors(error: Exception, retried: bool) -> None:
    """Trouble on the way is retried; what no attempt can change is not."""
    assert judge(error).retry is retried


def test_verdict_carries_what_the_server_asked_for() -> None:
    """Only an answer to the handshake has a Retry-After, only 1012 and 1013 a floor."""
    assert judge(HandshakeError("busy", status=429, retry_after=7.0)) == Verdict(True, 0.0, 7.0)
    assert judge(StreamClosedError(1013)) == Verdict(True, 10.0, None)
    assert judge(ConnectionResetError()) == Verdict(True)
