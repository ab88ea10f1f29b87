"""The admin's pages: what they show, whom they obey, how fast they answer."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection, connections
from django.test import Client as Browser
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from datastream_ws_django import bulk, datastreams
from datastream_ws_django.claims import CLAIM_SECONDS
from datastream_ws_django.control import ask
from datastream_ws_django.models import (
    FailedMessage,
    StreamCommand,
    StreamEvent,
    StreamLease,
    StreamMinute,
    StreamStatus,
)
from datastream_ws_django.overview import cards, history
from datastream_ws_django.testing import deliver

pytestmark = pytest.mark.django_db

OVERVIEW = "admin:datastream_streamstatus_changelist"
LETTERS = "admin:datastream_failedmessage_changelist"


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    with override_settings(DATASTREAMS={"feed": {"URL": "ws://127.0.0.1:1/"}}):
        yield


def runner(state: str, age: float = 0.0, since: float = 0.0, **values: Any) -> StreamStatus:
    now = timezone.now()
    given = {"stream": "feed", "host": "a", "pid": 1, "state": state, **values}
    return StreamStatus.objects.create(
        beat_at=now - timedelta(seconds=age), state_since=now - timedelta(seconds=since), **given
    )


def user(name: str, *permissions: str) -> Browser:
    made = User.objects.create_user(name, password="x", is_staff=True)
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    browser = Browser()
    browser.force_login(made)
    return browser


def live(alias: str = "feed") -> str:
    return reverse("admin:datastream_live", args=[alias])


@pytest.mark.parametrize(
    ("state", "age", "since", "tone", "shown"),
    [
        ("ready", 0, 500, "well", "ready"),
        ("paused", 0, 500, "well", "paused"),
        ("waiting", 0, 10, "warning", "waiting"),
        ("connecting", 0, 31, "unwell", "connecting"),
        ("ready", 60, 500, "unwell", "stale"),
        ("failed", 0, 5, "unwell", "failed"),
    ],
)
def test_amber_for_half_a_minute_then_red(
    state: str, age: float, since: float, tone: str, shown: str
) -> None:
    runner(state, age, since)
    [card] = cards(["feed"])
    assert (card.tone, card.state) == (tone, shown)
    page = user("op", "view_streamstatus").get(reverse(OVERVIEW)).content.decode()
    assert f'class="state {tone}" data-field="state">{shown}<' in page
    assert card.word in page  # never color alone


def test_a_stream_without_rows_has_a_card() -> None:
    page = user("op", "view_streamstatus").get(reverse(OVERVIEW)).content.decode()
    assert "never started" in page


def test_living_processes_apart_from_dead_ones() -> None:
    runner("ready", pid=1, rate=2.5, oldest_waiting=0.5)
    runner("ready", age=120, pid=2, rate=7)
    runner("closed", pid=3)
    StreamLease.objects.create(stream="feed", holder="web-1:77:ab", epoch=12)
    [card] = cards(["feed"])
    assert [row.pid for row in card.living] == [1]
    assert {row.pid for row in card.gone} == {2, 3}
    assert (card.rate, card.lag, card.epoch) == (2.5, 0.5, 12)
    assert card.holder == "web-1, process 77"
    page = user("op", "view_streamstatus").get(live()).content.decode()
    assert page.index("a, 1<") < page.index("<details>") < page.index("a, 2<")


def test_the_list_of_processes_is_of_those_that_run() -> None:
    runner("ready", pid=1)
    runner("waiting", pid=2)
    runner("ready", age=120, pid=3)
    runner("closed", pid=4)
    browser = user("op", "view_streamstatus")

    def listed(**query: str) -> set[int]:
        page = browser.get(reverse("admin:datastream_processes"), query)
        return {row.pid for row in page.context["cl"].queryset}

    assert listed() == {1, 2}
    assert listed(process="ended") == {3, 4}
    assert listed(process="all") == {1, 2, 3, 4}
    page = browser.get(reverse("admin:datastream_processes"), {"stream": "feed"}).content.decode()
    assert 'href="?process=ended&amp;stream=feed"' in page


def test_a_card_has_all_that_an_operator_asks_for() -> None:
    """State and its duration, rate, lag, the last error and its age, lease and epoch, a line."""
    now = timezone.now()
    error: Any = {"last_error": "refused", "last_error_at": now - timedelta(minutes=5)}
    runner("ready", since=7200, rate=12.5, oldest_waiting=2.0, messages_waiting=9, **error)
    StreamLease.objects.create(stream="feed", holder="web-1:77:ab", epoch=12)
    figures = {"received": 1, "failed": 0, "waiting": 0, "reconnects": 0, "connected": 60}
    minute = int(time.time() // 60) - 1
    StreamMinute.objects.create(stream="feed", minute=minute, run=1, handled=60, **figures)
    page = user("op", "view_streamstatus").get(reverse(OVERVIEW)).content.decode()
    card = " ".join(page[page.index('<ul class="cards"') : page.index("</ul>")].split())
    assert ">ready<" in card
    assert re.search(r"since <time[^>]*>2 h ago", card)
    assert "12.5 messages/s" in card
    assert "2.0 s, 9 waiting" in card
    assert re.search(r"refused <br><time[^>]*>5 min ago", card)
    assert "web-1, process 77, epoch 12" in card
    assert re.search(r'<polyline fill="none" points="[0-9., ]+"', card)
    assert live() in card


def test_buttons_need_the_permission() -> None:
    """A user without it has none, and the address alone does nothing."""
    url = reverse("admin:datastream_control", args=["pause", "feed"])
    looker = user("looker", "view_streamstatus")
    assert url not in looker.get(live()).content.decode()
    assert looker.get(url).status_code == looker.post(url).status_code == 403
    assert not StreamCommand.objects.exists()


def test_a_command_is_confirmed_and_stands_in_the_event_log() -> None:
    url = reverse("admin:datastream_control", args=["pause", "feed"])
    browser = user("ann", "view_streamstatus", "control_streamstatus")
    assert url in browser.get(live()).content.decode()
    assert b"stay offline" in browser.get(url).content
    assert not StreamCommand.objects.exists()
    strict = Browser(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="ann"))
    assert strict.post(url).status_code == 403
    page = browser.post(url, follow=True).content.decode()
    command = StreamCommand.objects.get()
    assert (command.verb, command.stream, command.asked_by) == ("pause", "feed", "ann")
    assert "pause requested by ann" in page
    assert "Paused on request of ann" in page
    assert "but no process runs it now. It will be paused when a process starts it" in page
    unknown = reverse("admin:datastream_control", args=["explode", "feed"])
    assert browser.get(unknown).status_code == 404
    nowhere = reverse("admin:datastream_control", args=["pause", "nowhere"])
    assert browser.post(nowhere).status_code == 404


def test_the_handlers_and_events_are_on_the_page() -> None:
    figures = {"calls": 7, "failures": 1, "p50": 0.001, "p95": 0.02, "max": 1.5}
    runner("ready", handlers={"shop.tick": figures})
    StreamEvent.objects.create(stream="feed", at=timezone.now(), kind="lost", text="1006")
    page = user("op", "view_streamstatus").get(live()).content.decode()
    for text in ("shop.tick", "20.0 ms", "1.5 s", "<strong>lost</strong> 1006"):
        assert text in page


def test_no_page_has_inline_scripts_or_styles() -> None:
    """Under Content-Security-Policy: default-src 'self' these would not run."""
    runner("ready")
    ask("feed", "reconnect", "x")
    failed(1)
    letter = FailedMessage.objects.get()
    browser = Browser()
    browser.force_login(User.objects.create_superuser("root"))
    for url in (
        reverse(OVERVIEW),
        live(),
        reverse("admin:datastream_processes"),
        reverse("admin:datastream_control", args=["pause", "feed"]),
        reverse(LETTERS),
        reverse("admin:datastream_failedmessage_change", args=[letter.pk]),
    ):
        answer = browser.get(url)
        assert answer.status_code == 200, url
        page = answer.content.decode()
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)[^>]*>\s*\S|\son\w+=|\sstyle=", page), (
            url
        )


def failed(*numbers: int, error: str = "ValueError: no row {}") -> None:
    """Have a handler fail with messages."""

    def handle(message: Any) -> None:
        raise ValueError(f"no row {message.json()['n']}")

    datastreams["feed"].on_message(handle)
    try:
        for number in numbers:
            deliver("feed", {"n": number}, robust=True)
    finally:
        datastreams["feed"].handlers.remove(handle)


def test_failures_of_one_kind_are_one_group() -> None:
    failed(1, 22, 333)
    assert FailedMessage.objects.values("group").distinct().count() == 1
    browser = user("op", "view_failedmessage")
    page = browser.get(reverse(LETTERS)).content.decode()
    [link] = re.findall(r'href="(\?stream=feed&amp;group=\w+)">3<', page)
    times = [row.failed_at.isoformat() for row in FailedMessage.objects.order_by("failed_at")]
    row = page[page.index(link) :]
    assert row.index(times[0]) < row.index(times[-1]) < row.index("</tr>")
    found = browser.get(reverse(LETTERS) + link.replace("&amp;", "&"))
    assert found.context["cl"].result_count == 3
    assert browser.get(reverse(LETTERS), {"q": "no row 22"}).context["cl"].result_count == 1


def test_a_failed_message_is_retried_or_deleted_never_saved() -> None:
    failed(1)
    letter = FailedMessage.objects.get()
    page = reverse("admin:datastream_failedmessage_change", args=[letter.pk])
    again = reverse("admin:datastream_retry", args=[letter.pk])
    permissions = ("view_failedmessage", "change_failedmessage", "delete_failedmessage")
    browser = user("op", *permissions)
    text = browser.get(page).content.decode()
    assert "Save" not in text
    assert "{\n  &quot;n&quot;: 1\n}" in text
    assert again in text
    assert "/delete/" in text
    looker = user("looker", "view_failedmessage")
    assert again not in looker.get(page).content.decode()
    assert looker.post(again).status_code == 403
    assert browser.get(again).status_code == 405
    assert "failed again" in browser.post(again, follow=True).content.decode()
    tried = FailedMessage.objects.get()
    assert (tried.attempts, tried.failed_at) == (2, letter.failed_at), "the groups' first one stays"
    seen: list[Any] = []
    handlers = datastreams["feed"].handlers
    handlers.on_message(seen.append)
    try:
        assert "1 handled" in browser.post(again, follow=True).content.decode()
    finally:
        handlers.remove(seen.append)
    assert not FailedMessage.objects.exists()


def form_of(page: str) -> dict[str, str]:
    """What the page's form sends, but for the token."""
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: value for name, value in fields if name in ("left", "done", "failed", "left_out")}


