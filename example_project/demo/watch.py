"""A run of the demo: start the programs, print events, stop the programs, print the summary."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing, suppress
from urllib.parse import urlsplit

from example_project.demo.counts import Counted, shares, summary
from example_project.demo.parts import Parts
from example_project.demo.services import Service, end
from example_project.demo.signals import Signals
from example_project.demo.terminal import Terminal
from example_project.shop.history import events

__all__ = ["Demo"]

LOOK_EVERY = 0.1  # seconds
COUNT_EVERY = 0.5
VISIT_EVERY = 2.0
STARTS = 4  # failed starts in a row, after which the demo gives up
PATIENCE = 60.0  # seconds without a new price, with a limit


class Demo:
    """
    A run of the demo.

    Args:
        parts: The parts, which are prepared.
        signals: The counter of signals.
        limit: The number of prices after which to end. ``None`` means no limit.

    """

    def __init__(self, parts: Parts, signals: Signals, limit: int | None) -> None:
        self._parts = parts
        self._signals = signals
        self._limit = limit
        self._terminal = Terminal()
        self._services: list[Service] = []
        self._last_event = 0
        self._shares = ""
        self._kiosk: dict[str, int] = {}
        self._progress = (0, time.monotonic())  # prices, and when the last one came

    def run(self) -> int:
        """Run until the end, and return the exit code."""
        self._introduce()
        self._services = self._parts.services()
        try:
            for service in self._services:
                if not self._is_told_to_end:
                    service.start()
            code = self._watch()
            self._visit_kiosk()
            self._tell_events()
        finally:
            self._terminal.count("ending …")
            self._end()
        for line in summary(self._services, self._kiosk):
            self._terminal.print(line)
        return code

    def _introduce(self) -> None:
        parts, say = self._parts, self._terminal.print
        workers = "one worker" if len(parts.workers) == 1 else f"{len(parts.workers)} workers"
        streams = "datastream/streamstatus/live"
        say("A shop on Django, Celery and Flask. Its feed drops regularly. Ctrl-C stops it.")
        say()
        say(f"  site     {parts.site_url}")
        say(f"  admin    {parts.site_url}admin/  (user admin, password {parts.password})")
        say(f"           {parts.site_url}admin/{streams}/prices/")
        say(f"           {parts.site_url}admin/{streams}/suppliers/")
        say(f"  kiosk    {parts.kiosk_url}")
        say(f"  broker   {parts.broker_name}, {workers}")
        say(f"  logs     {parts.folder}/*.log")
        say()

    @property
    def _is_told_to_end(self) -> bool:
        return self._signals.count > 0 or self._terminal.is_gone

    def _end(self) -> None:
        """Stop the feed last, so that the others don't lose their connections."""
        feed, *others = self._services
        for services in (others, [feed]):
            end(services, is_urgent=lambda: self._signals.count > 1)
        self._parts.clean_up()

    # --- while it runs ---

    def _watch(self) -> int:
        """Supervise the programs until the end, and return the exit code."""
        counting, visiting = Every(COUNT_EVERY), Every(VISIT_EVERY)
        while not self._is_told_to_end:
            self._tell_events()
            if not self._revive():
                return 1
            if counting.is_due():
                counted = Counted.now()
                self._terminal.count(str(counted))
                self._tell_shares()
                if self._limit is not None and counted.prices >= self._limit:
                    return 0
                if self._is_stuck(counted.prices):
                    return 1
            if visiting.is_due():
                self._visit_kiosk()
            time.sleep(LOOK_EVERY)
        return 0

    def _tell_events(self) -> None:
        """Print new events of the event log."""
        for event in events().filter(pk__gt=self._last_event).order_by("pk"):
            self._last_event = event.pk
            self._terminal.tell(event.stream, event.kind, event.text, event.at.timestamp())

    def _tell_shares(self) -> None:
        """Print the number of suppliers' streams in each process, if it has changed."""
        if (found := shares()) not in ("", self._shares):
            self._shares = found
            self._terminal.tell("suppliers", "streams", found, time.time())

    def _revive(self) -> bool:
        """Restart programs that have exited. Return ``False`` if one exits again and again."""
        for service in self._services:
            if ended := service.revive():
                self._terminal.tell(service.name, "restarted", f"it had exited: {ended}")
            if service.early_ends == STARTS:
                self._terminal.print(f"{service.name} does not start; the end of its log:")
                for line in service.last_lines(10):
                    self._terminal.print(f"  {line}")
                return False
        return True

    def _is_stuck(self, prices: int) -> bool:
        """Return whether there was no new price for 60 seconds before the limit."""
        now = time.monotonic()
        if prices != self._progress[0]:
            self._progress = (prices, now)
        if self._limit is None or now - self._progress[1] < PATIENCE:
            return False
        self._terminal.print(f"no new price for {PATIENCE:.0f} s. Check the logs.")
        return True

    def _visit_kiosk(self) -> None:
        """Request the kiosk's counters. The first request starts its stream."""
        address = urlsplit(self._parts.kiosk_url)
        connection = http.client.HTTPConnection(address.netloc, timeout=0.5)
        with suppress(OSError, ValueError, http.client.HTTPException), closing(connection):
            connection.request("GET", "/stats.json")
            self._kiosk = json.loads(connection.getresponse().read())


class Every:
    """A timer that is due at an interval of this many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic()

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
