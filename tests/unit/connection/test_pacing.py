"""send_rate: at most so many messages in any window of so many seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datastream_ws.connection.pacing import Pacing

SENT_AT = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60)


def test_a_burst_and_then_one_after_another() -> None:
    pacing = Pacing(2, 1.0)
    assert (pacing.allowance(0.0), pacing.due(0.0)) == (2, 0.0)
    pacing.sent(1, 0.0)
    pacing.sent(1, 0.5)
    assert pacing.allowance(0.9) == 0
    assert 1.0 < pacing.due(0.9) < 1.1  # a network may bring them closer together
    assert pacing.allowance(1.1) == 1
    pacing.sent(1, 1.1)
    assert 1.5 < pacing.due(1.1) < 1.6


@given(st.integers(1, 5), st.floats(0.01, 10.0), SENT_AT)
def test_no_window_has_more(messages: int, seconds: float, waits: list[float]) -> None:
    """Whoever sends when it is due never sends one more than *messages* in *seconds*."""
    pacing, now, sent = Pacing(messages, seconds), 0.0, list[float]()
    for wait in waits:
        now = max(now + wait, pacing.due(now))
        assert pacing.allowance(now) >= 1
        pacing.sent(1, now)
        sent.append(now)
    for first, beyond in zip(sent, sent[messages:], strict=False):
        assert beyond - first > seconds


def test_messages_of_an_earlier_window_are_forgotten() -> None:
    """Counting them cost 40 ms for each message if a million were allowed in an hour."""
    pacing = Pacing(1000, 1.0)
    pacing.sent(1000, 0.0)
    assert pacing.allowance(0.5) == 0
    assert pacing.allowance(2.0) == 1000
    assert len(pacing._sent_at) == 0
    assert pacing.due(2.0) == 2.0