def selected() -> list[int]:
    return list(FailedMessage.objects.values_list("pk", flat=True))


def test_many_are_retried_in_portions_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PORTION_SECONDS", 0.0)  # one message each
    failed(1, 2, 3)
    browser = user("op", "view_failedmessage", "change_failedmessage")
    seen: list[int] = []

    def handle(message: Any) -> None:
        seen.append(message.json()["n"])
        if seen == [1]:
            raise ValueError("still not")

    datastreams["feed"].on_message(handle)
    try:
        action = {"action": "retry", "_selected_action": selected()}
        page = browser.post(reverse(LETTERS), action).content.decode()
        assert "0 of 3 handled, 1 failed again" in page
        url = reverse("admin:datastream_bulk", args=["retry"])
        assert f'action="{url}" data-continue' in page
        page = browser.post(url, form_of(page)).content.decode()
        assert "1 of 3 handled, 1 failed again" in page
        page = browser.post(url, form_of(page)).content.decode()
        assert "2 of 3 handled, 1 failed again" in page
        assert "data-continue" not in page
    finally:
        datastreams["feed"].handlers.remove(handle)
    assert seen == [1, 2, 3]
    assert FailedMessage.objects.count() == 1


@pytest.mark.parametrize(
    ("seconds", "is_claimed"), [(None, False), (90, True), (CLAIM_SECONDS + 1, False)]
)
def test_a_message_that_is_being_retried_is_not_offered(
    seconds: float | None, is_claimed: bool
) -> None:
    """The claim of a process that was killed expires."""
    failed(1)
    at = None if seconds is None else timezone.now() - timedelta(seconds=seconds)
    FailedMessage.objects.update(claimed_at=at)
    browser = user("op", "view_failedmessage", "change_failedmessage", "delete_failedmessage")
    pk = FailedMessage.objects.get().pk
    page = browser.get(reverse("admin:datastream_failedmessage_change", args=[pk])).content.decode()
    assert ('value="Retry"' in page) is not is_claimed
    assert (reverse("admin:datastream_failedmessage_delete", args=[pk]) in page) is not is_claimed
    for shown in (page, browser.get(reverse(LETTERS)).content.decode()):
        assert ("Being retried, started <time" in shown) is is_claimed


