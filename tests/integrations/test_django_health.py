"""Health views, ``datastream_status`` and the admin: right, private, escaped."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.test import Client as Browser
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from datastream_ws import State
from datastream_ws.health import describe
from datastream_ws.testing import StreamServer
from datastream_ws_django import datastreams
from datastream_ws_django.deadletters import prune
from datastream_ws_django.heartbeat import Heartbeat
from datastream_ws_django.models import FailedMessage, StreamStatus
from datastream_ws_django.testing import deliver
from kit.djangoproject import Project
from kit.seen import Seen

pytestmark = pytest.mark.django_db

EVIL = '<script>alert("x")</script>'


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    setting = {"feed": {"URL": "ws://127.0.0.1:1/", "DEAD_LETTER_DAYS": 7}}
    with override_settings(DATASTREAMS=setting):
        yield


def runner(state: str, age: float = 0.0, **values: Any) -> StreamStatus:
    """A runner that spoke *age* seconds ago."""
    given = {"stream": "feed", "host": "a", "pid": 1, "state": state, **values}
    return StreamStatus.objects.create(beat_at=timezone.now() - timedelta(seconds=age), **given)


def health(kind: str, browser: Browser | None = None) -> tuple[int, Any]:
    answer = (browser or Browser()).get(f"/datastream/health/{kind}/")
    return answer.status_code, answer.json()


OK, UNWELL = (200, {"status": "ok"}), (503, {"status": "unhealthy"})


@pytest.mark.parametrize(
    ("state", "age", "live", "ready"),
    [
        ("connecting", 0, OK, UNWELL),
        ("connected", 0, OK, UNWELL),
        ("ready", 0, OK, OK),
        ("waiting", 0, OK, UNWELL),
        ("paused", 0, OK, OK),
        ("standby", 0, OK, OK),
        ("failed", 0, UNWELL, UNWELL),
        ("closed", 0, UNWELL, UNWELL),
        ("ready", 60, UNWELL, UNWELL),
    ],
)
def test_what_each_state_means(state: str, age: float, live: Any, ready: Any) -> None:
    runner(state, age)
    assert health("live") == live
    assert health("ready") == ready


def test_never_started_is_unwell() -> None:
    assert health("live") == UNWELL


def test_one_that_is_well_is_enough() -> None:
    runner("closed", pid=1)
    runner("ready", pid=2)
    assert health("ready") == OK


def user(name: str, *permissions: str, staff: bool = True) -> Browser:
    made = User.objects.create_user(name, password="x", is_staff=staff)
    for permission in permissions:
        made.user_permissions.add(Permission.objects.get(codename=permission))
    browser = Browser()
    browser.force_login(made)
    return browser


def test_details_are_for_staff_with_the_permission() -> None:
    runner("ready", last_error="private")
    for browser in (
        Browser(),
        user("customer", "view_streamstatus", staff=False),
        user("clerk"),
    ):
        assert health("ready", browser) == OK
    status, body = health("ready", user("operator", "view_streamstatus"))
    assert status == 200
    assert body["streams"][0]["runners"][0]["last_error"] == "private"


def test_a_database_that_is_lost_while_the_user_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OperationalError("the connection is lost")

    browser = Browser(raise_request_exception=False)
    browser.force_login(User.objects.create_user("ann", is_staff=True))
    monkeypatch.setattr(User, "has_perm", fail)
    for kind in ("live", "ready"):
        assert health(kind, browser) == (503, {"status": "unknown"})


def test_atomic_requests_open_no_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database, Django would answer with 500 before the view is called."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    runner("ready")
    for kind in ("live", "ready"):
        with CaptureQueriesContext(connection) as queries:
            assert health(kind) == OK
        assert not [each for each in queries if "SAVEPOINT" in each["sql"]]


def test_only_reading_is_allowed() -> None:
    assert Browser().post("/datastream/health/live/").status_code == 405


def test_answers_are_not_kept_on_the_way() -> None:
    assert "no-store" in Browser().get("/datastream/health/ready/")["Cache-Control"]


def test_the_admin_shows_no_page_to_strangers() -> None:
    runner("ready")
    for name in ("datastream_live", "datastream_live_data"):
        url = reverse(f"admin:{name}", args=["feed"])
        assert Browser().get(url).status_code == 302
        assert user(f"clerk-{name}").get(url).status_code == 403
        assert user(f"operator-{name}", "view_streamstatus").get(url).status_code == 200


def test_what_the_peer_said_arrives_escaped() -> None:
    runner("waiting", last_error=EVIL)
    runner("ready", stream=EVIL)
    FailedMessage.objects.create(
        stream="feed",
        handler="shop.handle",
        data=EVIL.encode(),
        **{"seq": 1, "connection": 1, "epoch": 1},
        received_at=timezone.now(),
        failed_at=timezone.now(),
        error=EVIL,
        traceback=EVIL,
    )
    browser = user("root", "view_streamstatus", "view_failedmessage")
    row, letter = StreamStatus.objects.get(stream="feed"), FailedMessage.objects.get()
    for url in (
        reverse("admin:datastream_streamstatus_changelist"),
        reverse("admin:datastream_streamstatus_change", args=[row.pk]),
        reverse("admin:datastream_live", args=[EVIL]),
        reverse("admin:datastream_failedmessage_changelist"),
        reverse("admin:datastream_failedmessage_change", args=[letter.pk]),
    ):
        answer = browser.get(url)
        assert answer.status_code == 200
        assert EVIL not in answer.content.decode()
    data = browser.get(reverse("admin:datastream_live_data", args=["feed"]))
    assert data["Content-Type"] == "application/json"
    assert data.json()["runners"][0]["last_error"] == EVIL


def test_retry_needs_the_permission_to_change_and_a_token() -> None:
    """A page elsewhere cannot make an operator's browser do it, nor can one who may only look."""
    letter = FailedMessage.objects.create(
        **{"stream": "feed", "handler": "shop.handle", "data": b"x", "error": "", "traceback": ""},
        **{"seq": 1, "connection": 1, "epoch": 1},
        **{"received_at": timezone.now(), "failed_at": timezone.now()},
    )
    url = reverse("admin:datastream_failedmessage_changelist")
    form = {"action": "retry", "_selected_action": [letter.pk]}
    user("looker", "view_failedmessage").post(url, form)
    strict = Browser(enforce_csrf_checks=True)
    user("operator-2", "view_failedmessage", "change_failedmessage")
    strict.force_login(User.objects.get(username="operator-2"))
    assert strict.post(url, form).status_code == 403
    assert FailedMessage.objects.filter(pk=letter.pk).exists()


