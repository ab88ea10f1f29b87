"""Commands from another process, the history of minutes, and the event log."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import json
import random
import sys
import uuid
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.models import F
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from datastream_ws import Client, Fleet
from datastream_ws.embedding import StreamHealth
from datastream_ws.testing import StreamServer
from datastream_ws_django import control, history
from datastream_ws_django.control import Commands, ask
from datastream_ws_django.heartbeat import Heartbeat, Others
from datastream_ws_django.history import EventLog, History, Trend
from datastream_ws_django.models import StreamCommand, StreamEvent, StreamMinute, StreamStatus
from kit.djangoproject import Project
from kit.djangoproject import database as database
from kit.seen import eventually

pytestmark = pytest.mark.django_db

SETTING = {"feed": {"URL": "ws://127.0.0.1:1/"}}
NOON = 60.0 * 28_000_000  # UNIX time at which a minute begins


def health(at: float, state: str = "ready", **values: Any) -> StreamHealth:
    zeros: dict[str, Any] = {
        name: 0
        for name in (
            *("messages_received", "messages_handled", "messages_failed", "messages_dropped"),
            *("messages_waiting", "messages_spooled", "reconnects", "pid"),
        )
    }
    nothing = {"connected_since": None, "last_message_at": None, "last_error": None}
    return StreamHealth(name="feed", state=state, at=at, **zeros | nothing | values)


class FakeClient:
    """Notes the verbs; a client of a stream that was started."""

    name = "feed"
    state = SimpleNamespace(value="ready")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, verb: str) -> Any:
        return lambda: self.asked.append(verb)


def fail(*_: object) -> None:
    raise OperationalError("the connection is lost")


def commands() -> tuple[FakeClient, Commands]:
    client = FakeClient()
    return client, Commands([client], "here")  # type: ignore[list-item]


def test_each_command_is_obeyed_once_by_each_process() -> None:
    (one, first), (other, second) = commands(), commands()
    first.obey()
    second.obey()
    ask("feed", "reconnect", "root")
    ask("elsewhere", "pause", "root")
    first.obey()
    ask("feed", "pause", "root")
    for _ in range(3):
        first.obey()
        second.obey()
    assert one.asked == other.asked == ["reconnect", "pause"]


def test_a_row_that_is_committed_late_is_obeyed() -> None:
    """PostgreSQL numbers rows before they are committed."""
    client, reader = commands()
    late = ask("feed", "reconnect", "root")
    StreamCommand.objects.filter(pk=late.pk).delete()
    reader.obey()
    ask("feed", "pause", "root")
    reader.obey()
    late.save(force_insert=True)
    reader.obey()
    assert client.asked == ["pause", "reconnect"]


def test_a_pause_stands_for_processes_that_start_later() -> None:
    ask("feed", "pause", "root")
    ask("feed", "reconnect", "root")
    client, reader = commands()
    reader.obey()
    assert client.asked == ["pause"]
    ask("feed", "resume", "root")
    reader.obey()
    fresh, other = commands()
    other.obey()
    assert client.asked == ["pause", "resume"]
    assert fresh.asked == []


def test_a_command_is_not_repeated_because_its_note_was_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, reader = commands()
    reader.obey()
    ask("feed", "reconnect", "root")
    ask("feed", "pause", "root")
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_note", fail)
        with pytest.raises(OperationalError):
            reader.obey()
    for _ in range(2):
        reader.obey()
    assert client.asked == ["reconnect", "pause"]


def test_a_pause_is_found_although_the_first_look_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    ask("feed", "pause", "root")
    client, reader = commands()
    with monkeypatch.context() as patch:
        patch.setattr(control, "standing_pauses", fail)
        with pytest.raises(OperationalError):
            reader.obey()
    reader.obey()
    assert client.asked == ["pause"]


def test_a_command_for_a_fleet_of_almost_this_name_is_not_ours() -> None:
    """SQLite's LIKE does not tell upper from lower case."""
    reader = Commands([Fleet(dict, name="feed")], "here")
    reader.obey()
    ask("Feed/5", "reconnect", "root")
    reader.obey()
    assert not StreamCommand.objects.exclude(obeyed_at=None).exists()