def test_what_others_retry_is_said_not_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PORTION_SECONDS", 0.0)
    failed(1, 2, 3)
    browser = user("op", "view_failedmessage", "change_failedmessage")
    seen: list[int] = []

    def handle(message: Any) -> None:
        seen.append(message.json()["n"])

    datastreams["feed"].on_message(handle)
    try:
        action = {"action": "retry", "_selected_action": selected()}
        page = browser.post(reverse(LETTERS), action).content.decode()
        second, third = FailedMessage.objects.order_by("seq", "pk")
        FailedMessage.objects.filter(pk=second.pk).update(claimed_at=timezone.now())
        FailedMessage.objects.filter(pk=third.pk).delete()
        url = reverse("admin:datastream_bulk", args=["retry"])
        page = browser.post(url, form_of(page)).content.decode()
        page = browser.post(url, form_of(page)).content.decode()
        assert "1 of 3 handled, 0 failed again, 2 retried or deleted by others" in page
        assert 'max="3" value="3"' in page
        for pk in (second.pk, third.pk):
            again = reverse("admin:datastream_retry", args=[pk])
            told = browser.post(again, follow=True).content.decode()
            assert "1 not retried, because another user or process is retrying" in told
    finally:
        datastreams["feed"].handlers.remove(handle)
    assert seen == [1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["page", "list", "bulk"])
