"""``manage.py run_datastream``, which runs streams until it is stopped."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError
from django.utils import autoreload

from datastream_ws import Client, DataStreamError, Fleet
from datastream_ws.embedding import EscapingFormatter
from datastream_ws.runner import Runner, leave

from ...conf import DATABASE_LEASE
from ...heartbeat import beating
from ...migrated import unapplied
from ...models import StreamLease
from ...streams import Stream, datastreams
from ..arguments import count, seconds_above_0


class Command(BaseCommand):
    help = (
        "Runs streams until SIGTERM or SIGINT, and then handles the received messages. A second "
        "signal stops it immediately. Exit codes: 0 stopped, 1 invalid configuration, 2 usage, "
        "3 a stream gave up, 4 the shutdown took too long, or a second signal arrived."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "aliases", nargs="*", metavar="ALIAS", help="Streams to run (default: all enabled)"
        )
        parser.add_argument("--reload", action="store_true", help="Restart when code changes")
        parser.add_argument("--max-messages", type=count, metavar="N", help="Stop after N messages")
        parser.add_argument(
            "--shutdown-timeout",
            type=seconds_above_0,
            metavar="SECONDS",
            help="Seconds to handle the received messages (default: CLOSE_TIMEOUT)",
        )
        parser.add_argument(
            "--health-file", metavar="PATH", help="Write the state to this file every 5 seconds"
        )
        parser.add_argument("--no-lease", action="store_true", help="Connect without a lease")

    def handle(self, *args: Any, **options: Any) -> None:
        show_log(self.stdout, options["verbosity"])
        if options["reload"]:
            autoreload.run_with_reloader(self.run_reloaded, **options)
            return
        if code := self.run(options):
            leave(code)

    def run_reloaded(self, **options: Any) -> None:
        """Run on a thread beside the reloader. When the reloader exits, the streams close."""
        autoreload.raise_last_exception()
        try:
            self.run(options)
        except CommandError as error:
            self.stderr.write(f"{type(error).__name__}: {error}")

    def run(self, options: dict[str, Any]) -> int:
        """Run the streams until they end. Return the exit code."""
        try:
            clients = [self.client(stream, options) for stream in chosen(options["aliases"])]
            with beating(clients) as beat:
                runner = Runner(
                    clients,
                    shutdown_timeout=options["shutdown_timeout"],
                    max_messages=options["max_messages"],
                    health_file=options["health_file"],
                    on_beat=beat,
                )
                return runner.run()
        # Some errors are found only at the start, such as a missing extra.
        except (ImproperlyConfigured, DataStreamError) as error:
            raise CommandError(str(error)) from error

    def client(self, stream: Stream, options: dict[str, Any]) -> Client | Fleet:
        lease = not options["no_lease"]
        if lease and stream.settings.options.get("LEASE") == DATABASE_LEASE:
            refuse_missing_table(stream)
        return stream.prepare(foreground=True, lease=lease)


def chosen(aliases: list[str]) -> list[Stream]:
    """Return the streams to run. Raises CommandError if there are none."""
    enabled = datastreams.enabled
    streams = [datastreams[alias] for alias in dict.fromkeys(aliases)] or enabled
    disabled = [stream.alias for stream in streams if not stream.settings.enabled]
    if disabled:
        raise CommandError(
            f'The stream {disabled[0]!r} has "ENABLED": False. Enable it, or leave it out.'
        )
    if not streams:
        raise CommandError(
            "No stream is enabled. Add one to the settings, for example "
            'DATASTREAMS = {"default": {"URL": "wss://…"}}.'
        )
    return streams


def refuse_missing_table(stream: Stream) -> None:
    """Raise CommandError if the lease's table cannot be read, because no process would get it."""
    try:
        StreamLease.objects.exists()
    except (DatabaseError, InterfaceError) as error:
        fact = f"its table cannot be read ({type(error).__name__})"
        cure = "Check the database"
        with suppress(DatabaseError, InterfaceError):  # it is unavailable
            if (found := next(unapplied(), None)) is not None:
                fact, cure = found.fact, f"Run `{found.command}`"
        raise CommandError(
            f'The stream {stream.alias!r} has "LEASE": "database", but {fact}. {cure}, or use '
            "--no-lease."
        ) from error


def show_log(stdout: Any, verbosity: int) -> None:
    """Print the streams' log, unless the project's LOGGING handles it."""
    logger = logging.getLogger("datastream_ws")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler(stdout)
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    levels = {0: logging.CRITICAL, 1: logging.INFO}
    logger.setLevel(levels.get(verbosity, logging.DEBUG))