def test_who_asked_and_who_obeyed_is_in_the_event_log() -> None:
    _, reader = commands()
    reader.obey()
    ask("feed", "pause", "ann")
    reader.obey()
    texts = [event.text for event in StreamEvent.objects.order_by("pk")]
    assert texts == ["pause requested by ann", "pause carried out; requested by ann"]
    command = StreamCommand.objects.get()
    assert command.obeyed_by == "here"
    assert command.obeyed_at is not None


def test_old_rows_go_and_a_pause_that_stands_stays() -> None:
    for verb in ("pause", "resume", "pause"):
        ask("feed", verb, "root")
    ask("other", "reconnect", "root")
    old = timezone.now() - timedelta(days=8)
    StreamCommand.objects.update(asked_at=old)
    StreamEvent.objects.update(at=old)
    row = {"received": 1, "handled": 1, "failed": 0, "waiting": 0, "reconnects": 0, "connected": 60}
    for days in (0, 6, 8):
        minute = int((timezone.now() - timedelta(days=days)).timestamp() // 60)
        StreamMinute.objects.create(stream="feed", minute=minute, run=1, **row)
    ask("new", "pause", "root")
    control.prune()
    history.prune()
    kept = StreamCommand.objects.order_by("pk").values_list("stream", "verb")
    assert list(kept) == [("feed", "pause"), ("new", "pause")]
    assert StreamEvent.objects.count() == 1
    assert StreamMinute.objects.count() == 2


def test_of_a_stream_that_flaps_the_newest_events_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_EVENTS", 3)
    now = timezone.now()
    for stream, count in (("feed", 5), ("calm", 2)):
        for number in range(count):
            at = now - timedelta(minutes=number)
            StreamEvent.objects.create(stream=stream, at=at, kind="lost", text=str(number))
    history.prune()
    kept = [(event.stream, event.text) for event in StreamEvent.objects.order_by("stream", "-at")]
    assert kept == [("calm", "0"), ("calm", "1"), ("feed", "0"), ("feed", "1"), ("feed", "2")]


def test_rows_are_written_and_pruned_in_bulk() -> None:
    """Twenty streams, or what waited for a database that was unavailable, cost no more queries."""
    ledger = History()
    for minute in range(4):
        for number in range(20):
            ledger.note(replace(health(NOON + 60 * minute), name=f"stream-{number}"), None)
    with CaptureQueriesContext(connection) as queries:
        ledger.write()
    assert len(queries) == 1
    assert StreamMinute.objects.count() == 60
    StreamMinute.objects.update(minute=F("minute") - 60 * 24 * 8 * 365)
    ask("feed", "pause", "root")
    StreamEvent.objects.update(at=timezone.now() - timedelta(days=8))
    with CaptureQueriesContext(connection) as queries:
        history.prune()
    assert len(queries) == 3
    assert not StreamMinute.objects.exists()
    assert not StreamEvent.objects.exists()


def test_a_minute_is_one_row_of_what_was_new() -> None:
    ledger = History()
    ledger.note(health(NOON - 30, messages_received=10, messages_handled=10), None)
    ledger.note(health(NOON - 10, messages_received=15, messages_handled=14, reconnects=1), None)
    ledger.note(health(NOON + 10, "waiting", messages_received=20, messages_handled=20), None)
    ledger.note(health(NOON + 40, messages_received=30, messages_handled=29), None)
    ledger.note(health(NOON + 60, messages_received=30, messages_handled=30), None)
    ledger.write()
    first, second = StreamMinute.objects.order_by("minute")
    assert (first.received, first.handled, first.reconnects, first.connected) == (15, 14, 1, 30)
    # Ready for the first ten seconds and the last twenty.
    assert (second.received, second.handled, second.connected) == (15, 15, 30)
    ledger.end()
    ledger.write()
    assert StreamMinute.objects.count() == 3


def test_rows_whose_commit_was_not_confirmed_are_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = History()
    ledger.note(health(NOON - 30, messages_received=10), None)
    ledger.note(health(NOON, messages_received=10), None)
    write = StreamMinute.objects.bulk_create

    def unconfirmed(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(StreamMinute.objects, "bulk_create", unconfirmed)
        with pytest.raises(OperationalError):
            ledger.write()
    ledger.note(health(NOON + 60, messages_received=10), None)
    ledger.write()
    rows = StreamMinute.objects.order_by("minute")
    assert list(rows.values_list("received", flat=True)) == [10, 0]


def test_rows_add_up_to_the_totals() -> None:
    """Whatever the beats; also after a start that counts from 0 again."""
    chance = random.Random(7)
    ledger, at, received, total = History(), NOON, 0, 0
    for step in range(300):
        gained = chance.randrange(50)
        received, total = (gained if step == 150 else received + gained), total + gained
        at += chance.uniform(0.1, 90)
        ledger.note(health(at, messages_received=received), None)
    ledger.end()
    ledger.write()
    assert sum(StreamMinute.objects.values_list("received", flat=True)) == total
    assert all(0 <= row.connected <= 60 for row in StreamMinute.objects.all())


def test_the_history_goes_on_after_the_clock_was_set_back() -> None:
    ledger = History()
    for at, received in ((0, 1), (3600, 3), (0, 6), (60, 10)):
        ledger.note(health(NOON + at, messages_received=received), None)
        ledger.write()
    ledger.end()
    ledger.write()
    rows = StreamMinute.objects.order_by("received").values_list("minute", "received")
    noon = int(NOON // 60)
    assert list(rows) == [(noon, 1), (noon + 60, 2), (noon, 3), (noon + 1, 4)]


def test_a_process_that_stands_by_writes_no_minutes() -> None:
    ledger = History()
    for second in range(0, 300, 5):
        ledger.note(health(NOON + second, "standby"), None)
    ledger.end()
    ledger.write()
    assert not StreamMinute.objects.exists()


def test_each_event_becomes_one_row() -> None:
    """The client keeps the last fifty; each beat shows most of them again."""

    def event(number: int) -> Any:
        return replace_at(number)

    log = EventLog("here")
    for last in (1, 3, 3, 4):
        log.write([("feed", tuple(event(number) for number in range(last)))])
    assert StreamEvent.objects.count() == 4
    assert StreamEvent.objects.filter(text="a\\0b").count() == 4


class FakeEvent(tuple[float, str, str]):
    at = property(lambda self: self[0])
    kind = property(lambda self: self[1])
    text = property(lambda self: self[2])


def replace_at(number: int) -> Any:
    return FakeEvent((NOON + number, "connected", "a\0b"))


def test_reconnecting_is_one_state_with_one_beginning() -> None:
    trend = Trend()
    for at, state in enumerate(["ready", "waiting", "connecting", "waiting", "connected"]):
        trend.look(health(NOON + at, state, last_error="refused"), attempts=at)
    assert trend.state_since == NOON + 1
    assert trend.error_at == NOON + 3
    beat = health(NOON + 20, messages_handled=100, last_error="refused")
    trend.look(beat, attempts=5)
    assert trend.state_since == NOON + 20
    trend.look(replace(beat, at=NOON + 30, messages_handled=150), attempts=5)
    assert trend.rate == 5.0
    assert trend.error_at == NOON + 3
    assert trend.state_since == NOON + 20
    trend.look(replace(beat, at=NOON + 40, connected_since=NOON + 37), attempts=6)
    assert trend.state_since == NOON + 37, "lost and back between two beats"


@override_settings(DATASTREAMS=SETTING)
def test_the_command_refuses_what_cannot_be() -> None:
    with pytest.raises(CommandError, match="has no stream 'nowhere'"):
        call_command("datastream_control", "pause", "nowhere")
    with pytest.raises(CommandError, match="No process runs the stream 'feed'"):
        call_command("datastream_control", "reconnect", "feed")
    assert not StreamCommand.objects.exists()
    told = StringIO()
    call_command("datastream_control", "pause", "feed", stdout=told)
    assert "no process runs the stream now" in told.getvalue()
    with pytest.raises(CommandError, match=r"carried out the command within 0\.3 s"):
        call_command("datastream_control", "pause", "feed", "--wait", "0.3")
    for wrong in ("nan", "inf", "-1", "1e300", "x"):
        with pytest.raises(CommandError, match="--wait: must be a number of seconds"):
            call_command("datastream_control", "pause", "feed", f"--wait={wrong}")


def reported(name: str, pid: int = 7, **values: Any) -> StreamStatus:
    """Return a row of a process whose streams are not in these settings, as a Flask app's."""
    return StreamStatus.objects.create(
        **{"stream": name, "host": "far", "pid": pid, "state": "ready", "beat_at": timezone.now()},
        **values,
    )


@override_settings(DATASTREAMS=SETTING)
def test_a_stream_that_only_others_have_in_their_settings() -> None:
    reported("prices")
    told = StringIO()
    call_command("datastream_control", "reconnect", "prices", stdout=told)
    assert "prices: reconnect requested\n" in told.getvalue()
    with pytest.raises(CommandError, match="'prices' has no SOURCE, so it has no keys"):
        call_command("datastream_control", "reconnect", "prices", "1")
    call_command("datastream_status", "prices", stdout=told)
    assert "far/7" in told.getvalue()
    StreamStatus.objects.update(beat_at=timezone.now() - timedelta(minutes=5))
    with pytest.raises(CommandError, match=r"Start the program .* not in DATASTREAMS"):
        call_command("datastream_control", "reconnect", "prices")
    call_command("datastream_control", "pause", "prices", stdout=told)
    assert "prices: pause requested; no process runs the stream now" in told.getvalue()
    assert StreamCommand.objects.filter(stream="prices").count() == 2


@override_settings(DATASTREAMS=SETTING)
def test_a_fleet_that_only_others_have_in_their_settings() -> None:
    reported("accounts", streams={"ready": 2}, source_size=2)
    for key in (1, 2):
        reported(f"accounts/{key}", fleet="accounts")
    told = StringIO()
    call_command("datastream_control", "reconnect", "accounts", "2", stdout=told)
    assert [command.stream for command in StreamCommand.objects.all()] == ["accounts/2"]
    with pytest.raises(CommandError, match="No process runs the stream accounts/3"):
        call_command("datastream_control", "reconnect", "accounts", "3")
    with pytest.raises(CommandError, match="has no stream 'accounts/2'"):
        call_command("datastream_control", "pause", "accounts/2")
    call_command("datastream_status", "accounts", "--key", "2", stdout=told)
    call_command("datastream_status", "accounts", stdout=told)
    assert "streams: 2 ready; rows in the source: 2" in told.getvalue()


# Runners beside run_datastream: a worker of Celery's, and a Flask app that shares the database.
CELERY = """
import os
from celery import Celery
from datastream_ws.celery import install
app = Celery("proj", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["QUEUE"]
install(app)
"""
FLASK = """
import django
from flask import Flask
from datastream_ws_flask import DataStream
django.setup()
datastream = DataStream(name="prices")
datastream.on_message(lambda message: None)
app = Flask(__name__)
app.config.from_prefixed_env()
datastream.init_app(app)
"""
WORKER = ("celery", "-A", "celeryapp", "worker", "--datastream", "-P", "solo", "--without-gossip")
RUNNERS = {
    "django": ("manage.py", "run_datastream"),
    "celery": ("-m", *WORKER, "--without-mingle", "--without-heartbeat"),
    "flask": ("-m", "flask", "--app", "flaskapp", "datastream", "run"),
}


def environment_of(kind: str, request: pytest.FixtureRequest, url: str) -> dict[str, str]:
    if kind == "celery":
        broker = request.getfixturevalue("redis_url")
        return {"BROKER": broker, "QUEUE": f"control-{uuid.uuid4().hex}"}
    fast = {"MIN_RECONNECT_DELAY": 0.02, "MAX_RECONNECT_DELAY": 0.02}
    return {"FLASK_DATASTREAMS": json.dumps({"prices": {"URL": url, **fast}})}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "database"),
    [("django", "sqlite"), *((kind, "postgresql") for kind in RUNNERS)],
    indirect=["database"],
)
def test_a_runner_obeys_another_process(
    kind: str,
    tmp_path: Path,
    database: str,
    stream_server: StreamServer,
    request: pytest.FixtureRequest,
) -> None:
    project = Project(tmp_path, stream_server.url, database=database)
    (project.folder / "celeryapp.py").write_text(CELERY)
    (project.folder / "flaskapp.py").write_text(FLASK)
    command = [sys.executable, *RUNNERS[kind]]
    alias = "prices" if kind == "flask" else "default"  # the project has no prices
    environment = environment_of(kind, request, stream_server.url)
    project.manage("migrate")
    state = "SELECT state FROM datastream_streamstatus ORDER BY beat_at DESC"

    def has_state(wanted: str) -> bool:
        return project.query(state)[:1] == [wanted]

    with project.spawn(command, **environment) as runner:
        runner.wait_for(lambda: has_state("ready"))
        told = project.manage("datastream_control", "reconnect", alias, "--wait", "60")
        assert "reconnect carried out by" in told
        runner.wait_for(lambda: len(stream_server.attempts) == 2)
        project.manage("datastream_control", "pause", alias, "--wait", "60")
        runner.wait_for(lambda: has_state("paused"))
        runner.terminate()
        assert runner.wait() == 0
    with project.spawn(command, **environment) as runner:
        runner.wait_for(lambda: has_state("paused"))
        project.manage("datastream_control", "resume", alias, "--wait", "60")
        runner.wait_for(lambda: has_state("ready"))
        runner.terminate()
        assert runner.wait() == 0
    minutes = "SELECT sum(reconnects) FROM datastream_streamminute"
    # The second process may have been connected for a moment before it read of the pause.
    assert project.query(minutes)[0] in (1, 2)
    told = str(project.query("SELECT text FROM datastream_streamevent WHERE kind = 'command'"))
    for verb in ("reconnect", "pause", "resume"):
        assert f"{verb} requested by" in told
        assert f"{verb} carried out; requested by" in told


def test_a_command_is_obeyed_within_two_heartbeats() -> None:
    """Its row may just miss one."""
    client: Any = FakeClient()
    client.options = SimpleNamespace(lease=None)
    client.stats = lambda: None
    beats = Heartbeat([client])
    beats.close(10)  # its thread: it beats here
    beats._beat([health(NOON)])
    ask("feed", "reconnect", "root")
    beats._beat([health(NOON + 5)])
    assert client.asked == ["reconnect"]
    assert StreamCommand.objects.get().obeyed_at is not None


def test_events_and_handlers_of_a_real_client_become_rows() -> None:
    with StreamServer() as server:
        client = Client(server.url, name="feed")

        @client.on_message
        def handle(message: Any) -> None: ...

        with client:
            client.wait_ready(10)
            server.send("x")
            eventually(lambda: bool(client.stats().handlers), 10)
        stats = client.stats()
    EventLog("here").write([("feed", stats.recent_events)])
    kinds = list(StreamEvent.objects.order_by("at", "pk").values_list("kind", flat=True))
    assert kinds == ["connected", "ready", "lost", "closed"]
    [figures] = history.handlers_of(stats).values()
    assert (figures["calls"], figures["failures"]) == (1, 0)
    assert history.slowest(stats) == figures["p95"]


def beat(pid: int, seconds_ago: float, state: str = "ready") -> None:
    row, _ = StreamStatus.objects.get_or_create(
        stream="feed", host="b", pid=pid, defaults={"state": state, "beat_at": timezone.now()}
    )
    row.beat_at = timezone.now() - timedelta(seconds=seconds_ago)
    row.save()


def test_another_runner_of_a_stream_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    others = Others("a")
    beat(4242, 5)
    others.look(["feed"])
    assert caplog.messages == [], "it may have died just now"
    for seconds_ago in (2, 1):
        beat(4242, seconds_ago)
        others.look(["feed"])
    assert caplog.messages == [
        "stream feed: process 4242 on b runs it as well, so each message is handled twice. "
        "Stop one of them, or set LEASE"
    ]


@pytest.mark.parametrize(("ago", "state"), [((60, 50), "ready"), ((3, 1), "closed")])
def test_a_runner_that_has_ended_is_not_warned_about(
    ago: tuple[int, int], state: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = Others("a")
    for seconds_ago in ago:
        beat(4242, seconds_ago, state)
        others.look(["feed"])
    assert caplog.messages == []


def test_a_command_forges_no_log_line_and_calls_no_other_method(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """User models may take any name; and a row may hold any verb."""
    caplog.set_level("INFO")
    client, obeying = commands()
    obeying.obey()
    ask("feed", "reconnect", "root\nERROR forged\x1b[2J")
    StreamCommand.objects.create(stream="feed", verb="close", asked_by="x", asked_at=timezone.now())
    obeying.obey()
    assert client.asked == ["reconnect"]
    said = [text for text in caplog.messages if "forged" in text]
    assert len(said) == 2
    assert all(text.isprintable() for text in said)