def test_atomic_requests_do_not_surround_a_retry(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """
    The claim must be seen by other processes, and the handler must not run in its transaction.

    SQLite's only lock would be taken all the while, and an error in the handler's own query would
    break the transaction that the failure is to be noted in.
    """
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    failed(1)
    [pk] = selected()
    browser = user("op", "view_failedmessage", "change_failedmessage")
    in_transaction: list[bool] = []

    def handle(message: Any) -> None:
        in_transaction.append(connection.in_atomic_block)
        User.objects.create(username="op")

    datastreams["feed"].on_message(handle)
    try:
        if way == "page":
            page = browser.post(reverse("admin:datastream_retry", args=[pk]), follow=True)
        elif way == "list":
            action = {"action": "retry", "_selected_action": [pk]}
            page = browser.post(reverse(LETTERS), action, follow=True)
        else:
            page = browser.post(reverse("admin:datastream_bulk", args=["retry"]), {"left": str(pk)})
    finally:
        datastreams["feed"].handlers.remove(handle)
    assert "1 failed again" in page.content.decode()
    assert "IntegrityError" in FailedMessage.objects.get().error
    assert in_transaction == [False]


def test_many_are_deleted_in_portions_once_that_is_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "PORTION_DELETED", 2)
    failed(1, 2, 3)
    browser = user("op", "view_failedmessage", "delete_failedmessage")
    action = {"action": "delete_selected", "_selected_action": selected()}
    page = browser.post(reverse(LETTERS), action).content.decode()
    assert "Delete 3 failed messages?" in page
    assert "data-continue" not in page
    assert FailedMessage.objects.count() == 3
    url = reverse("admin:datastream_bulk", args=["delete"])
    page = browser.post(url, form_of(page)).content.decode()
    assert "2 of 3 deleted" in page
    assert FailedMessage.objects.count() == 1
    page = browser.post(url, form_of(page)).content.decode()
    assert "3 of 3 deleted" in page
    assert not FailedMessage.objects.exists()
    assert [entry.user.get_username() for entry in LogEntry.objects.all()] == ["op"] * 3