def test_retry_is_an_admin_action() -> None:
    seen: list[Any] = []
    mended: list[bool] = []

    def handle(message: Any) -> None:
        if not mended:
            raise RuntimeError("not yet")
        seen.append((message.data, message.seq))

    def fine(message: Any) -> None:
        seen.append("fine")

    handlers = datastreams["feed"].handlers
    handlers.on_message(handle)
    handlers.on_message(fine)
    try:
        deliver("feed", b"\x00payload", robust=True)
        mended.append(True)
        chosen = [FailedMessage.objects.get().pk]
        browser = user("operator", "view_failedmessage", "change_failedmessage")
        browser.post(
            reverse("admin:datastream_failedmessage_changelist"),
            {"action": "retry", "_selected_action": chosen},
        )
    finally:
        handlers.remove(handle)
        handlers.remove(fine)
    # Not given a second time to the handler that had succeeded.
    assert seen == ["fine", (b"\x00payload", 1)]
    assert not FailedMessage.objects.exists()


def test_dead_letters_are_pruned_after_their_days() -> None:
    for days in (1, 6, 8, 30):
        FailedMessage.objects.create(
            **{"stream": "feed", "handler": "h", "data": b"", "seq": days},
            **{"connection": 1, "epoch": 1, "error": "", "traceback": ""},
            received_at=timezone.now(),
            failed_at=timezone.now() - timedelta(days=days),
        )
    assert prune() == 2
    assert set(FailedMessage.objects.values_list("seq", flat=True)) == {1, 6}


def status(*arguments: str) -> int:
    """Return the exit code."""
    try:
        call_command("datastream_status", *arguments)
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_status_tells_and_judges(capsys: pytest.CaptureFixture[str]) -> None:
    assert status() == 1
    assert "never started" in capsys.readouterr().out
    runner("ready", messages_handled=5)
    assert status() == 0
    titles, row = capsys.readouterr().out.splitlines()
    assert re.match(r"feed +ready ", row)
    assert re.split(r"  +", row)[titles.split().index("HANDLED")] == "5"
    assert status("--json") == 0
    assert json.loads(capsys.readouterr().out)["streams"][0]["is_healthy"]
    StreamStatus.objects.update(beat_at=timezone.now() - timedelta(seconds=50))
    assert status() == 1
    assert status("--max-age", "100") == 0
    for wrong in ("inf", "nan", "-1", "1e300"):
        with pytest.raises(CommandError, match="--max-age: must be"):
            status("--max-age", wrong)


