"""``SOURCE`` in ``DATASTREAMS``: one stream for each row, run, counted and judged as a whole."""

from __future__ import annotations

import re
import signal

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import override_settings
from django.utils import timezone

from datastream_ws import Client, Fleet, Message
from datastream_ws.embedding import describe
from datastream_ws.testing import StreamServer
from datastream_ws_django import datastreams, heartbeat, signals
from datastream_ws_django.checks import check_settings
from datastream_ws_django.control import Commands, ask
from datastream_ws_django.deadletters import retry
from datastream_ws_django.fleetpage import fleet_view
from datastream_ws_django.health import report
from datastream_ws_django.heartbeat import Heartbeat
from datastream_ws_django.lease import DatabaseLease
from datastream_ws_django.models import (
    FailedMessage,
    StreamCommand,
    StreamEvent,
    StreamLease,
    StreamStatus,
)
from datastream_ws_django.overview import cards
from datastream_ws_django.rows import REWRITE_SECONDS, FleetRows, Rows, write
from datastream_ws_django.testing import deliver
from kit.djangoproject import FAST, Project
from kit.djangoproject import database as database
from kit.seen import eventually

PATIENCE = 20.0
ROWS: dict[Any, Any] = {}
NOT_ROWS: list[Exception] = []


def accounts() -> dict[Any, Any]:
    """Return the rows of the test at hand, or raise what it wants."""
    for error in NOT_ROWS:
        raise error
    return dict(ROWS)


NOT_A_FUNCTION = 5
PATH = f"{__name__}.accounts"


@pytest.fixture
def server() -> Iterator[StreamServer]:
    ROWS.clear()
    with StreamServer() as server:
        yield server


def add(server: StreamServer, *keys: Any, token: str = "first") -> None:
    for key in keys:
        ROWS[key] = {"url": f"{server.url}/{key}", "headers": {"Authorization": token}}


@contextmanager
def settings(**fleet: Any) -> Iterator[None]:
    with override_settings(DATASTREAMS={"accounts": {"SOURCE": accounts, **FAST, **fleet}}):
        yield
        datastreams["accounts"].forget_client()


def all_ready(number: int) -> bool:
    stream = datastreams["accounts"]
    return len(stream) == number and all(stream[key].is_ready for key in list(stream))


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fleet", "text"),
    [
        ({"URL": "wss://x"}, "URL: must not be set, because each row of SOURCE has its own URL"),
        ({"SOURCE": 5}, "SOURCE: must be a function that returns {key: {"),
        ({"SOURCE": "accounts"}, "SOURCE: must be a function that returns {key: {"),
        ({"SOURCE": "no.such.module"}, "SOURCE: 'no.such.module' cannot be imported"),
        ({"SOURCE": f"{__name__}.NOT_A_FUNCTION"}, "SOURCE: must be a function"),
        ({"SOURCE": f"{__name__}.nothing"}, "SOURCE: "),
        ({"HEALTHY_SHARE": 0}, "HEALTHY_SHARE: must be a number above 0, and at most 1"),
        ({"HEALTHY_SHARE": "half"}, "HEALTHY_SHARE: must be a number"),
        ({"START_RATE": 50}, "START_RATE: must be"),
        ({"REFRESH": -1}, "REFRESH: must be"),
        ({"LIMIT": 0}, "LIMIT: must be"),
        (
            {"SPOOL": "/tmp/one"},
            "SPOOL: each stream requires its own file. Put {name} into the path.",
        ),
        ({"PONG_TIMEOUT": "x"}, "PONG_TIMEOUT: must be"),
        ({"HEALTHY": 1}, "Did you mean 'HEALTHY_SHARE'?"),
    ],
)
def test_wrong_settings_are_named(fleet: dict[str, Any], text: str) -> None:
    with override_settings(DATASTREAMS={"accounts": {"SOURCE": accounts, **fleet}}):
        [found] = [each for each in check_settings() if each.level >= 40]
        assert str(found.msg).startswith("DATASTREAMS['accounts']: ")
        assert text in str(found.msg)
        with pytest.raises(ImproperlyConfigured) as error:
            _ = datastreams["accounts"].client
        assert text in str(error.value)


