"""Measure Django's admin after a week of twenty streams: pages, rows and the cost of writing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.adminsite import ADMIN
from benchmarks.fresh import fresh
from benchmarks.parts import Aim, Figures, Part, Scale, rows

__all__ = ["PARTS", "measured"]

STREAMS = 20
DAYS = 7
EVENTS = 1000  # of each stream
BEATS = 60  # five minutes of heartbeats, so that they include the ends of minutes
BEAT_SECONDS = 5.0
VISITS = 9  # of each page

PAGE = Aim("slowest page of the admin after a week of 20 streams", 200, at_least=False, unit=" ms")
ROWS = Aim("rows of that week", 40, at_least=False, unit=" MB")
WRITING = Aim(
    "CPU of a runner's heartbeats with 20 streams, of a core", 1, at_least=False, unit=" %"
)


# --- in its own process ----------------------------------------------------------------------


def measured(url: str) -> Figures:
    """
    Fill a database, and measure its size, each page and the heartbeats.

    Args:
        url: The URL of PostgreSQL. An empty string means a SQLite file.

    """
    with database(url) as settings:
        set_up(settings)
        empty = size()
        fill()
        week = size() - empty
        pages = {name: visited(path) for name, path in paths().items()}
        return {"megabytes": week / 1e6, "pages": pages, "cpu": writing()}


@contextmanager
def database(url: str) -> Iterator[dict[str, Any]]:
    """Yield an entry of DATABASES, and delete the database at the end."""
    if not url:
        with tempfile.TemporaryDirectory() as folder:
            yield {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(folder) / "db.sqlite3"}
        return
    import psycopg

    name, parts = f"datastream_bench_{os.getpid()}", urlsplit(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        yield {
            **{"ENGINE": "django.db.backends.postgresql", "NAME": name},
            **{"USER": parts.username, "PASSWORD": parts.password or ""},
            **{"HOST": parts.hostname, "PORT": parts.port or ""},
        }
    finally:
        from django.db import connections

        connections.close_all()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def set_up(database: dict[str, Any]) -> None:
    import django
    from django.conf import settings
    from django.core.management import call_command

    settings.configure(
        **ADMIN,
        SECRET_KEY="for the benchmark only",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.admin_urls",
        DATABASES={"default": database},
        DATASTREAMS={alias: {"URL": "ws://127.0.0.1:1/"} for alias in aliases()},
    )
    django.setup()
    call_command("migrate", verbosity=0)


def aliases() -> list[str]:
    return [f"stream-{number}" for number in range(STREAMS)]


def size() -> int:
    """Return the size of the database in bytes, with its indexes."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_database_size(current_database())")
        else:
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return int(cursor.fetchone()[0])


