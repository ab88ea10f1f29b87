"""
Run the server of a scenario, and verify what the client did in any process.

::

    with Stage(SCENARIOS["reset"]) as stage:
        ...                                   # start a client whose witness calls stage.say
        stage.wait()
        ...                                   # stop the client
    stage.judge()
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from .rawserver import RawConnection, RawServer
from .scenarios import Scenario

__all__ = ["Stage", "wait_for_all"]

PATIENCE = 40.0
STEP = 0.005  # seconds between two checks
SOONER = 0.005  # seconds by which a timer may fire early, because two clocks differ


class Stage:
    """A running scenario, with its server and the facts of its witness."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.server = RawServer(*scenario.scripts, listens=not scenario.away)
        self._lock = threading.Lock()
        self._facts: list[dict[str, Any]] = []
        self._seen: list[RawConnection] = []

    def __enter__(self) -> Self:
        self.server.__enter__()
        self._begun = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for connection in self.server.connections[-1:]:
            connection.done.wait(0.5)  # a close frame may still be on its way
        self.server.__exit__(*exc_info)

    @property
    def url(self) -> str:
        return self.server.url

    def say(self, **fact: Any) -> None:
        """Add a fact. You can call it from any thread."""
        with self._lock:
            self._facts.append(fact)

    def told(self, key: str) -> list[dict[str, Any]]:
        """Return the facts with *key*, in order."""
        with self._lock:
            return [fact for fact in self._facts if key in fact]

    # --- progress ---

    def is_over(self) -> bool:
        """Return whether there are all results that are expected before the client is stopped."""
        row = self.scenario
        if row.away and len(self._waits()) >= row.away:
            self.server.listen()
        return (
            self._is_handled()
            and len(self.server.connections) >= row.connections[0]
            and len(self._waits()) >= max(len(row.waits), row.is_fatal)
            and len(self._ends()) >= len(row.ends or ())
            and len(self.told("error")) >= max(row.failed, row.error is not None)
            and (row.seconds is None or time.monotonic() > self._first + row.seconds)
        )

    def _is_handled(self) -> bool:
        if "hold" in self.scenario.handled:
            return bool(self.told("holding"))
        return len(self.told("handled")) >= len(self.scenario.handled)

    @property
    def _first(self) -> float:
        return min(self.server.times, default=self._begun)

    def _ends(self) -> list[int]:
        return [fact["ended"] for fact in self.told("ended") if fact["will_retry"]]

    def _waits(self) -> list[dict[str, Any]]:
        """Return the facts of the states WAITING and FAILED."""
        return [fact for fact in self.told("state") if fact["state"] in ("waiting", "failed")]

    def wait(self) -> None:
        """Wait for the end of the scenario, at most 40 seconds. :meth:`judge` reports failures."""
        wait_for_all([self])

    # --- verification ---

    def judge(self, fatal_delay: float | None = None, late: float = 0.5) -> None:
        """
        Assert the results of the scenario. Call it after the client has stopped.

        Args:
            fatal_delay: The option of the client, or ``None``.
            late: Seconds by which the client may end a connection too late.

        """
        row = self.scenario
        assert self.is_over(), self.told("stream")[-10:]
        assert [fact["handled"] for fact in self.told("handled")] == list(row.handled)
        least, most = row.connections
        assert least <= len(self.server.connections) <= most
        if row.ends is not None:
            assert self._ends() == list(row.ends)
        if row.answers is not None:
            assert self._answers() == list(row.answers)
        if row.error is not None:
            self._judge_error(*row.error)
        self._judge_end(fatal_delay)
        self._judge_ledger()
        self._judge_waits(fatal_delay)
        self._judge_time(late)

    def _answers(self) -> list[int | None]:
        frames = [frame for each in self.server.connections for frame in each.frames]
        return [frame.close_code for frame in frames if frame.opcode == 8]

    def _judge_error(self, kind: str, text: str) -> None:
        first = self.told("error")[0]
        assert first["error"] == (kind or first["error"])
        assert text in first["text"]

    def _judge_end(self, fatal_delay: float | None) -> None:
        last = self.told("state")[-1]["state"]
        assert last == ("failed" if self.scenario.is_fatal and fatal_delay is None else "closed")

    def _judge_ledger(self) -> None:
        [fact] = self.told("stats")
        stats = fact["stats"]
        row = self.scenario
        assert stats["failed"] == row.failed
        assert stats["handled"] == len(row.handled)
        assert stats == stats | {"received": len(row.handled) + row.failed, "dropped": 0}
        assert stats["waiting"] == stats["spooled"] == 0

    def _judge_waits(self, fatal_delay: float | None) -> None:
        """Assert the bounds of each reported delay, and that no attempt begins before its end."""
        row = self.scenario
        waits = [fact for fact in self._waits() if fact["delay"] is not None]
        bounds = itertools.chain(row.waits, self._envelope(fatal_delay))
        for (least, most), wait in zip(bounds, waits, strict=False):
            assert least <= wait["delay"] <= most
        if not row.away:  # each wait follows a connection that the server has seen
            pairs = itertools.pairwise(self.server.times)
            for (begun, following), wait in zip(pairs, waits, strict=False):
                assert following - begun >= wait["delay"] - SOONER

    def _envelope(self, fatal_delay: float | None) -> Iterable[tuple[float, float]]:
        """Return the bounds of each delay after those in the scenario."""
        if self.scenario.is_fatal:
            pace = fatal_delay or 0.0
            return itertools.repeat((0.5 * pace, 1.5 * pace))
        least = self.scenario.client_options["min_reconnect_delay"]
        most = self.scenario.client_options["max_reconnect_delay"]
        numbers = itertools.count(1 + len(self.scenario.waits))
        return ((least, min(most, least * (5 if n == 1 else 2.0 ** min(n, 60)))) for n in numbers)

    def _judge_time(self, late: float) -> None:
        limit = self.scenario.given_up
        if limit is not None:
            first = self.server.connections[0]
            assert first.ended_at is not None
            # An attempt begins before its connection, and silence after the handshake.
            assert limit - 0.1 <= first.ended_at - first.opened_at <= limit + late


def wait_for_all(
    stages: Iterable[Stage],
    look: Callable[[], object] = lambda: None,
    patience: float = PATIENCE,
) -> None:
    """Wait at most *patience* seconds until all stages are over, and call *look* repeatedly."""
    left = list(stages)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if not (left := [stage for stage in left if not stage.is_over()]):
            break
        look()
        time.sleep(STEP)
