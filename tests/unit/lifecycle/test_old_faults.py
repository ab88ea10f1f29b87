"""
Old faults, put back: a test must fail of each, or it has proved nothing.

Each fault is a patch of the product, and the test that finds it is named.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from datastream_ws import async_client
from datastream_ws.connection.connection import Connection
from datastream_ws.connection.subscriptions import SubscriptionFeed
from datastream_ws.connection.write_queue import WriteQueue
from datastream_ws.exceptions import HandlerError, NotConnectedError
from datastream_ws.handling.current import Handling
from datastream_ws.handling.deliver import deliver
from datastream_ws.handling.intake import Intake
from datastream_ws.lifecycle.machine import Lifecycle, _explained
from datastream_ws.lifecycle.plan import ASKED, Attempts, Outcome, Plan
from datastream_ws.process.futures import ErrorBuffer

UNIT = Path(__file__).parents[1]

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch], None]


def load(file: str) -> Any:
    """Return a test module, apart from the one that pytest has."""
    spec = importlib.util.spec_from_file_location(f"old_faults_{Path(file).stem}", UNIT / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the faults ----------------------------------------------------------------------------------


def pause_and_resume_leave_two_connections(patch: Patch) -> None:
    """Any word ends the serving, and whether to hang up is read from what is left of it."""
    leave = Lifecycle._leave

    async def first(self: Any, *things: Any, timeout: float | None = None) -> bool:
        await self.commands.changed.wait(*things, timeout=timeout)
        return not any(thing.done() for thing in things)

    async def forget(self: Any, connection: Any, failure: Any, ready_for: float) -> Outcome:
        if connection.end.done() or failure is not None or self._is_interrupted:
            return await leave(self, connection, failure, ready_for)
        self.connection = None
        return ASKED

    patch.setattr(Lifecycle, "_first", first)
    patch.setattr(Lifecycle, "_leave", forget)


def what_is_queued_is_progress(patch: Patch) -> None:
    put = WriteQueue.put

    def put_and_note(self: Any, *arguments: Any, **more: Any) -> None:
        put(self, *arguments, **more)
        self._moved_at = float("inf")

    patch.setattr(WriteQueue, "put", put_and_note)


def room_is_looked_for_outside_the_lock(patch: Patch) -> None:
    def room(self: Any, *, passes_gate: bool = False) -> Any:
        with self._lock:
            if not self._is_above_mark(passes_gate):
                return None
        future: Future[None] = Future()
        self._room.append(future)
        return future

    patch.setattr(WriteQueue, "room", room)


def hooks_wait_for_reports(patch: Patch) -> None:
    call_hooks = Lifecycle._call_hooks

    async def behind_reports(self: Any, *arguments: Any) -> Any:
        while (task := self.parts.reporter._reports._task) is not None:
            await asyncio.wait([task])
        return await call_hooks(self, *arguments)

    patch.setattr(Lifecycle, "_call_hooks", behind_reports)


def subscriptions_are_queued_at_once(patch: Patch) -> None:
    async def send_all(self: Any) -> None:
        while (item := self._next()) is not None:
            if (frame := await self._frame(item)) is not None:
                self._connection.send(frame)
        self._is_busy = False

    patch.setattr(SubscriptionFeed, "_send_waiting", send_all)


def a_hooks_failure_hides_the_close_code(patch: Patch) -> None:
    leave, first = Lifecycle._leave, Lifecycle._first

    async def hooks_first(self: Any, *things: Any, timeout: float | None = None) -> bool:
        return await first(self, *things[-1:], timeout=timeout)

    async def failure_first(self: Any, connection: Any, failure: Any, ready_for: float) -> Outcome:
        if failure is None or not connection.end.done():
            return await leave(self, connection, failure, ready_for)
        ended = self._note_end(connection)
        error, reported = _explained(failure)
        return Outcome(error, ended, connection.number, reported=reported)

    patch.setattr(Lifecycle, "_first", hooks_first)
    patch.setattr(Lifecycle, "_leave", failure_first)


def a_close_frame_is_not_the_end(patch: Patch) -> None:
    patch.setattr(Connection, "closing", lambda self, code, reason: None)


def what_a_handler_starts_is_the_handler(patch: Patch) -> None:
    def get(self: Any) -> object:
        found = self._variable.get()
        return None if found is None else found[0]

    patch.setattr(Handling, "get", get)


def subscriptions_are_told_before_the_first_round(patch: Patch) -> None:
    init = SubscriptionFeed.__init__

    def init_and_listen(self: Any, subscriptions: Any, *arguments: Any, **more: Any) -> None:
        init(self, subscriptions, *arguments, **more)
        subscriptions._feed = self

    patch.setattr(SubscriptionFeed, "__init__", init_and_listen)


def deliver_stops_at_the_first_failure(patch: Patch) -> None:
    async def stop(*arguments: Any, robust: bool = False, report: Any = None) -> None:
        try:
            await deliver(*arguments)
        except Exception as error:
            report(HandlerError(repr(error), handler=None))

    patch.setattr(async_client, "deliver", stop)


def replies_are_not_read_behind_a_full_inbox(patch: Patch) -> None:
    patch.setattr(Intake, "_read_on_for_requests", lambda self: None)
    patch.setattr(Intake, "_brake", lambda self: self._block())


def errors_pin_what_they_like(patch: Patch) -> None:
    patch.setattr(ErrorBuffer, "_is_over_limit", lambda self: len(self._errors) > self._size)


def a_state_that_lags_is_believed(patch: Patch) -> None:
    """send(wait=…) raises at once where the connection is over and the state is still READY."""

    async def wait(self: Any, wait: float) -> Any:
        if not self.state.is_connected:
            await asyncio.sleep(wait)
        return self._connection() or self._refuse()

    patch.setattr(async_client.AsyncClient, "_wait_connected", wait)


def _next_urls(patch: Patch, later: Callable[[int, int], int]) -> None:
    """Have *later* say which URL comes next, given the one before and the right one."""
    plan = Attempts.plan

    def plan_and_choose(self: Any, *arguments: Any, **more: Any) -> Plan:
        before = self.url_number
        planned = plan(self, *arguments, **more)
        self.url_number = later(before, self.url_number)
        return planned

    patch.setattr(Attempts, "plan", plan_and_choose)


def a_list_stays_at_its_first_url(patch: Patch) -> None:
    _next_urls(patch, lambda before, right: before)


def a_list_leaves_out_every_other_url(patch: Patch) -> None:
    _next_urls(patch, lambda before, right: 2 * right - before)


def a_list_leaves_a_url_that_was_stable(patch: Patch) -> None:
    _next_urls(patch, lambda before, right: before + 1)


MACHINE, CLOSING = "lifecycle/test_machine.py", "lifecycle/test_closing.py"
CONNECTION, QUEUE = "connection/test_connection.py", "connection/test_write_queue.py"

FOUND_BY: list[tuple[Fault, str, str]] = [
    (pause_and_resume_leave_two_connections, MACHINE,
     "test_pause_and_resume_back_to_back_leave_the_connection_alone"),
    (what_is_queued_is_progress, CONNECTION,
     "test_a_network_that_takes_nothing_is_given_up_however_much_is_queued"),
    (room_is_looked_for_outside_the_lock, QUEUE,
     "test_the_decision_and_the_waiting_list_are_one_step"),
    (hooks_wait_for_reports, MACHINE, "test_a_report_that_hangs_holds_up_nothing"),
    (subscriptions_are_queued_at_once, MACHINE,
     "test_more_subscriptions_than_fit_into_the_write_queue"),
    (a_hooks_failure_hides_the_close_code, MACHINE,
     "test_a_fatal_close_code_counts_though_a_hook_fails_on_it"),
    (a_close_frame_is_not_the_end, MACHINE, "test_a_peer_that_has_said_goodbye_and_lingers"),
    (a_state_that_lags_is_believed, MACHINE, "test_a_peer_that_has_said_goodbye_and_lingers"),
    (what_a_handler_starts_is_the_handler, CLOSING, "test_in_a_task_that_a_handler_has_started"),
    (subscriptions_are_told_before_the_first_round, MACHINE,
     "test_a_subscription_of_the_login_is_sent_once"),
    (deliver_stops_at_the_first_failure, MACHINE, "test_robust_delivery_goes_on"),
    (replies_are_not_read_behind_a_full_inbox, "handling/test_intake.py",
     "test_a_reply_is_read_behind_a_full_inbox"),
    (errors_pin_what_they_like, "process/test_futures.py",
     "test_payloads_that_errors_keep_in_memory_are_bounded"),
]  # fmt: skip


def run(test: Callable[[], Any]) -> None:
    made = test()
    if inspect.iscoroutine(made):
        asyncio.run(made)


@pytest.mark.leaks_allowed("a test that fails may leave what it likes")
@pytest.mark.parametrize(
    ("fault", "file", "name"), FOUND_BY, ids=[fault.__name__ for fault, _, _ in FOUND_BY]
)
def test_it_is_found(fault: Fault, file: str, name: str, monkeypatch: Patch) -> None:
    test = getattr(load(file), name)
    run(test)
    fault(monkeypatch)
    with pytest.raises((AssertionError, NotConnectedError)):
        run(test)


@pytest.mark.parametrize(
    "fault",
    [
        pause_and_resume_leave_two_connections,
        a_close_frame_is_not_the_end,
        subscriptions_are_told_before_the_first_round,
        hooks_wait_for_reports,
        a_list_stays_at_its_first_url,
        a_list_leaves_out_every_other_url,
        a_list_leaves_a_url_that_was_stable,
    ],
)
def test_the_orders_find_it(fault: Fault, monkeypatch: Patch) -> None:
    """Without anybody who knew what to look for."""
    machine: Any = load("lifecycle/test_orders.py").Orders
    fault(monkeypatch)
    hypothesis.seed(4 if fault is pause_and_resume_leave_two_connections else 2)(machine)
    settings = hypothesis.settings(
        max_examples=200,
        stateful_step_count=30,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # the first one will do
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=settings)
