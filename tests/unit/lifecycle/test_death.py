"""The death of an internal part is a change of state, never silence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from datastream_ws import State
from datastream_ws.connection.connection import Connection
from datastream_ws.handling.dispatcher import Dispatcher
from datastream_ws.handling.hooks import ConnectionHooks
from datastream_ws.handling.inbox import Inbox
from datastream_ws.handling.runs import Runs
from datastream_ws.lifecycle.tenure import Tenure
from kit.offline import FakeLease, FakeRenewal, FakeSpool, Log, Story


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


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (ConnectionHooks, "has"),
        (Dispatcher, "drain"),
        (Connection, "close"),
        (ConnectionHooks, "finish"),
        (Inbox, "close"),
        (Dispatcher, "stop"),
        (FakeSpool, "close"),
        (Tenure, "release"),
    ],
)
def test_a_fault_amid_the_end_skips_no_other_step(
    tmp_path: Path, kind: type[object], method: str
) -> None:
    """The connection ends, the spool and the lease are released, and the client is FAILED."""
    lease, log = FakeLease(), Log()
    with Story(spool=str(tmp_path / "x"), lease=lease, logger=log, name="x") as story:

        @story.client.on_message
        async def handle(message: object) -> None:
            await asyncio.sleep(0.5)

        def broken(*arguments: object, **more: object) -> None:
            raise ZeroDivisionError("a bug of ours")

        story.begin()
        story.passes(1.0)
        story.happens(story.engine.deliver, "x")
        story.passes(0.1)
        story.patch.setattr(kind, method, broken)
        story.soon(story.client.close(5.0))
        with pytest.raises(ZeroDivisionError):
            story.call(story.client.wait_closed(5.0))
        story.patch.undo()
        assert story.told[-1] == "failed"
        assert story.world.open_engines == []
        assert story.spool.closed == (kind is not FakeSpool)
        assert lease.ended == (kind is not Tenure)
        assert any("internal error, please report it" in line for line in log.lines)
