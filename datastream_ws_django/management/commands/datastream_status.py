"""``manage.py datastream_status``, which prints the state of streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from datastream_ws.embedding import (
    DEAD,
    HEALTHY,
    StatusRow,
    age,
    counts_of,
    fleet_note,
    quiet_in_pipe,
    share_note,
    show,
    watch,
)

from ...health import MAX_AGE, StreamReport, is_fleet, known, report
from ...streams import datastreams
from ..arguments import seconds
from ..errors import explained


class Command(BaseCommand):
    help = (
        "Shows the state of streams, as their runners last reported it. Exit codes: 0 all "
        "streams are healthy, 1 a stream is unhealthy, stale or never started."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "aliases",
            nargs="*",
            metavar="ALIAS",
            help="Streams to show (default: all that run_datastream runs)",
        )
        parser.add_argument("--key", metavar="KEY", help="Key of one stream of a fleet")
        parser.add_argument("--json", action="store_true", help="Print JSON")
        parser.add_argument(
            "--watch", action="store_true", help="Repeat the output every 2 seconds until Ctrl-C"
        )
        parser.add_argument(
            "--max-age",
            type=seconds,
            default=MAX_AGE,
            metavar="SECONDS",
            help="Seconds after which a heartbeat is stale (default: %(default)g)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with explained("The status cannot be read"):
            names = [known(alias) for alias in options["aliases"]]
            if options["key"] is not None:
                names = [one_stream(names, options["key"])]
            names = names or of_runners()
        with quiet_in_pipe():
            if options["watch"]:
                self.stdout.ending = ""
                redrawn = False if options["json"] else None
                well = watch(lambda: self.look_again(names, options), self.stdout, redrawn=redrawn)
            else:
                text, well = self.look(names, options)
                self.stdout.write(text)
        if not well:
            sys.exit(1)

    def look_again(self, aliases: list[str], options: dict[str, Any]) -> tuple[str, bool]:
        """Call :meth:`look`, and return its error as text. The next call uses a new connection."""
        try:
            return self.look(aliases, options)
        except CommandError as error:
            connections.close_all()
            return str(error), False

    def look(self, aliases: list[str], options: dict[str, Any]) -> tuple[str, bool]:
        """Return the text, and whether all streams are healthy. Raises CommandError."""
        with explained("The status cannot be read"):
            streams = report(aliases, options["max_age"])
        if options["json"]:
            text = json.dumps({"streams": [asdict(stream) for stream in streams]})
        else:
            rows = [row for stream in streams for row in rows_of(stream, options["max_age"])]
            colored = not options["no_color"]
            text = show(rows, self.stdout, colored=colored)
        return text, all(stream.is_healthy for stream in streams)


def rows_of(stream: StreamReport, max_age: float) -> Iterator[StatusRow]:
    """Yield a row for each process. A fleet has a row of its own before them."""
    if stream.streams is not None or not stream.runners:
        yield StatusRow(
            stream=stream.stream,
            state=stream.state,
            is_healthy=stream.is_healthy,
            note=fleet_note(stream.streams, stream.source_size),
        )
    for runner in stream.runners:
        yield row_of_runner(stream.stream, runner, max_age)


def row_of_runner(stream: str, runner: Mapping[str, Any], max_age: float) -> StatusRow:
    seen, state = age_of(runner["beat_at"]), runner["state"]
    is_fresh = seen is not None and seen <= max_age
    return StatusRow(
        stream=stream,
        state=state if is_fresh or state in DEAD else f"stale ({state})",
        is_healthy=is_fresh and state in HEALTHY,
        runner=f"{runner['host']}/{runner['pid']}",
        seen=seen,
        since=age_of(runner["state_since"]),
        message=age_of(runner["last_message_at"]),
        error=runner["last_error"],
        error_age=age_of(runner["last_error_at"]),
        note=share_note(runner["streams"]),
        counts=counts_of(runner),
    )


def age_of(moment: str | None) -> float | None:
    """Return the seconds since a time in ISO format."""
    at = parse_datetime(moment) if moment else None
    return None if at is None else age(at.timestamp(), timezone.now().timestamp())


def one_stream(aliases: list[str], key: str) -> str:
    """Return the name of a fleet's stream. Raises CommandError if it is not a fleet."""
    if len(aliases) != 1 or not is_fleet(aliases[0]):
        raise CommandError("--key requires the name of one fleet, which is a stream with SOURCE.")
    return f"{aliases[0]}/{key}"


def of_runners() -> list[str]:
    """Return the enabled streams without AUTOSTART. Raises CommandError if there are none."""
    found = [stream.alias for stream in datastreams.enabled if not stream.settings.autostart]
    if not found:
        raise CommandError(
            "DATASTREAMS has no enabled stream without AUTOSTART. For streams with AUTOSTART, use "
            "the health views."
        )
    return found