@pytest.mark.parametrize("key", ["REFRESH", "START_RATE", "LIMIT", "HEALTHY_SHARE"])
def test_what_only_fleets_have_needs_a_source(key: str) -> None:
    with override_settings(DATASTREAMS={"accounts": {"URL": "wss://x", key: 1}}):
        [found] = [each for each in check_settings() if each.level >= 40]
    assert f"{key}: is only for a stream with SOURCE" in str(found.msg)


def test_right_settings_pass_and_arrive() -> None:
    fleet = {"SOURCE": PATH, "REFRESH": 5, "START_RATE": [7, 2.0], "LIMIT": 3, "MAX_SIZE": 99}
    with override_settings(DATASTREAMS={"accounts": fleet}):
        assert [each for each in check_settings() if each.level >= 40] == []
        made = datastreams["accounts"].fleet
        assert isinstance(made, Fleet)
        assert id(datastreams["accounts"].client) == id(made)
        assert (made._refresh, made._start_rate, made._limit) == (5, (7, 2.0), 3)
        assert (made.options.max_size, made.options.fatal_delay) == (99, 300)
        assert (made.name, made.options.max_reconnect_attempts) == ("accounts", None)
        assert made.handlers is datastreams["accounts"].handlers


# --- the stream object -----------------------------------------------------------------------


def test_it_is_the_fleet(server: StreamServer) -> None:
    stream = datastreams["accounts"]
    got: list[Any] = []

    @stream.on_message
    def note(message: Message) -> None:
        got.append((message.key, message.stream, stream.current is stream[message.key]))

    try:
        with settings():
            assert stream
            stream.start()
            eventually(lambda: stream.source_size == 0, PATIENCE)
            assert len(stream) == 0
            assert stream, "a fleet without streams is a stream still"
            add(server, 1, 2)
            stream.refresh()
            eventually(lambda: all_ready(2), PATIENCE)
            assert set(stream) == {1, 2}
            assert 1 in stream
            assert 3 not in stream
            assert isinstance(stream[1], Client)
            server.send({"n": 1})
            eventually(lambda: len(got) == 2, PATIENCE)
            assert sorted(got) == [(1, "accounts/1", True), (2, "accounts/2", True)]
            assert stream.stats().messages_received == 2
        eventually(lambda: all(each.closed.is_set() for each in server.connections), PATIENCE)
    finally:
        stream.handlers.remove(note)


def test_signals_say_which_stream(server: StreamServer) -> None:
    """Each of them; and those about the fleet as a whole have no key."""
    stream = datastreams["accounts"]
    got: list[tuple[str, Any, Any]] = []
    receivers: list[Any] = []

    def note(name: str) -> Any:
        def receive(sender: Any, *, key: Any, error: Any = None, **kwargs: Any) -> None:
            got.append((name, key, type(error).__name__))

        return receive

    async def note_async(sender: Any, *, key: Any, **kwargs: Any) -> None:
        got.append(("async", key, "NoneType"))

    kinds = ("connected", "ready", "disconnected", "error", "failed")
    for kind in kinds:
        receivers.append((getattr(signals, f"stream_{kind}"), note(kind)))
    receivers.append((signals.stream_disconnected, note_async))
    for each, receiver in receivers:
        each.connect(receiver, sender=stream)
    add(server, 1, 2)
    for row in ROWS.values():
        row |= {"max_reconnect_attempts": 1, "stable_after": 60.0}
    try:
        with settings(FATAL_DELAY=None, REFRESH=0.1):
            stream.start()
            eventually(lambda: all_ready(2), PATIENCE)
            server.close(1011)
            eventually(
                lambda: {("failed", key, "ReconnectError") for key in (1, 2)} <= {*got}, PATIENCE
            )
            NOT_ROWS.append(ValueError("no table"))
            eventually(lambda: ("error", None, "ValueError") in got, PATIENCE)
    finally:
        NOT_ROWS.clear()
        for each, receiver in receivers:
            each.disconnect(receiver, sender=stream)
    for kind in ("connected", "ready", "disconnected", "async"):
        assert {key for name, key, _ in got if name == kind} == {1, 2}


