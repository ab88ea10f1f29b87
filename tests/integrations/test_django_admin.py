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
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from datastream_ws_django import datastreams
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
    seen: list[Any] = []
    handlers = datastreams["feed"].handlers
    handlers.on_message(seen.append)
    try:
        assert "1 handled" in browser.post(again, follow=True).content.decode()
    finally:
        handlers.remove(seen.append)
    assert not FailedMessage.objects.exists()


def a_week(streams: int) -> list[str]:
    """Fill the history as a week of so many streams does."""
    aliases = [f"stream-{number}" for number in range(streams)]
    now = int(time.time() // 60)
    figures = {"received": 600, "handled": 600, "failed": 1, "waiting": 3, "reconnects": 0}
    for alias in aliases:
        runner("ready", stream=alias)
        StreamMinute.objects.bulk_create(
            StreamMinute(stream=alias, minute=now - n, run=1, connected=60, **figures)
            for n in range(7 * 1440)
        )
    return aliases


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


def test_pages_answer_at_once_after_a_week() -> None:
    """The bound leaves room for a busy machine; the figures of a quiet one are in the docs."""
    [alias, *_] = a_week(5)
    browser = user("op", "view_streamstatus")
    data = reverse("admin:datastream_live_data", args=[alias])
    for url in (reverse(OVERVIEW), live(alias), f"{data}?range=7d", f"{data}?range=24h"):
        took = []
        for _ in range(3):
            began = time.perf_counter()
            assert browser.get(url).status_code == 200
            took.append(time.perf_counter() - began)
        assert min(took) < 2.0
    assert len(browser.get(f"{data}?range=7d").json()["history"]["points"]) >= 336
