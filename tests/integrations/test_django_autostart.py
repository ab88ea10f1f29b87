"""AUTOSTART: what is configured wrongly answers no request with 500, and is logged once."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import logging
import threading
from io import BytesIO
from typing import Any

import pytest
from django.core import mail
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings

from datastream_ws_django import datastreams
from datastream_ws_django.autostart import on_request_started
from datastream_ws_django.checks import check_settings

pytestmark = pytest.mark.django_db

RIGHT = {"URL": "ws://127.0.0.1:1/", "AUTOSTART": True}
WRONG: dict[str, Any] = {
    "no URL": {"AUTOSTART": True},
    "unknown option": {**RIGHT, "RECONNECT_DELAY": 1},
    "wrong value": {**RIGHT, "PONG_TIMEOUT": -1},
    "dotted path": {**RIGHT, "HEADERS": "nowhere.headers"},
    "no dict": "ws://127.0.0.1:1/",
    "lease": {**RIGHT, "LEASE": "somewhere"},
}

# Where the system checks show it.
CHECKS = {
    "no URL": "datastream.W001",
    "unknown option": "datastream.E002",
    "no dict": "datastream.E002",
    "dotted path": "datastream.E003",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_answers_no_request_with_500(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mail, "outbox", raising=False)  # as in a serving process
    with override_settings(DATASTREAMS={"feed": WRONG[name]}, ALLOWED_HOSTS=["*"]):
        found = [message.id for message in check_settings()]
        # W002 is for the streams of other tests in this process.
        assert set(found) - {"datastream.W002"} == {CHECKS.get(name, "datastream.E004")}
        request_started.connect(on_request_started, dispatch_uid="datastream_ws_django")
        try:
            with caplog.at_level(logging.ERROR, "datastream_ws"):
                assert [ask(), ask()] == ["302 Found", "302 Found"]
        finally:
            request_started.connect(on_request_started, dispatch_uid="datastream_ws_django")
            datastreams.forget_clients()
    told = [record for record in caplog.records if "AUTOSTART" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("lacks", [True, False])
def test_missing_migrations_are_logged_once(
    lacks: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mail, "outbox", raising=False)  # as in a serving process
    recorder = MigrationRecorder(connection)
    if lacks:
        recorder.record_unapplied("datastream", "0005_retry_claims")
    with override_settings(DATASTREAMS={"feed": RIGHT}, ALLOWED_HOSTS=["*"]):
        request_started.connect(on_request_started, dispatch_uid="datastream_ws_django")
        try:
            with caplog.at_level(logging.WARNING, "datastream_ws"):
                assert [ask(), ask()] == ["302 Found", "302 Found"]
                for thread in threading.enumerate():
                    if thread.name == "datastream-migrations":
                        thread.join(10)
        finally:
            request_started.connect(on_request_started, dispatch_uid="datastream_ws_django")
            datastreams.forget_clients()
            if lacks:
                recorder.record_applied("datastream", "0005_retry_claims")
    told = [record.getMessage() for record in caplog.records if "migrat" in record.getMessage()]
    text = "the database 'default' lacks migrations of datastream_ws_django (0005_retry_claims)"
    assert told == ([f"{text}; run `manage.py migrate`"] if lacks else [])


def ask() -> str:
    """Have a real handler answer a request, as a server does; return its status."""
    statuses: list[str] = []
    environ = {
        **{"REQUEST_METHOD": "GET", "PATH_INFO": "/admin/", "SERVER_NAME": "localhost"},
        **{"SERVER_PORT": "80", "wsgi.input": BytesIO(), "wsgi.url_scheme": "http"},
    }
    start: Any = lambda status, headers, *_: statuses.append(status)  # noqa: E731
    answer = WSGIHandler()(environ, start)
    b"".join(answer)
    return statuses[0]
