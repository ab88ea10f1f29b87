"""The count of failed attempts, and what follows each: another one, when, or the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..exceptions import ReconnectError, UnauthorizedError, said
from ..options import ClientOptions
from .retry import Backoff, Verdict, judge

__all__ = ["Attempts", "Outcome", "Plan"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: why, after how many seconds in READY, and at whose fault."""

    error: Exception
    ready_for: float = 0.0
    peer_fault: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What follows an outcome.

    Attributes:
        delay: Seconds until the next attempt.
        fatal: What the client fails with, or keeps trying at ``fatal_delay`` in spite of.
        is_last: There is no next attempt.

    """

    delay: float = 0.0
    fatal: Exception | None = None
    is_last: bool = False


class Attempts:
    """
    Counts and plans, for one ``start()``; without a clock or a loop.

    Args:
        report: Given what the user's ``retry`` raises.

    """

    def __init__(self, options: ClientOptions, report: Callable[[BaseException], None]) -> None:
        self._options = options
        self._report = report
        self._backoff = Backoff(options.min_reconnect_delay, options.max_reconnect_delay)
        self._failures = 0  # consecutive failed attempts
        self._waits = 0  # waits since the last stable connection
        self._unauthorized = 0  # consecutive 401/403 answers

    @property
    def number(self) -> int:
        """Number of the attempt at hand since the last stable connection, from 1."""
        return self._failures + 1

    def opened(self) -> None:
        """The handshake succeeded: the credentials are good."""
        self._unauthorized = 0

    def plan(self, outcome: Outcome) -> Plan:
        """
        Say what follows *outcome*.

        Only a connection that was ready for ``stable_after``, and that the peer did not end by
        breaking the protocol, resets the counts; every other end is a failed attempt.
        """
        if outcome.ready_for >= self._options.stable_after and not outcome.peer_fault:
            self._failures = self._waits = 0
        else:
            self._failures += 1
        self._waits += 1
        self._unauthorized += isinstance(outcome.error, UnauthorizedError)
        verdict = self._judge(outcome.error)
        fatal = self._fatal(outcome.error, verdict)
        if fatal is None:
            return Plan(self._backoff.delay(self._waits, verdict))
        pace = self._options.fatal_delay
        if pace is None:
            return Plan(fatal=fatal, is_last=True)
        return Plan(self._backoff.slow(pace), fatal)

    def _judge(self, error: Exception) -> Verdict:
        options = self._options
        refreshable = callable(options.url) or callable(options.headers)
        verdict = judge(error, unauthorized=self._unauthorized, refreshable=refreshable)
        if options.retry is None:
            return verdict
        try:
            decided = options.retry(error)
        except Exception as failure:
            self._report(failure)
            return verdict
        if decided is None:
            return verdict
        return Verdict(bool(decided), verdict.floor, verdict.retry_after)

    def _fatal(self, error: Exception, verdict: Verdict) -> Exception | None:
        if not verdict.retry:
            return error
        limit = self._options.max_reconnect_attempts
        if limit is None or self._failures < limit:
            return None
        gave_up = ReconnectError(
            f"gave up after {self._failures} failed attempts; the last: {said(error)}",
            attempts=self._failures,
        )
        gave_up.__cause__ = error
        return gave_up
