"""Plans: what follows an outcome, and what resets the counts."""

from __future__ import annotations

from typing import Any

import pytest

from datastream_ws import (
    ClientOptions,
    HandshakeError,
    ReconnectError,
    SpoolError,
    StreamClosedError,
    UnauthorizedError,
)
from datastream_ws.connection.engine import Ended
from datastream_ws.lifecycle.plan import ASKED, Attempts, Outcome, Plan


def attempts(**options: Any) -> Attempts:
    options = {"max_reconnect_attempts": None, **options}
    return Attempts(ClientOptions(options.pop("url", "ws://localhost"), **options))


def closed(code: int, *, ready_for: float = 0.0, peer_fault: bool = False) -> Outcome:
    error = StreamClosedError(code)
    return Outcome(error, Ended(code, "", error, peer_fault), 1, ready_for)


def refused(status: int) -> Outcome:
    kind = UnauthorizedError if status in (401, 403) else HandshakeError
    return Outcome(kind("refused", status=status))


def is_retried(plan: Plan) -> bool:
    return not plan.is_last and plan.fatal is None


def test_what_is_asked_for_has_no_error() -> None:
    assert ASKED.error is None
    assert closed(1000).error is not None


# --- the counts --------------------------------------------------------------------------------


def test_exhausted_attempts_are_fatal() -> None:
    counting = attempts(max_reconnect_attempts=2)
    assert is_retried(counting.plan(refused(503)))
    assert counting.number == 2
    plan = counting.plan(refused(503))
    assert plan.is_last
    assert isinstance(plan.fatal, ReconnectError)
    assert plan.fatal.attempts == 2
    assert plan.fatal.__cause__ is not None
    assert "2 failed attempts" in str(plan.fatal)


def test_one_attempt_is_singular() -> None:
    plan = attempts(max_reconnect_attempts=1).plan(refused(503))
    assert "gave up after 1 failed attempt;" in str(plan.fatal)


def test_only_a_stable_connection_resets_the_counts() -> None:
    counting = attempts(stable_after=10.0)
    counting.plan(closed(1001))
    counting.plan(closed(1001, ready_for=9.9))
    assert counting.number == 3
    counting.plan(closed(1001, ready_for=10.0))
    assert counting.number == 1


def test_a_peer_that_broke_the_protocol_was_not_stable() -> None:
    counting = attempts(stable_after=10.0)
    counting.plan(closed(1002, ready_for=100.0, peer_fault=True))
    assert counting.number == 2


def test_fatal_delay_keeps_trying() -> None:
    counting = attempts(fatal_delay=100.0)
    plan = counting.plan(refused(404))
    assert not plan.is_last
    assert isinstance(plan.fatal, HandshakeError)
    assert 50.0 <= plan.delay <= 150.0


# --- close codes -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1008, 3000, 3500, 4001, 4003, 4401, 4403, 4500, 4999])
def test_a_fatal_code_before_ready_is_fatal_at_once(code: int) -> None:
    plan = attempts().plan(closed(code))
    assert plan.is_last
    assert isinstance(plan.fatal, StreamClosedError)


def test_a_fatal_code_must_come_twice_once_the_client_was_ready() -> None:
    """A server that restarts may close with any code; the first is counted and waited for."""
    counting = attempts()
    counting.ready()
    first = counting.plan(closed(4001))
    assert is_retried(first)
    assert first.delay >= 1.0
    assert counting.number == 2
    assert counting.plan(closed(1008)).is_last


def test_a_failed_dial_in_between_changes_nothing() -> None:
    counting = attempts()
    counting.ready()
    counting.plan(closed(4001))
    counting.plan(refused(503))
    assert counting.plan(closed(4001)).is_last


@pytest.mark.parametrize("between", [closed(1001), closed(1001, ready_for=60.0)])
def test_another_end_in_between_makes_it_the_first_again(between: Outcome) -> None:
    counting = attempts()
    counting.ready()
    counting.plan(closed(4001))
    counting.plan(between)
    assert is_retried(counting.plan(closed(4001)))