@pytest.mark.parametrize("verb", ["retry", "delete"])
@pytest.mark.parametrize("left", ["9" * 30, "1,9223372036854775808", "-1", "9" * 5000, "x", "\0"])
def test_bulk_work_on_what_no_row_has(verb: str, left: str) -> None:
    url = reverse("admin:datastream_bulk", args=[verb])
    browser = user("root", "change_failedmessage", "delete_failedmessage")
    assert browser.post(url, {"left": left}).status_code == 400


def test_bulk_work_needs_the_permission_and_the_form() -> None:
    failed(1)
    form = {"left": ",".join(map(str, selected()))}
    looker = user("looker", "view_failedmessage")
    page = looker.get(reverse(LETTERS)).content.decode()
    assert "selected messages" not in page
    browser = user("op", "view_failedmessage", "change_failedmessage", "delete_failedmessage")
    for verb in ("retry", "delete"):
        url = reverse("admin:datastream_bulk", args=[verb])
        assert looker.post(url, form).status_code == 403
        assert browser.get(url).status_code == 405
        assert browser.post(url, {"left": "1;2"}).status_code == 400
    assert browser.post(reverse("admin:datastream_bulk", args=["burn"]), form).status_code == 404
    assert FailedMessage.objects.count() == 1


def test_the_list_reads_no_payload() -> None:
    failed(1, 2)
    browser = user("op", "view_failedmessage")
    with CaptureQueriesContext(connection) as queries:
        browser.get(reverse(LETTERS))
    assert '"datastream_failedmessage"."error"' in str(queries.captured_queries)
    assert '"datastream_failedmessage"."data"' not in str(queries.captured_queries)


def test_history_is_summed_over_processes_and_steps() -> None:
    now = int(time.time() // 60)
    row = {"received": 10, "failed": 1, "waiting": 2, "reconnects": 1, "connected": 30}
    for run in (1, 2):
        StreamMinute.objects.create(stream="feed", minute=now - 1, run=run, handled=run, **row)
    points = history("feed", "1h")["points"]
    assert [(point["handled"], point["connected"], point["waiting"]) for point in points] == [
        (3, 60, 2)
    ]
    assert sum(point["received"] for point in history("feed", "7d")["points"]) == 20


def a_week(streams: int) -> list[str]:
    """Fill the history as a week of so many streams does, of which each hour has a minute here."""
    aliases = [f"stream-{number}" for number in range(streams)]
    now = int(time.time() // 60)
    figures = {"received": 600, "handled": 600, "failed": 1, "waiting": 3, "reconnects": 0}
    for alias in aliases:
        runner("ready", stream=alias)
        StreamMinute.objects.bulk_create(
            StreamMinute(stream=alias, minute=now - n, run=1, connected=60, **figures)
            for n in range(0, 7 * 1440, 60)
        )
    return aliases


@pytest.mark.parametrize("streams", [1, 20])
def test_pages_need_few_queries_and_an_index(streams: int) -> None:
    """However many streams there are; `make bench` measures the times."""
    [alias, *_] = aliases = a_week(streams)
    browser = user("op", "view_streamstatus")
    data = reverse("admin:datastream_live_data", args=[alias])
    pages = {reverse(OVERVIEW): 5, live(alias): 7, f"{data}?range=7d": 2, f"{data}?range=24h": 2}
    with override_settings(DATASTREAMS={each: {"URL": "ws://127.0.0.1:1/"} for each in aliases}):
        for url, most in pages.items():
            with CaptureQueriesContext(connection) as queries:
                assert browser.get(url).status_code == 200
            asked = [each["sql"] for each in queries if "datastream_" in each["sql"]]
            assert len(asked) <= most, asked
            for sql in asked:
                if "streamminute" in sql or "streamevent" in sql:
                    assert "SCAN" not in plan_of(sql), sql
    assert len(browser.get(f"{data}?range=7d").json()["history"]["points"]) == 168


def plan_of(sql: str) -> str:
    """How the database finds the rows: SEARCH by an index, or SCAN of all of them."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        return " ".join(str(row[-1]) for row in cursor.fetchall())
