"""Failed messages as rows: any text, a bounded number, whatever becomes of reports."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client as Browser
from django.test import override_settings
from django.urls import reverse

from datastream_ws_django import datastreams, deadletters
from datastream_ws_django.conf import streams_settings
from datastream_ws_django.models import FailedMessage
from datastream_ws_django.testing import deliver
from kit.djangoproject import Project
from kit.djangoproject import database as database
from kit.numbered import NumberedServer

pytestmark = pytest.mark.django_db

SETTING: dict[str, Any] = {"URL": "ws://127.0.0.1:1/"}
LIST = "admin:datastream_failedmessage_changelist"
PAGE = "admin:datastream_failedmessage_change"


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("nothing to show")


Failing = Callable[[BaseException | None], None]


@pytest.fixture
def alias(request: pytest.FixtureRequest) -> Iterator[str]:
    """A stream of the test's own."""
    name = f"letters-{request.node.name}"[:100]
    with override_settings(DATASTREAMS={name: {**SETTING, **getattr(request, "param", {})}}):
        yield name


@pytest.fixture
def failing(alias: str) -> Failing:
    """A handler that raises what it is told to."""
    raised: list[BaseException | None] = [None]

    @datastreams[alias].on_message
    def handle(message: Any) -> None:
        if raised[0] is not None:
            raise raised[0].with_traceback(None)

    def tell(error: BaseException | None) -> None:
        raised[0] = error

    return tell


@pytest.mark.parametrize(
    "payload",
    ["{}", "\ud800", "a\0b", b"\0\xff", ""],
    ids=["text", "half", "nul", "bytes", "empty"],
)
@pytest.mark.parametrize(
    "error",
    [RuntimeError("a\0b"), RuntimeError("\ud800"), NoText(), RuntimeError("\x1b[2J\n")],
    ids=["nul", "half", "no-text", "control"],
)
def test_any_text_is_kept_shown_and_retried(
    alias: str,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
    payload: Any,
    error: Exception,
) -> None:
    caplog.set_level(logging.CRITICAL, "datastream_ws")  # xdist cannot carry such texts
    failing(error)
    deliver(alias, payload, robust=True)
    row = FailedMessage.objects.get()
    assert row.payload == payload
    for text in (row.error, row.traceback, row.handler):
        assert "\0" not in text
        text.encode()
    browser = Browser()
    browser.force_login(User.objects.create_superuser("root"))
    for url in (reverse(LIST), reverse(PAGE, args=[row.pk])):
        assert browser.get(url).status_code == 200
    form = {"action": "retry", "_selected_action": [row.pk]}
    assert browser.post(reverse(LIST), form).status_code == 302
    assert FailedMessage.objects.get().attempts == 2
    failing(None)
    call_command("datastream_retry_failed", alias)
    assert not FailedMessage.objects.exists()


def test_an_odd_row_does_not_stop_those_behind_it(alias: str, failing: Failing) -> None:
    """One of no text, of a stream that is gone, or of what should be text and is not."""
    failing(RuntimeError("no"))
    for _ in range(4):
        deliver(alias, "{}", robust=True)
    first, second, third, _ = FailedMessage.objects.order_by("pk")
    FailedMessage.objects.filter(pk=first.pk).update(data=b"\xff")
    FailedMessage.objects.filter(pk=second.pk).update(stream="gone")
    FailedMessage.objects.filter(pk=third.pk).update(handler="shop.removed")
    failing(None)
    with pytest.raises(SystemExit):
        call_command("datastream_retry_failed")
    assert [row.stream for row in FailedMessage.objects.all()] == ["gone"]


def rows_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, FailedMessage) for each in gc.get_objects())


def test_the_command_holds_few_messages_in_memory(alias: str, failing: Failing) -> None:
    failing(RuntimeError("no"))
    for _ in range(20):
        deliver(alias, "{}", robust=True)
    held: list[int] = []

    @datastreams[alias].on_message
    def look(message: Any) -> None:
        held.append(rows_in_memory())

    FailedMessage.objects.update(handler="shop.removed")  # so that all handlers get the message
    failing(None)
    before = rows_in_memory()  # of other tests
    call_command("datastream_retry_failed", alias)
    assert not FailedMessage.objects.exists()
    assert len(held) == 20
    assert max(held) - before <= 2