def test_rows_follow_a_real_runner(tmp_path: Path, stream_server: StreamServer) -> None:
    stream_server.refuse(503)
    project = Project(tmp_path, stream_server.url)
    project.manage("migrate")
    project.manage("datastream_status", code=1)
    sql = "SELECT state, reconnects, last_error FROM datastream_streamstatus"

    def has_state(state: str) -> bool:
        return bool(rows := project.query(sql)) and rows[0][0] == state

    with project.start("run_datastream") as process:
        process.wait_for(lambda: has_state("waiting"))
        assert "503" in project.query(sql)[0][2]
        stream_server.accept()
        process.wait_for(lambda: has_state("ready"))
        assert re.search(r"(?m)^default  ready ", project.manage("datastream_status"))
        with project.start("datastream_status", "--watch") as watching:
            watching.wait_for(lambda: watching.output.count("\ndefault  ready ") >= 2)
            watching.send_signal(signal.SIGINT)
            assert watching.wait() == 0, watching.output
        stream_server.close(1011, EVIL)
        process.wait_for(lambda: project.query(sql)[0][:2] == ("ready", 1))
        process.terminate()
        assert process.wait() == 0
    assert project.query(sql)[0][0] == "closed"
    project.manage("datastream_status", code=1)


def test_the_test_client_starts_nothing(stream_server: StreamServer) -> None:
    setting = {"feed": {"URL": stream_server.url, "AUTOSTART": True}}
    with override_settings(DATASTREAMS=setting):
        assert health("ready") == UNWELL
        assert datastreams["feed"].state is State.IDLE
    assert stream_server.attempts == []


def test_strangers_cost_one_query_of_few_values(
    django_assert_num_queries: Callable[[int], AbstractContextManager[Any]],
) -> None:
    """However many streams and dead processes there are."""
    setting = {name: {"URL": "ws://127.0.0.1:1/"} for name in ("feed", "prices", "orders")}
    with override_settings(DATASTREAMS=setting):
        for pid in range(50):
            runner("ready", age=pid * 10, pid=pid)
            runner("ready", stream="prices", pid=pid)
        runner("standby", stream="orders")
        with django_assert_num_queries(1) as counted:
            assert health("ready") == OK
        assert "last_error" not in counted.captured_queries[0]["sql"]


def test_what_is_no_stream_has_no_page() -> None:
    browser = user("root", "view_streamstatus")
    runner("ready", stream="gone")

    def refuse_nul(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        assert "a\0b" not in (params or ()), "PostgreSQL would refuse it"
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse_nul):
        for alias, status in (("feed", 200), ("gone", 200), ("nowhere", 404), ("a\0b", 404)):
            for name in ("datastream_live", "datastream_live_data"):
                assert browser.get(reverse(f"admin:{name}", args=[alias])).status_code == status


@pytest.mark.django_db(transaction=True)
def test_a_heartbeat_is_one_statement_that_reads_nothing_first() -> None:
    """In a transaction that has read, SQLite refuses to write if another has just written."""
    statements: list[str] = []

    def note(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        statements.append(str(sql).split()[0])
        return execute(sql, params, many, context)

    heartbeat = Heartbeat()
    with connection.execute_wrapper(note):
        for at in (1.0, 2.0):  # a new row, and the same again
            heartbeat._write([describe(datastreams["feed"].client, at)])
    heartbeat.close(10)
    assert [each for each in statements if each != "BEGIN"] == ["INSERT", "INSERT"]
    assert StreamStatus.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_cannot_be_closed_does_not_end_the_heartbeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = Seen[int]()

    def close() -> None:
        closed(1)
        raise OperationalError("it is closed already")

    monkeypatch.setattr("datastream_ws_django.heartbeat.close_all", close)
    heartbeat = Heartbeat()
    for number in (1, 2):
        heartbeat.beat([describe(datastreams["feed"].client, float(number))])
        closed.wait(number)
    monkeypatch.undo()
    heartbeat.close(10)
