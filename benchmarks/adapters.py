"""datastream-ws with a spool, in a Django project and in a Flask app.

Compare each with ``ours-sync``, which does the same work without them.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

from benchmarks.contestants import PATIENCE, Stopwatch, check, contestant
from benchmarks.ours import Variant

__all__: list[str] = []

UNLIMITED = {"inbox_size": None, "inbox_bytes": None}


# --- the spool ------------------------------------------------------------------------------------


@contestant("ours-unlimited")
def ours_unlimited(url: str, count: int) -> float:
    """synchronous handler, an inbox without limits"""
    return Variant(extras=UNLIMITED).run(url, count)


@contestant("ours-spool-idle")
def ours_spool_idle(url: str, count: int) -> float:
    """the same, with a spool that stays empty"""
    return with_spool(url, count, **UNLIMITED)


@contestant("ours-journal", pace=0.3)
def ours_journal(url: str, count: int) -> float:
    """with a journal: each message is written to the file first"""
    return with_spool(url, count, journal=True)


def with_spool(url: str, count: int, **options: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        spool = os.path.join(folder, "spool.db")
        return Variant(extras={"spool": spool, **options}).run(url, count)


# --- Django ---------------------------------------------------------------------------------------


def django_stream(url: str) -> Any:
    """Return the default stream of a project with a database."""
    import django
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=["datastream_ws_django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DATASTREAMS={"default": {"URL": url}},
    )
    django.setup()
    from django.db import connection

    from datastream_ws_django import datastream

    connection.ensure_connection()
    return datastream


def receive_in_django(
    url: str, count: int, *, decorator: bool = True, coroutine: bool = False
) -> float:
    stream = django_stream(url)
    from datastream_ws_django.signals import message_received

    watch, done = Stopwatch(count), threading.Event()

    def handle(message: Any) -> None:
        message.json()
        if watch.tick():
            done.set()

    def receiver(sender: Any, *, stream: Any, message: Any, **kwargs: Any) -> None:
        handle(message)

    async def handle_on_loop(message: Any) -> None:
        handle(message)

    if decorator:
        stream.on_message(handle_on_loop if coroutine else handle)
    else:
        message_received.connect(receiver, sender=stream)
    with stream:
        check(stream.client, done.wait(PATIENCE))
    return watch.seconds


@contestant("django-receiver")
def django_receiver(url: str, count: int) -> float:
    """Django: a receiver of message_received, with connection clean-up"""
    return receive_in_django(url, count, decorator=False)


@contestant("django-decorator")
def django_decorator(url: str, count: int) -> float:
    """Django: @datastream.on_message, with connection clean-up"""
    return receive_in_django(url, count, decorator=True)


@contestant("django-coroutine")
def django_coroutine(url: str, count: int) -> float:
    """Django: the same with a coroutine handler"""
    return receive_in_django(url, count, coroutine=True)


# --- Flask ----------------------------------------------------------------------------------------


def receive_in_flask(url: str, count: int, context: str) -> float:
    from flask import Flask

    from datastream_ws import Message
    from datastream_ws_flask import DataStream

    watch, done, stream = Stopwatch(count), threading.Event(), DataStream()

    @stream.on_message
    def handle(message: Message) -> None:
        message.json()
        if watch.tick():
            done.set()

    app = Flask("benchmark")
    app.config.update(DATASTREAM_URL=url, DATASTREAM_CONTEXT=context)
    stream.init_app(app)
    stream.start(app)
    with app.app_context():
        check(stream.client, done.wait(PATIENCE))
    stream.close(app)
    return watch.seconds


@contestant("flask", pace=0.7)
def flask_sync(url: str, count: int) -> float:
    """Flask: @datastream.on_message, in an application context for each message"""
    return receive_in_flask(url, count, "message")


@contestant("flask-run")
def flask_run(url: str, count: int) -> float:
    """Flask: the same, in an application context for each run"""
    return receive_in_flask(url, count, "run")


@contestant("flask-own", pace=0.7)
def flask_own(url: str, count: int) -> float:
    """no adapter: a handler that enters the application context itself"""
    from flask import Flask

    from datastream_ws import Client, Message

    watch, done, app = Stopwatch(count), threading.Event(), Flask("benchmark")
    client = Client(url)

    @client.on_message
    def handle(message: Message) -> None:
        with app.app_context():
            message.json()
        if watch.tick():
            done.set()

    with client:
        check(client, done.wait(PATIENCE))
    return watch.seconds
