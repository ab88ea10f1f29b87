"""Counts failed attempts and plans the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..connection.engine import Ended
from ..exceptions import (
    HandlerError,
    HandshakeError,
    ReconnectError,
    SpoolError,
    StreamClosedError,
    said,
)
from ..options import ClientOptions
from .retry import Backoff, Verdict, is_fatal_code, judge

__all__ = ["ASKED", "Attempts", "Outcome", "Plan"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an attempt ended.

    Attributes:
        error: The cause, or the exception that a hook raised. ``None`` means that a method of the
            client or the end of a lease ended the attempt.
        ended: How the connection ended. ``None`` means that none was open.
        connection: The number of that connection.
        ready_for: Seconds in READY.
        reported: The error to report instead of *error*. ``None`` means *error* itself.

    """

    error: Exception | None
    ended: Ended | None = None
    connection: int = 0
    ready_for: float = 0.0
    reported: HandlerError | None = None

    @property
    def stable_for(self) -> float:
        """Seconds in READY that count for ``stable_after``, none after a protocol violation."""
        return 0.0 if self.ended is not None and self.ended.peer_fault else self.ready_for


ASKED = Outcome(None)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The consequence of an outcome.

    Attributes:
        delay: Seconds until the next attempt.
        fatal: The fatal error, which ``fatal_delay`` may allow to retry. ``None`` means that the
            error is not fatal.
        is_last: Whether there is no next attempt.

    """

    delay: float = 0.0
    fatal: Exception | None = None
    is_last: bool = False


class Attempts:
    """
    Counts the attempts of one ``start()`` and plans the next, without a clock or a loop.

    Attributes:
        url_number: Which URL of a list the attempt uses, from 0. It grows with every failed
            attempt, also beyond the end of the list.

    """

    def __init__(self, options: ClientOptions) -> None:
        self.url_number = 0
        self._options = options
        url: Any = options.url
        self._urls = 1 if isinstance(url, str) or callable(url) else len(url)
        self._backoff = Backoff(options.min_reconnect_delay, options.max_reconnect_delay)
        self._failures = 0  # consecutive failed attempts
        self._waits = 0  # waits since the last stable connection
        self._refusals = 0  # consecutive attempts that failed fatally before a connection was open
        self._fatal_ends = 0  # consecutive connections that ended with a fatal error
        self._was_ready = False

    @property
    def number(self) -> int:
        """Number of the current attempt since the last stable connection, from 1."""
        return self._failures + 1

    def opened(self) -> None:
        """Record that the handshake succeeded, which shows that URL and credentials are valid."""
        self._refusals = 0

    def ready(self) -> None:
        self._was_ready = True

    def plan(self, outcome: Outcome, decided: bool | None = None) -> Plan:
        """
        Return what follows *outcome*.

        A connection that was ready for ``stable_after`` resets the counts, unless the server ended
        it by breaking the protocol. Every other end is a failed attempt.

        Args:
            decided: The decision of the user's ``retry``, or ``None`` if there is none.

        """
        assert outcome.error is not None
        if outcome.stable_for >= self._options.stable_after:
            self._failures = self._waits = self._fatal_ends = 0
        else:
            self._failures += 1
            # A spool's error is no reason to try another URL.
            self.url_number += not isinstance(outcome.error, SpoolError)
        self._waits += 1
        verdict = self._judge(outcome, outcome.error)
        if decided is not None:
            verdict = replace(verdict, retry=decided)
        fatal = self._fatal(outcome.error, verdict)
        if fatal is None:
            return Plan(self._backoff.delay(self._waits, verdict))
        pace = self._options.fatal_delay
        if pace is None:
            return Plan(fatal=fatal, is_last=True)
        return Plan(self._backoff.slow(pace), fatal)

    def _judge(self, outcome: Outcome, error: Exception) -> Verdict:
        """Decide about a retry, considering earlier fatal errors."""
        verdict = judge(error)
        if verdict.retry:
            self._refusals = 0
            if outcome.ended is not None or self._urls > 1:
                self._fatal_ends = 0
            return verdict
        if outcome.ended is None:
            count = self._refusals = self._refusals + 1
        else:
            count = self._fatal_ends = self._fatal_ends + 1
        if self._urls > 1:  # some URLs may refuse the handshake while others close with a code
            count = self._refusals + self._fatal_ends
        needed = max(self._urls, self._needed_of_one(outcome, error))
        return replace(verdict, retry=count < needed)

    def _needed_of_one(self, outcome: Outcome, error: Exception) -> int:
        """Return how many fatal errors of one URL are final, two if the next attempt may differ."""
        if outcome.ended is not None:  # a server that restarts may close with any code
            is_fatal = isinstance(error, StreamClosedError) and is_fatal_code(error.code)
            return 2 if is_fatal and self._was_ready else 1
        is_status = isinstance(error, HandshakeError) and 400 <= (error.status or 0) < 500
        is_refreshable = callable(self._options.url) or callable(self._options.headers)
        return 2 if is_status and is_refreshable else 1

    def _fatal(self, error: Exception, verdict: Verdict) -> Exception | None:
        if not verdict.retry:
            return error
        limit = self._options.max_reconnect_attempts
        if limit is None or self._failures < limit:
            return None
        attempts = (
            "1 failed attempt" if self._failures == 1 else f"{self._failures} failed attempts"
        )
        gave_up = ReconnectError(
            f"gave up after {attempts}; last error: {said(error)}", attempts=self._failures
        )
        gave_up.__cause__ = error
        return gave_up