def test_a_row_opens_one_connection_and_a_token_replaces_one(server: StreamServer) -> None:
    add(server, *range(5))
    with settings():
        stream = datastreams["accounts"]
        stream.start()
        eventually(lambda: all_ready(5), PATIENCE)
        add(server, 5)
        stream.refresh()
        eventually(lambda: all_ready(6), PATIENCE)
        assert len(server.connections) == 6
        others = {key: stream[key] for key in (0, 1, 2, 4, 5)}
        add(server, 3, token="second")
        stream.refresh()
        server.wait_connected(7, PATIENCE)
        eventually(lambda: all_ready(6), PATIENCE)
        assert len(server.connections) == 7
        newest = server.connections[-1]
        assert (newest.path, newest.headers["Authorization"]) == ("/3", "second")
        assert {key: stream[key] for key in others} == others


def test_a_stream_without_a_source_is_none() -> None:
    with override_settings(DATASTREAMS={"accounts": {"URL": "ws://localhost:1"}}):
        for use in (list, len, lambda stream: stream[1], lambda stream: stream.refresh()):
            with pytest.raises(TypeError, match="not a fleet: it has no SOURCE"):
                use(datastreams["accounts"])


def test_one_stream_that_ends_leaves_the_async_orm_of_the_others(server: StreamServer) -> None:
    """They share the thread that asgiref keeps for it."""
    add(server, 1, 2)
    with settings():
        stream = datastreams["accounts"]
        stream.start()
        eventually(lambda: all_ready(2), PATIENCE)
        closed: list[str] = []
        stream.hygiene.close = lambda: closed.append("closed")  # type: ignore[method-assign]
        try:
            del ROWS[1]
            stream.refresh()
            eventually(lambda: len(stream) == 1, PATIENCE)
            assert closed == []
            stream.forget_client()
            assert closed == ["closed"]
        finally:
            del stream.hygiene.close


# --- messages without a server ---------------------------------------------------------------


def test_deliver_needs_the_key_and_hands_it_on() -> None:
    stream = datastreams["accounts"]
    got: list[Any] = []

    @stream.on_message("order")
    def note(message: Message) -> None:
        got.append((message.key, message.stream))

    try:
        with settings():
            deliver("accounts", {"type": "order"}, key=42)
            assert got == [(42, "accounts/42")]
            with pytest.raises(TypeError, match="Pass key="):
                deliver("accounts", {"type": "order"})
        with (
            override_settings(DATASTREAMS={"accounts": {"URL": "wss://x"}}),
            pytest.raises(TypeError, match="Leave out key"),
        ):
            deliver("accounts", {"type": "order"}, key=0)
    finally:
        stream.handlers.remove(note)


@pytest.mark.django_db
@pytest.mark.parametrize(("key", "again"), [(42, 42), ("shop a", "shop a"), (("x", 1), "('x', 1)")])
def test_a_failed_message_is_retried_with_its_key(key: Any, again: Any) -> None:
    stream = datastreams["accounts"]
    got: list[Any] = []

    @stream.on_message("order")
    def fail(message: Message) -> None:
        got.append(message.key)
        if len(got) == 1:
            raise RuntimeError("the first time")

    try:
        with settings():
            deliver("accounts", {"type": "order"}, robust=True, key=key)
            row = FailedMessage.objects.get()
            assert (row.stream, row.key) == ("accounts", again)
            assert retry([row]).handled == 1
            assert got == [key, again]
    finally:
        stream.handlers.remove(fail)


# --- status rows -----------------------------------------------------------------------------


def here() -> Any:
    return describe(datastreams["accounts"].client, timezone.now().timestamp())


