"""The death of an internal part is a change of state, never silence."""

from __future__ import annotations

import pytest

from datastream_ws import State
from datastream_ws.handling.runs import Runs
from kit.offline import FakeLease, FakeRenewal, Log, Story


@pytest.mark.fault("P14")
def test_a_worker_that_dies_fails_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the dispatcher ends the client with that error, once."""
    deaths: list[str] = []

    def broken(*arguments: object) -> None:
        deaths.append("a bug")
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(Runs, "run", broken)
    log = Log()
    with Story(logger=log) as story:
        story.start()
        story.engine.deliver("x")
        story.passes(5.0)
        with pytest.raises(ZeroDivisionError):
            story.call(story.client.wait_closed(5))
        assert story.client.state is State.FAILED
    assert deaths == ["a bug"]
    assert any("internal error, please report it" in line for line in log.lines)


def test_a_fault_in_acquiring_a_lease_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(renewal: FakeRenewal) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(FakeRenewal, "campaign", broken)
    with Story(lease=FakeLease(is_free=False), name="x") as story:
        story.start()
        story.passes(5.0)
        with pytest.raises(ZeroDivisionError):
            story.call(story.client.wait_closed(5))
        assert story.client.state is State.FAILED
        assert story.client.stats().attempts == 0
