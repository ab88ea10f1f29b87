"""``manage.py datastream_status``: what the runners say, with an exit code."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

from ...conf import streams_settings
from ...health import MAX_AGE, StreamReport, report
from ...streams import datastreams


class Command(BaseCommand):
    help = (
        "Shows how streams are, as their runners last said. Exit codes: 0 all healthy, 1 one is "
        "unhealthy, stale or was never started."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("aliases", nargs="*", metavar="ALIAS", help="default: all of runners")
        parser.add_argument("--key", metavar="KEY", help="Key of one stream of a fleet")
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.add_argument(
            "--max-age", type=float, default=MAX_AGE, metavar="SECONDS", help="of a heartbeat"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            known = [streams_settings[alias].alias for alias in options["aliases"]]
            if options["key"] is not None:
                known = [one_stream(known, options["key"])]
            streams = report(known or of_runners(), options["max_age"])
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except (DatabaseError, InterfaceError) as error:
            raise CommandError(
                f"the status cannot be read ({type(error).__name__}); was `manage.py migrate` run?"
            ) from error
        if options["json"]:
            self.stdout.write(json.dumps({"streams": [asdict(stream) for stream in streams]}))
        else:
            for stream in streams:
                self.tell(stream)
        if not all(stream.is_healthy for stream in streams):
            sys.exit(1)

    def tell(self, stream: StreamReport) -> None:
        style = self.style.SUCCESS if stream.is_healthy else self.style.ERROR
        self.stdout.write(f"{stream.stream}: {style(stream.state)}{of_fleet(stream)}")
        for runner in stream.runners:
            self.stdout.write(
                "  {host}, process {pid}: {state} at {beat_at}; received {messages_received}, "
                "handled {messages_handled}{unrouted}, failed {messages_failed}, "
                "reconnects {reconnects}{error}".format(
                    unrouted=without_handler(runner["messages_unrouted"]),
                    error=with_error(runner["last_error"]),
                    **runner,
                )
            )


def one_stream(aliases: list[str], key: str) -> str:
    """Return the name of a fleet's stream; raises CommandError."""
    if len(aliases) != 1 or not streams_settings[aliases[0]].is_fleet:
        raise CommandError("--key goes with the name of one fleet, a stream with SOURCE.")
    return f"{aliases[0]}/{key}"


def of_fleet(stream: StreamReport) -> str:
    if stream.streams is None:
        return ""
    counts = sorted(stream.streams.items(), key=lambda pair: -pair[1])
    states = ", ".join(f"{number:,} {state}" for state, number in counts) or "none here"
    return f"; streams: {states}; rows in the source: {stream.source_size or 0:,}"


def of_runners() -> list[str]:
    """The streams that runners have: those with AUTOSTART are kept by serving processes."""
    found = [stream.alias for stream in datastreams.enabled if not stream.settings.autostart]
    if not found:
        raise CommandError(
            "DATASTREAMS has no enabled stream for run_datastream; those with AUTOSTART are shown "
            "by the health views of the processes that serve"
        )
    return found


def without_handler(count: int) -> str:
    return f", without a handler {count}" if count else ""


def with_error(text: str) -> str:
    return f"\n    last error: {text}" if text else ""