@contextmanager
def statements() -> Iterator[list[str]]:
    found: list[str] = []

    def note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        found.append(str(sql).split()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield found


@pytest.mark.django_db
def test_one_statement_writes_all_rows_and_those_that_are_gone_are_removed(
    server: StreamServer,
) -> None:
    add(server, *range(20))
    with settings():
        fleet = datastreams["accounts"].fleet
        fleet.start()
        eventually(lambda: all_ready(20), PATIENCE)
        rows = Rows("here")
        of_fleet = FleetRows(fleet, rows)

        def beat(at: float) -> list[str]:
            health = describe(fleet, at)
            with statements() as found:
                write([rows.row(health, fleet.stats()), *of_fleet.due(at)])
            return [each for each in found if each not in ("SAVEPOINT", "RELEASE")]

        now = timezone.now().timestamp()
        beat(now)
        assert StreamStatus.objects.filter(fleet="accounts", state="ready").count() == 20
        whole = StreamStatus.objects.get(stream="accounts")
        assert (whole.fleet, whole.streams, whole.source_size) == ("", {"ready": 20}, 20)
        assert beat(now + 1) == ["INSERT"]
        beats = StreamStatus.objects.filter(fleet="accounts").values_list("beat_at", flat=True)
        assert set(beats) == {whole.beat_at}, "what is the same is not written again"
        assert beat(now + REWRITE_SECONDS) == ["INSERT"]
        assert min(beats.all()) > whole.beat_at + timedelta(seconds=REWRITE_SECONDS - 1)
        del ROWS[7]
        fleet.refresh()
        eventually(lambda: len(fleet) == 19, PATIENCE)
        beat(now + 20)
        assert not StreamStatus.objects.filter(stream="accounts/7").exists()
        assert StreamStatus.objects.filter(fleet="accounts").count() == 19
        fleet.close()
        beat(now + 25)
        assert list(StreamStatus.objects.values_list("stream", "state")) == [("accounts", "closed")]


@pytest.mark.django_db(transaction=True)
def test_rows_that_could_not_be_written_are_written_with_the_next_heartbeat(
    server: StreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when they change, or after 19 seconds: others take a row for stale after 30."""
    add(server, 1)
    tried = threading.Event()

    def fail(rows: Any) -> None:
        list(rows)
        tried.set()
        raise OperationalError("the connection is lost")

    with settings():
        fleet = datastreams["accounts"].fleet
        fleet.start()
        eventually(lambda: all_ready(1), PATIENCE)
        beating = Heartbeat([fleet])
        with monkeypatch.context() as patch:
            patch.setattr(heartbeat, "write", fail)
            beating.beat([here()])
            assert tried.wait(PATIENCE)
        beating.beat([here()])
        beating.close()
    states = StreamStatus.objects.order_by("stream").values_list("stream", "state")
    assert list(states) == [("accounts", "ready"), ("accounts/1", "ready")]


@pytest.mark.django_db
def test_a_row_tells_the_last_events_of_its_stream(server: StreamServer) -> None:
    add(server, 1)
    with settings():
        datastreams["accounts"].start()
        eventually(lambda: all_ready(1), PATIENCE)
        fleet = datastreams["accounts"].fleet
        [row] = FleetRows(fleet, Rows("here")).due(1.0)
        assert [kind for _, kind, _ in row.events] == ["connected", "ready"]


@pytest.mark.django_db
def test_rows_of_a_killed_process_are_removed(server: StreamServer) -> None:
    add(server, 1)
    old = timezone.now() - timedelta(minutes=11)
    known = {"fleet": "accounts", "state": "ready", "host": "killed", "pid": 1}
    StreamStatus.objects.create(stream="accounts/1", beat_at=old, **known)
    StreamStatus.objects.create(stream="accounts/2", beat_at=timezone.now(), **known)
    StreamStatus.objects.create(stream="other/1", beat_at=old, **known | {"fleet": "other"})
    with settings():
        list(FleetRows(datastreams["accounts"].fleet, Rows("here")).due(1.0))
    found = StreamStatus.objects.order_by("stream").values_list("stream", flat=True)
    assert list(found) == ["accounts/2", "other/1"]


@pytest.mark.django_db
def test_a_name_that_is_too_long_has_no_row(server: StreamServer) -> None:
    add(server, "x" * 250, 1)
    with settings():
        datastreams["accounts"].start()
        eventually(lambda: all_ready(2), PATIENCE)
        rows = FleetRows(datastreams["accounts"].fleet, Rows("here")).due(1.0)
        assert [row.stream for row in rows] == ["accounts/1"]


# --- health ----------------------------------------------------------------------------------


def process(pid: int, size: int | None = 40, age: float = 0.0, **streams: int) -> None:
    StreamStatus.objects.create(
        stream="accounts",
        host="somewhere",
        pid=pid,
        state="closed" if not streams and size else "ready",
        streams=streams,
        source_size=size,
        beat_at=timezone.now() - timedelta(seconds=age),
    )


@pytest.mark.django_db
def test_processes_are_judged_together() -> None:
    with settings():
        assert report(["accounts"])[0].state == "never started"
        process(1, ready=20)
        [found] = report(["accounts"])
        assert (found.state, found.is_healthy, found.is_live) == ("waiting", False, True)
        process(2, ready=18, connecting=2)
        [found] = report(["accounts"])
        assert (found.state, found.is_healthy) == ("ready", True)
        assert (found.streams, found.source_size) == ({"ready": 38, "connecting": 2}, 40)
        StreamStatus.objects.filter(pid=1).update(beat_at=timezone.now() - timedelta(minutes=5))
        [found] = report(["accounts"], details=False)
        assert (found.state, found.is_healthy) == ("connecting", False)
    with settings(HEALTHY_SHARE=0.4):
        assert report(["accounts"])[0].is_healthy


@pytest.mark.django_db
def test_a_fleet_is_amber_for_half_a_minute_then_red() -> None:
    for pid, state, streams in ((1, "ready", {"ready": 20}), (2, "waiting", {"waiting": 20})):
        process(pid, **streams)
        StreamStatus.objects.filter(pid=pid).update(state=state)

    def tone_after(seconds: float) -> str:
        since = timezone.now() - timedelta(seconds=seconds)
        StreamStatus.objects.filter(pid=2).update(state_since=since)
        return cards(["accounts"])[0].tone

    with settings():
        assert [tone_after(2), tone_after(31)] == ["warning", "unwell"]
        StreamStatus.objects.filter(pid=2).delete()
        assert cards(["accounts"])[0].tone == "unwell", "nothing reconnects: half of it is missing"


@pytest.mark.django_db
def test_what_a_killed_process_had_is_not_counted_twice() -> None:
    """It reports for half a minute more, and others have its streams by then."""
    process(1, 50, ready=50)
    process(2, 50, age=20.0, ready=25)
    living = list(StreamStatus.objects.order_by("-beat_at"))
    with settings():
        [found] = report(["accounts"])
        assert (found.streams, found.is_healthy) == ({"ready": 50}, True)
        assert fleet_view("accounts", living).counts == [("ready", 50)]


@pytest.mark.django_db
def test_a_fleet_nobody_runs_any_more_is_stale() -> None:
    process(1, age=300.0, ready=40)
    with settings():
        [found] = report(["accounts"])
    assert (found.state, found.is_live, found.is_healthy) == ("stale", False, False)


@pytest.mark.django_db
def test_a_source_that_has_not_answered_is_not_healthy() -> None:
    process(1, None)
    with settings():
        [found] = report(["accounts"])
    assert (found.state, found.is_live, found.is_healthy) == ("connecting", True, False)


@pytest.mark.django_db
@pytest.mark.parametrize("ready", [19, 18])
def test_status_says_how_many_and_exits_accordingly(ready: int) -> None:
    process(1, 20, ready=ready, waiting=20 - ready)
    out = StringIO()
    with settings():
        if ready == 19:
            call_command("datastream_status", "accounts", stdout=out)
        else:
            with pytest.raises(SystemExit) as ended:
                call_command("datastream_status", "accounts", stdout=out)
            assert ended.value.code == 1
    assert f"{ready} ready, {20 - ready} waiting; rows in the source: 20" in out.getvalue()


@pytest.mark.django_db
def test_status_of_one_stream() -> None:
    StreamStatus.objects.create(
        stream="accounts/42", fleet="accounts", host="a", pid=1, state="ready",
        beat_at=timezone.now(), messages_handled=7,
    )  # fmt: skip
    out = StringIO()
    with settings():
        call_command("datastream_status", "accounts", "--key", "42", stdout=out)
        with pytest.raises(SystemExit):
            call_command("datastream_status", "accounts", "--key", "43", stdout=StringIO())
    line = out.getvalue().splitlines()[1]
    assert re.match(r"accounts/42  ready +-  a/1 +0 s .* 7 ", line), line
    with override_settings(DATASTREAMS={"feed": {"URL": "wss://x"}}), pytest.raises(CommandError):
        call_command("datastream_status", "feed", "--key", "1")


# --- the admin -------------------------------------------------------------------------------


def row(key: str, state: str, age: float = 0.0, pid: int = 1) -> None:
    StreamStatus.objects.create(
        stream=f"accounts/{key}",
        fleet="accounts",
        host="somewhere",
        pid=pid,
        state=state,
        beat_at=timezone.now() - timedelta(seconds=age),
        events=[[1.0, "lost", "by the server"], [2.0, "ready", ""]],
    )


@pytest.mark.django_db
def test_the_worst_come_first_and_what_has_moved_is_shown_once() -> None:
    for key in ("a", "b", "moved"):
        row(key, "ready")
    row("moved", "ready", age=100.0, pid=2)
    row("lost", "ready", age=100.0, pid=2)
    row("waits", "waiting")
    row("dead", "failed")
    process(1, 7, ready=3, waiting=1, failed=1)
    living = list(StreamStatus.objects.filter(stream="accounts"))
    found = fleet_view("accounts", living)
    shown = [(line.key, line.state) for line in found.streams]
    assert sorted(shown[:2]) == [("dead", "failed"), ("lost", "stale")]
    assert shown[2:] == [("waits", "waiting"), ("a", "ready"), ("b", "ready"), ("moved", "ready")]
    assert found.counts == [("ready", 3), ("not running", 2), ("failed", 1), ("waiting", 1)]
    assert [line.key for line in fleet_view("accounts", living, "OV").streams] == ["moved"]
    assert fleet_view("accounts", living, "acc\0").found == 0, "the fleet's name is no key"


@pytest.mark.django_db
def test_pages_of_a_fleet_and_of_its_streams(admin_client: Any) -> None:
    process(1, 2, ready=1, waiting=1)
    row("a", "ready")
    row("b", "waiting")
    StreamLease.objects.create(stream="accounts", epoch=12)
    live = "/admin/datastream/streamstatus/live/"
    with settings():
        overview = admin_client.get("/admin/datastream/streamstatus/").content.decode()
        assert "1 ready, 1 waiting; 2 in the source" in overview
        assert "too few streams are ready" in overview
        assert overview.count("<h2>") == 1, "streams of a fleet have no card"
        whole = admin_client.get(f"{live}accounts/").content.decode()
        assert "Lease" not in overview + whole, "nobody holds that of a fleet as a whole"
        listed = admin_client.get("/admin/datastream/streamstatus/processes/").content.decode()
        assert "/live/accounts/" in listed
        assert "accounts/a" not in listed, "neither a row nor a choice of the filter"
        page = admin_client.get(f"{live}accounts/?q=b").content.decode()
        assert "/live/accounts/b/" in page
        assert "/live/accounts/a/" not in page
        page = admin_client.get(f"{live}accounts/a/").content.decode()
        assert "by the server" in page
        assert "somewhere, process" in page
        assert "ask/reconnect/accounts/a/" in page
        assert "ask/pause/accounts/a/" not in page
        ask_url = "/admin/datastream/streamstatus/ask/"
        assert admin_client.get(f"{ask_url}pause/accounts/a/").status_code == 404
        assert admin_client.post(f"{ask_url}reconnect/accounts/a/").status_code == 302
        assert StreamCommand.objects.get().stream == "accounts/a"
        assert admin_client.get(f"{live}accounts/none/").status_code == 404


# --- commands --------------------------------------------------------------------------------


@pytest.mark.django_db
def test_commands_reach_the_fleet_or_one_stream(server: StreamServer) -> None:
    add(server, 1, 2)
    with settings():
        fleet = datastreams["accounts"].fleet
        commands = Commands([fleet], "here")
        fleet.start()
        eventually(lambda: all_ready(2), PATIENCE)
        commands.obey()
        ask("accounts", "reconnect", "ann", "2")
        ask("accounts", "reconnect", "ann", "9")
        ask("accounting", "pause", "ann")
        commands.obey()
        server.wait_connected(3, PATIENCE)
        assert server.connections[-1].path == "/2"
        eventually(lambda: all_ready(2), PATIENCE)
        obeyed = StreamCommand.objects.exclude(obeyed_at=None).values_list("stream", flat=True)
        assert list(obeyed) == ["accounts/2"]
        ask("accounts", "pause", "ann")
        commands.obey()
        eventually(lambda: {state.value for state in fleet.counts()} == {"paused"}, PATIENCE)
        with pytest.raises(ValueError, match="Only reconnect"):
            ask("accounts", "pause", "ann", "2")


@pytest.mark.django_db
def test_control_refuses_a_key_that_makes_no_sense() -> None:
    with settings():
        with pytest.raises(CommandError, match="pause is for the whole fleet"):
            call_command("datastream_control", "pause", "accounts", "42")
        with pytest.raises(CommandError, match="No process runs"):
            call_command("datastream_control", "reconnect", "accounts", "42")
    with (
        override_settings(DATASTREAMS={"feed": {"URL": "wss://x"}}),
        pytest.raises(CommandError, match="no SOURCE"),
    ):
        call_command("datastream_control", "reconnect", "feed", "42")
    assert StreamCommand.objects.count() == 0


# --- processes -------------------------------------------------------------------------------


def project_of(folder: Path, database: str, source: str = "shop.accounts.accounts") -> Project:
    fleet = {"SOURCE": source, "REFRESH": 0.2, **FAST}
    project = Project(
        folder,
        database=database,
        HANDLER="accounts",
        DATASTREAMS=json.dumps({"accounts": fleet}),
    )
    project.manage("migrate")
    return project


def create(project: Project, url: str, *keys: int) -> None:
    rows = ", ".join(f"({key}, '{url}/{key}', 'first')" for key in keys)
    change(project, f"INSERT INTO shop_account (id, url, token) VALUES {rows}")


def change(project: Project, sql: str) -> None:
    """Run a statement, past Django."""
    if project.database:
        import psycopg

        with psycopg.connect(project.database, autocommit=True) as postgresql:
            postgresql.execute(sql.encode())
        return
    import sqlite3

    with sqlite3.connect(project.folder / "db.sqlite3", timeout=60) as sqlite:
        sqlite.execute(sql)
    sqlite.close()


def rows_of(project: Project) -> list[Any]:
    return project.query(
        "SELECT stream FROM datastream_streamstatus WHERE fleet = 'accounts' AND state = 'ready'"
        " ORDER BY stream"
    )


@pytest.mark.parametrize("source", ["accounts", "accounts_async"])
def test_the_table_is_what_runs(
    tmp_path: Path, database: str, server: StreamServer, source: str
) -> None:
    project = project_of(tmp_path, database, f"shop.accounts.{source}")
    create(project, server.url, 1, 2, 3)
    with project.start("run_datastream", "accounts") as runner:
        server.wait_connected(3, 60)
        runner.wait_for(lambda: len(rows_of(project)) == 3, "three rows")
        shown = project.manage("datastream_status", "accounts")
        assert re.search(
            r"(?m)^accounts  ready .*\n  streams: 3 ready; rows in the source: 3$", shown
        )
        create(project, server.url, 4)
        server.wait_connected(4, 60)
        change(project, "DELETE FROM shop_account WHERE id = 2")
        gone = ["accounts/1", "accounts/3", "accounts/4"]
        runner.wait_for(lambda: rows_of(project) == gone, "the row's end")
        server.send({"type": "number", "n": 5})
        runner.wait_for(lambda: sorted(project.numbers()) == [1005, 3005, 4005], "messages")
        project.manage("datastream_control", "reconnect", "accounts", "3", "--wait", "30")
        server.wait_connected(5, 60)
        assert server.connections[-1].path == "/3"
        runner.terminate()
        assert runner.wait() == 0
    assert rows_of(project) == []
    assert project.query("SELECT stream, state FROM datastream_streamstatus") == [
        ("accounts", "closed")
    ]


def shares(project: Project) -> dict[int, int]:
    """Return how many streams are ready in each process that reports."""
    rows = project.query(
        "SELECT pid, count(*) FROM datastream_streamstatus"
        " WHERE fleet = 'accounts' AND state = 'ready' GROUP BY pid"
    )
    return {pid: number for pid, number in rows}


@pytest.mark.timeout(240)
def test_two_runners_share_the_rows(tmp_path: Path, database: str, server: StreamServer) -> None:
    """Each stream runs in one of them; those of a killed one run in the other."""
    project = project_of(tmp_path, database)
    streams = json.loads(project.env["DATASTREAMS"])
    streams["accounts"] |= {"LEASE": "database", "LEASE_TTL": 4.0}
    project.env["DATASTREAMS"] = json.dumps(streams)
    create(project, server.url, *range(1, 13))
    with project.start("run_datastream", "accounts") as one:
        server.wait_connected(12, 60)
        with project.start("run_datastream", "accounts") as two:
            both = {one.pid: 6, two.pid: 6}
            two.wait_for(lambda: shares(project) == both, "half of the streams")
            assert len(open_paths(server)) == 12
            status = project.manage("datastream_status", "accounts")
            assert "streams: 12 ready; rows in the source: 12" in status
            two.wait_for(
                lambda: (
                    project.manage("datastream_status", "accounts").count("\n  streams: 6 ready\n")
                    == 2
                ),
                "the share of each process",
            )
            one.send_signal(signal.SIGKILL)
            two.wait_for(lambda: shares(project).get(two.pid) == 12, "the streams of the other")
            assert len(open_paths(server)) == 12
            server.send({"type": "number", "n": 1})
            wanted = [key * 1000 + 1 for key in range(1, 13)]
            two.wait_for(lambda: sorted(project.numbers()) == wanted, "a message of each")
            status = project.manage("datastream_status", "accounts", "--json")
            [found] = json.loads(status)["streams"]
            assert (found["is_healthy"], found["source_size"]) == (True, 12)
            two.terminate()
            assert two.wait() == 0


def open_paths(server: StreamServer) -> set[str]:
    """Return what is connected; a stream that is connected twice fails the test."""
    paths = [each.path for each in server.connections if not each.closed.is_set()]
    assert len(set(paths)) == len(paths)
    return set(paths)


def test_exactly_so_many_messages(tmp_path: Path, server: StreamServer) -> None:
    project = project_of(tmp_path, "")
    create(project, server.url, 1, 2, 3)
    with project.start("run_datastream", "--max-messages", "4") as runner:
        server.wait_connected(3, 60)
        server.send({"type": "number", "n": 1})
        server.send({"type": "number", "n": 2})
        assert runner.wait() == 0
    assert len(project.numbers()) == 4


@pytest.mark.django_db
def test_what_is_beyond_the_limit_is_in_the_event_log(server: StreamServer) -> None:
    add(server, 1, 2, 3)
    with settings(LIMIT=2):
        fleet = datastreams["accounts"].fleet
        fleet.start()
        eventually(lambda: fleet.stats().streams_beyond_limit == 1, PATIENCE)
        heartbeat = Heartbeat([fleet])
        try:
            heartbeat._write_history([describe(fleet, timezone.now().timestamp())])
        finally:
            heartbeat.close(PATIENCE)
        [event] = StreamEvent.objects.filter(stream="accounts", kind="limit")
        assert event.text.startswith("1 stream runs in no process, because ")


@pytest.mark.django_db
def test_a_heartbeat_of_a_fleet_and_a_stream_is_one_statement(server: StreamServer) -> None:
    add(server, 1, 2)
    both = {"accounts": {"SOURCE": accounts, **FAST}, "feed": {"URL": server.url, **FAST}}
    with override_settings(DATASTREAMS=both):
        clients = [datastreams["accounts"].client, datastreams["feed"].client]
        datastreams["accounts"].start()
        eventually(lambda: all_ready(2), PATIENCE)
        heartbeat = Heartbeat(clients)
        try:
            healths = [describe(client, timezone.now().timestamp()) for client in clients]
            heartbeat._write(healths)
            with statements() as found:
                heartbeat._write(healths)
            assert [each for each in found if each not in ("SAVEPOINT", "RELEASE")] == ["INSERT"]
            names = StreamStatus.objects.order_by("stream").values_list("stream", flat=True)
            assert list(names) == ["accounts", "accounts/1", "accounts/2", "feed"]
        finally:
            heartbeat.close(10)
            datastreams.forget_clients()


def test_lease_database_shares_a_fleet(server: StreamServer) -> None:
    with settings(LEASE="database"):
        lease = datastreams["accounts"].fleet.options.lease
        assert isinstance(lease, DatabaseLease)