def fill() -> None:
    """Write the rows of a week: minutes, events and a status row for each stream."""
    from datetime import timedelta

    from django.db import connection, transaction
    from django.utils import timezone

    from datastream_ws_django.models import StreamEvent, StreamMinute, StreamStatus

    now, minute = timezone.now(), int(time.time() // 60)
    handler = {"calls": 10**6, "failures": 3, "p50": 1e-4, "p95": 1e-3, "max": 0.5}
    figures = {"received": 6000, "handled": 5999, "failed": 1, "waiting": 3, "reconnects": 0}
    with transaction.atomic():
        for number in range(DAYS * 1440):
            StreamMinute.objects.bulk_create(
                StreamMinute(
                    **{"stream": alias, "minute": minute - DAYS * 1440 + number, "run": 2**61 + 7},
                    **{"connected": 60, "handler_p95": 0.0123, **figures},
                )
                for alias in aliases()
            )
        for alias in aliases():
            StreamStatus.objects.create(
                **{"stream": alias, "host": "host", "pid": 1, "state": "ready", "beat_at": now},
                **{"state_since": now, "handlers": {f"shop.{n}": handler for n in range(5)}},
            )
            StreamEvent.objects.bulk_create(
                StreamEvent(
                    **{"stream": alias, "at": now - timedelta(minutes=10 * n), "kind": "lost"},
                    **{"text": "connection closed by the server (1001)", "process": "host, 1"},
                )
                for n in range(EVENTS)
            )
    if connection.vendor == "postgresql":
        connection.cursor().execute("VACUUM ANALYZE")  # as autovacuum does during a week


def paths() -> dict[str, str]:
    from django.urls import reverse

    [alias, *_] = aliases()
    data = reverse("admin:datastream_live_data", args=[alias])
    return {
        "overview": reverse("admin:datastream_streamstatus_changelist"),
        "live": reverse("admin:datastream_live", args=[alias]),
        **{f"history, {span}": f"{data}?range={span}" for span in ("1h", "24h", "7d")},
        "processes": reverse("admin:datastream_processes"),
    }


def visited(path: str) -> float:
    """Return the milliseconds for a page, without a network and a browser."""
    from django.contrib.auth.models import User
    from django.test import Client

    browser = Client()
    user = User.objects.filter(username="root").first() or User.objects.create_superuser("root")
    browser.force_login(user)
    took = []
    for _ in range(VISITS):
        began = time.perf_counter()
        answer = browser.get(path)
        took.append(1000 * (time.perf_counter() - began))
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: status {answer.status_code}")
    return median(took[1:])  # the first one compiles templates


def writing() -> float:
    """Return the CPU share of a runner's heartbeats, in percent of a core."""
    from datastream_ws import Client
    from datastream_ws_django import heartbeat

    clients = [Client("ws://127.0.0.1:1/", name=alias) for alias in aliases()]
    beats = heartbeat.Heartbeat(clients)
    beats.close(10)  # ends its thread, because the heartbeats below run here
    used = time.process_time()
    for number in range(BEATS):
        beats._beat(healths(number))
    share = (time.process_time() - used) / (BEATS * BEAT_SECONDS)
    return 100 * share


def healths(number: int) -> list[Any]:
    from datastream_ws.embedding import StreamHealth

    total, now = 500 * number, time.time() + BEAT_SECONDS * number
    return [
        StreamHealth(
            name=alias,
            state="ready",
            at=now,
            pid=os.getpid(),
            messages_received=total,
            messages_handled=total,
            messages_failed=0,
            messages_dropped=0,
            messages_waiting=0,
            messages_spooled=0,
            reconnects=0,
            connected_since=now,
            last_message_at=now,
            last_error=None,
        )
        for alias in aliases()
    ]


# --- the part -------------------------------------------------------------------------------------


def measure(scale: Scale) -> Figures:
    servers = {"SQLite": "", "PostgreSQL": os.environ.get("DATABASE_URL", "")}
    found = {
        name: fresh("admin", "measured", url=url)
        for name, url in servers.items()
        if url or name == "SQLite"
    }
    every = list(found.values())
    aims = [
        PAGE.json([max(max(each["pages"].values()) for each in every)]),
        ROWS.json([max(each["megabytes"] for each in every)]),
        WRITING.json([max(each["cpu"] for each in every)]),
    ]
    return {"aims": aims, "databases": found}


def show(figures: Figures) -> list[str]:
    found = figures["databases"]
    pages: dict[str, Callable[[Figures], str]] = {
        f"{page}, ms": lambda each, page=page: f"{each['pages'][page]:.0f}"  # type: ignore[misc]
        for page in next(iter(found.values()))["pages"]
    }
    figure: dict[str, Callable[[Figures], str]] = {
        **pages,
        "rows, MB": lambda each: f"{each['megabytes']:.1f}",
        "writing, % of a core": lambda each: f"{each['cpu']:.2f}",
    }
    body = [[name, *(of(each) for each in found.values())] for name, of in figure.items()]
    text = f"{STREAMS} streams, {DAYS} days of minutes, {EVENTS:,} events of each stream."
    return [text, "", *rows(["", *found], body)]


PARTS = [Part("admin", "Django's admin after a week", measure, show)]
