"""The history of the streams, from the event log that the admin shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from django.db.models import QuerySet

from datastream_ws_django.models import StreamEvent

__all__ = ["Gap", "events", "gaps"]


class Gap(NamedTuple):
    """A time without a connection."""

    began: datetime
    ended: datetime

    @property
    def seconds(self) -> float:
        return (self.ended - self.began).total_seconds()


def events() -> QuerySet[StreamEvent]:
    """Return all events except ``connected``, which ``ready`` always follows."""
    return StreamEvent.objects.exclude(kind="connected")


def gaps(stream: str, since: datetime | None = None) -> Iterator[Gap]:
    """Yield the gaps between two connections of a process."""
    found = events().filter(stream=stream, kind__in=("lost", "gap"))
    began: dict[str, datetime] = {}
    for event in (found if since is None else found.filter(at__gte=since)).order_by("at", "pk"):
        if event.kind == "lost":
            began.setdefault(event.process, event.at)
        elif event.process in began:
            yield Gap(began.pop(event.process), event.at)
