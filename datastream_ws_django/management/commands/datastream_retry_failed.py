"""``manage.py datastream_retry_failed``, which retries failed messages."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from ...conf import streams_settings
from ...deadletters import retry
from ...models import FailedMessage
from ..errors import explained


class Command(BaseCommand):
    help = (
        "Passes failed messages to their handlers again, oldest first. Messages that are handled "
        "are removed from the table. Messages that another process is retrying are left out. Exit "
        "codes: 0 all handled, 1 some failed again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "aliases", nargs="*", metavar="ALIAS", help="Streams to retry (default: all)"
        )
        parser.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="Retry only messages that failed since then (2026-07-31T12:00)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with explained("The failed messages cannot be read"):
            known = [streams_settings[alias].alias for alias in options["aliases"]]
            outcome = retry(rows(known, options["since"]))
        others = f", {outcome.left_out} left out" if outcome.left_out else ""
        self.stdout.write(f"{outcome.handled} handled, {outcome.failed} failed again{others}")
        if outcome.failed:
            sys.exit(1)


def rows(aliases: list[str], since: datetime | None) -> Iterator[FailedMessage | None]:
    """
    Yield the chosen rows in the order in which the messages were received.

    Each is read when it's needed, because the payloads of all may not fit in memory. ``None`` is
    one that was retried or deleted meanwhile.
    """
    found = FailedMessage.objects.order_by("stream", "epoch", "seq", "pk")
    if aliases:
        found = found.filter(stream__in=aliases)
    if since is not None:
        found = found.filter(failed_at__gte=since)
    for pk, attempts in list(found.values_list("pk", "attempts")):
        yield FailedMessage.objects.filter(pk=pk, attempts=attempts).first()


def moment(text: str) -> datetime:
    """Parse a date or a time in the project's time zone."""
    found = parse_datetime(text)
    if found is None and (day := parse_date(text)) is not None:
        found = datetime(day.year, day.month, day.day)
    if found is None:
        raise ArgumentTypeError("must be a date or a time, such as 2026-07-31T12:00")
    return timezone.make_aware(found) if timezone.is_naive(found) else found