def test_a_stable_connection_makes_it_the_first_again() -> None:
    counting = attempts(stable_after=10.0)
    counting.ready()
    counting.plan(closed(4001))
    assert is_retried(counting.plan(closed(4001, ready_for=3600.0)))


@pytest.mark.parametrize(("code", "floor"), [(1012, 5.0), (1013, 10.0)])
def test_patient_codes_have_a_floor(code: int, floor: float) -> None:
    for _ in range(20):
        assert attempts().plan(closed(code)).delay >= floor


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_fatal_at_once(status: int) -> None:
    assert attempts().plan(refused(status)).is_last


@pytest.mark.parametrize("status", [401, 404])
def test_once_more_when_the_next_attempt_may_differ(status: int) -> None:
    counting = attempts(headers=dict)
    assert is_retried(counting.plan(refused(status)))
    assert counting.plan(refused(status)).is_last


def test_once_more_is_counted_anew_after_a_success() -> None:
    counting = attempts(url=lambda: "ws://localhost")
    counting.plan(refused(404))
    counting.opened()
    assert is_retried(counting.plan(refused(404)))


def test_each_url_of_a_list_is_asked() -> None:
    counting = attempts(url=["ws://a", "ws://b", "ws://c"])
    assert is_retried(counting.plan(refused(404)))
    assert is_retried(counting.plan(refused(410)))
    assert counting.plan(refused(404)).is_last


def test_a_url_that_may_work_later_keeps_the_list_alive() -> None:
    counting = attempts(url=["ws://a", "ws://b"])
    for _ in range(5):
        assert is_retried(counting.plan(refused(404)))
        assert is_retried(counting.plan(refused(502)))


# --- the user's retry --------------------------------------------------------------------------


def test_retry_decides_first() -> None:
    assert is_retried(attempts().plan(refused(404), decided=True))
    assert attempts().plan(closed(1001), decided=False).is_last


def test_what_a_hook_raised_is_judged_as_it_is() -> None:
    outcome = Outcome(LookupError("not logged in"), Ended(1000, "", None), 1)
    assert is_retried(attempts().plan(outcome))
    plan = attempts().plan(outcome, decided=False)
    assert isinstance(plan.fatal, LookupError)


# --- a list of URLs ----------------------------------------------------------------------------

TWO = ["ws://a", "ws://b"]


def test_every_failed_attempt_goes_on_to_the_next_url() -> None:
    counting = attempts(url=TWO, stable_after=10.0)
    numbers = []
    for outcome in (
        refused(503),
        closed(1001),
        Outcome(LookupError("a hook"), Ended(1000, "", None), 1),
        closed(1001, ready_for=9.9),
    ):
        counting.plan(outcome)
        numbers.append(counting.url_number)
    assert numbers == [1, 2, 3, 4]


def test_a_stable_connection_comes_back_to_its_url() -> None:
    counting = attempts(url=TWO, stable_after=10.0)
    counting.plan(closed(1001, ready_for=10.0))
    assert counting.url_number == 0


def test_a_spool_is_no_fault_of_a_url() -> None:
    counting = attempts(url=TWO)
    counting.plan(Outcome(SpoolError("locked")), decided=True)
    assert counting.url_number == 0


@pytest.mark.parametrize("second", [closed(4401), refused(404)])
def test_each_url_must_refuse_for_good(second: Outcome) -> None:
    counting = attempts(url=TWO)
    assert is_retried(counting.plan(closed(4401)))
    assert counting.plan(second).is_last


def test_a_url_that_refuses_beside_one_that_closes_for_good() -> None:
    counting = attempts(url=TWO)
    counting.plan(refused(404))
    counting.opened()
    assert is_retried(counting.plan(closed(4401)))
    assert counting.plan(refused(404)).is_last


@pytest.mark.parametrize("between", [refused(503), closed(1001)])
def test_a_url_that_may_come_back_is_waited_for(between: Outcome) -> None:
    counting = attempts(url=TWO)
    counting.plan(closed(4401))
    counting.plan(between)
    assert is_retried(counting.plan(closed(4401)))
