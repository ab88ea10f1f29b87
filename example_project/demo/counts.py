"""The counters of the clients and the tasks, from the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Sum
from django.utils import timezone

from datastream_ws_django.models import StreamStatus
from example_project.demo.services import Service
from example_project.shop.history import events, gaps
from example_project.shop.models import Candle, Price, Supplier

__all__ = ["Counted", "shares", "summary"]

FRESH_SECONDS = 8.0  # without a heartbeat, after which a process counts as killed


@dataclass(frozen=True)
class Counted:
    """The number of prices, candles and gaps."""

    prices: int
    candles: int
    gaps: int

    @classmethod
    def now(cls) -> Counted:
        gaps = events().filter(kind="gap")
        return cls(Price.objects.count(), Candle.objects.count(), gaps.count())

    def __str__(self) -> str:
        return f"{self.prices} prices, {self.candles} candles, {self.gaps} gaps"


def summary(services: Sequence[Service], kiosk: Mapping[str, int]) -> Iterator[str]:
    """Yield the lines of the summary."""
    yield ""
    yield "            received   handled   failed   reconnects   without a connection"
    for stream in ("flags", "prices", "suppliers"):
        rows = StreamStatus.objects.filter(stream=stream)
        total = rows.aggregate(
            received=Sum("messages_received", default=0),
            handled=Sum("messages_handled", default=0),
            failed=Sum("messages_failed", default=0),
            reconnects=Sum("reconnects", default=0),
        )
        yield _line(stream, total, "" if stream == "suppliers" else _gaps(stream))
    if kiosk:
        yield _line("kiosk", kiosk, "")
    yield ""
    yield f"  tasks     {_tasks()}"
    yield f"  restarts  {_restarts(services)}"


def _line(name: str, counts: Mapping[str, int], gaps: str) -> str:
    numbers = f"{counts['received']:>8}  {counts['handled']:>8}  {counts['failed']:>7}"
    numbers += f"  {counts['reconnects']:>11}"
    return f"  {name:<9} {numbers}   {gaps}".rstrip()


def _gaps(stream: str) -> str:
    found = list(gaps(stream))
    seconds = sum(gap.seconds for gap in found)
    return f"{len(found)} {'gap' if len(found) == 1 else 'gaps'}, {seconds:.1f} s"


def _tasks() -> str:
    tasks = Price.objects.values("task").distinct().count()
    stored, newest = Price.objects.count(), Price.objects.first()
    missing = (newest.sequence if newest else 0) - stored
    return (
        f"{tasks} tasks stored {stored} prices, {missing or 'none'} missing, "
        f"and drew {Candle.objects.count()} candles"
    )


def _restarts(services: Sequence[Service]) -> str:
    restarted = [f"{it.name} {it.restarts}" for it in services if it.restarts]
    return ", ".join(restarted) or "none"


def shares() -> str:
    """Return the number of suppliers' streams in each process. It's empty unless all are ready."""
    oldest = timezone.now() - timedelta(seconds=FRESH_SECONDS)
    rows = StreamStatus.objects.filter(stream="suppliers", beat_at__gte=oldest)
    ready = {row.pid: (row.streams or {}).get("ready", 0) for row in rows.order_by("pid")}
    if sum(ready.values()) != Supplier.objects.count():
        return ""
    return ", ".join(f"{number} in process {pid}" for pid, number in ready.items() if number)