def test_a_message_that_is_retried_or_deleted_meanwhile_is_left_out(
    alias: str, failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(RuntimeError("no"))
    for _ in range(3):
        deliver(alias, "{}", robust=True)
    _, retried, deleted = FailedMessage.objects.order_by("pk")

    @datastreams[alias].on_message
    def meanwhile(message: Any) -> None:
        FailedMessage.objects.filter(pk=retried.pk).update(attempts=2)
        FailedMessage.objects.filter(pk=deleted.pk).delete()

    FailedMessage.objects.update(handler="shop.removed")
    failing(None)
    call_command("datastream_retry_failed", alias)
    assert "1 handled, 0 failed again, 2 left out" in capsys.readouterr().out
    assert FailedMessage.objects.get().pk == retried.pk


@pytest.mark.parametrize(
    "alias",
    [{"DEAD_LETTER_ROWS": 2}, {"DEAD_LETTER_BYTES": 6000}],
    ids=["rows", "bytes"],
    indirect=True,
)
def test_no_more_than_the_settings_say(
    alias: str,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What there is no room for is counted, and told of once; with room again rows are kept."""
    failing(RuntimeError("no"))
    for _ in range(20):
        deliver(alias, "x", robust=True)
    kept = FailedMessage.objects.count()
    assert 0 < kept < 10
    size = sum(len(r.data) + len(r.error) + len(r.traceback) for r in FailedMessage.objects.all())
    assert size <= 6000 or kept == 2
    assert caplog.text.count("DEAD_LETTER_BYTES is reached") == 1
    FailedMessage.objects.all().delete()
    monkeypatch.setattr(deadletters, "LOOK_SECONDS", 0.0)
    deliver(alias, "x", robust=True)
    assert FailedMessage.objects.count() == 1
    assert caplog.text.count(f"kept as rows again; {20 - kept} were not kept") == 1


@pytest.mark.parametrize("alias", [{"DEAD_LETTER_BYTES": 40_000}], indirect=True)
@pytest.mark.parametrize("looks", [0.0, 1e9], ids=["by the database", "by the rows"])
def test_bytes_are_counted_not_characters(
    alias: str, failing: Failing, monkeypatch: pytest.MonkeyPatch, looks: float
) -> None:
    """Of text in other alphabets each character takes several."""
    monkeypatch.setattr(deadletters, "LOOK_SECONDS", looks)
    failing(RuntimeError("\N{PILE OF POO}" * 900))
    for _ in range(20):
        deliver(alias, "\N{PILE OF POO}", robust=True)
    rows = FailedMessage.objects.all()
    size = sum(len(r.data) + len((r.error + r.traceback).encode()) for r in rows)
    assert 0 < size <= 40_000
    assert len(rows) < 20


@pytest.mark.parametrize("value", [-1, 1.5, "7", True])
@pytest.mark.parametrize("name", ["DEAD_LETTER_ROWS", "DEAD_LETTER_BYTES"])
def test_wrong_limits(name: str, value: Any) -> None:
    with (
        override_settings(DATASTREAMS={"default": {**SETTING, name: value}}),
        pytest.raises(ImproperlyConfigured, match=name),
    ):
        streams_settings["default"]


def test_commands_refuse_an_unknown_stream_alike(alias: str) -> None:
    for command in ("datastream_status", "datastream_retry_failed"):
        with pytest.raises(CommandError, match="DATASTREAMS has no stream 'nowhere'"):
            call_command(command, "nowhere")


def found(text: str) -> set[str | bytes]:
    browser = Browser()
    browser.force_login(
        User.objects.get_or_create(username="root", is_superuser=True, is_staff=True)[0]
    )
    answer = browser.get(reverse(LIST), {"q": text})
    assert answer.status_code == 200
    return {row.payload for row in answer.context["cl"].queryset}


def test_the_search_looks_into_payloads(alias: str, failing: Failing) -> None:
    failing(RuntimeError("no such product"))
    plain, escaped, binary = '{"name": "Käse"}', '{"name": "K\\u00e4se", "n": 7}', b"\xff Brie \0"
    for payload in (plain, escaped, binary):
        deliver(alias, payload, robust=True)
    assert found("Käse") == {plain, escaped}
    assert found("name 7") == {escaped}
    assert found('"Brie"') == {binary}
    assert found("PRODUCT") == {plain, escaped, binary}
    assert found("brie") == found("100%") == set()


SEARCH = """
from datastream_ws_django.bulk import found
from datastream_ws_django.models import FailedMessage
print(sorted(row.seq for row in found(FailedMessage.objects.all(), {!r})))
"""


TWO_AT_ONCE = """
import threading
from django.db import connection
from datastream_ws_django.deadletters import retry
from datastream_ws_django.models import FailedMessage
from shop.models import Tick
barrier, outcomes = threading.Barrier(2), []
def press():
    rows = list(FailedMessage.objects.order_by("seq"))
    try:
        for row in rows:
            barrier.wait()
            outcomes.append(retry([row]))
    finally:
        connection.close()
threads = [threading.Thread(target=press) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("handled", sum(each.handled for each in outcomes), "failed",
      sum(each.failed for each in outcomes), "left", sum(each.left_out for each in outcomes))
"""


def test_two_who_press_retry_at_once_run_the_handler_once(tmp_path: Path, database: str) -> None:
    with NumberedServer(20) as server:
        project = Project(tmp_path, server.url, database=database, HANDLER="failing")
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            letters = "SELECT id FROM datastream_failedmessage"
            runner.wait_for(lambda: len(project.query(letters)) == 10)
    again = project.manage("shell", "-c", TWO_AT_ONCE)
    assert "handled 0 failed 10 left 10" in again
    attempts = "SELECT attempts FROM datastream_failedmessage"
    assert project.query(attempts) == [2] * 10
    # Long enough that the second one comes while the handler runs.
    told = project.manage("shell", "-c", TWO_AT_ONCE, MENDED="0.05")
    assert "handled 10 failed 0 left 10" in told
    assert project.query(letters) == []


def test_what_a_killed_process_was_retrying_can_be_retried_later(
    tmp_path: Path, database: str
) -> None:
    with NumberedServer(2) as server:
        project = Project(tmp_path, server.url, database=database, HANDLER="failing")
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            claims = "SELECT claimed_at FROM datastream_failedmessage"
            runner.wait_for(lambda: project.query(claims) == [None])
    with project.start("datastream_retry_failed", MENDED="600") as killed:
        killed.wait_for(lambda: project.query(claims) != [None], "the claim")
        told = project.manage("datastream_retry_failed", MENDED="0.01")
        assert "0 handled, 0 failed again, 1 left out" in told
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    project.manage("shell", "-c", LATER)
    assert "1 handled, 0 failed again" in project.manage("datastream_retry_failed", MENDED="0.01")
    assert project.query(claims) == []


LATER = """
from datetime import timedelta
from django.db.models import F
from datastream_ws_django.claims import CLAIM_SECONDS
from datastream_ws_django.models import FailedMessage
FailedMessage.objects.update(claimed_at=F("claimed_at") - timedelta(seconds=CLAIM_SECONDS))
"""


def test_ctrl_c_gives_a_claim_up(alias: str, failing: Failing) -> None:
    failing(RuntimeError("first"))
    deliver(alias, {}, robust=True)
    failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        deadletters.retry(FailedMessage.objects.filter(stream=alias))
    failing(None)
    assert deadletters.retry(FailedMessage.objects.filter(stream=alias)).handled == 1


def test_rows_need_no_report(tmp_path: Path, database: str) -> None:
    """A report that hangs holds up none, and a coroutine handler's text is as odd as it likes."""
    with NumberedServer(20) as server:
        project = Project(tmp_path, server.url, database=database, HANDLER="odd")
        project.manage("migrate")
        with project.start("run_datastream") as runner:
            letters = "SELECT seq FROM datastream_failedmessage ORDER BY id"
            runner.wait_for(lambda: len(project.query(letters)) == 20)
    assert project.query(letters) == list(range(1, 21))
    assert "[7]" in project.manage("shell", "-c", SEARCH.format('number "\\"n\\": 7"'))
    assert "20 failed again" in project.manage("datastream_retry_failed", code=1)
    assert "20 handled" in project.manage("datastream_retry_failed", MENDED="1")
