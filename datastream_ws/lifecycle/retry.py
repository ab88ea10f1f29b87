"""
Decides whether to retry and how long to wait, without a clock or a network.

RFC 6455 section 7.2.3 recommends a random first delay of 0 to 5 s and then truncated binary
exponential backoff. The fatal close codes are those of Centrifugo's clients and of the Go client
(4001). The IANA registry's 3000 and the usual 44xx are fatal, too.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from ..connection.answers import LONGEST_RETRY_AFTER
from ..exceptions import (
    ConfigurationError,
    HandshakeError,
    ReconnectError,
    SpoolError,
    StreamClosedError,
)

__all__ = ["Backoff", "Verdict", "is_fatal_code", "judge"]

RETRIED_STATUSES = frozenset({408, 425, 429})
FATAL_CLOSE_CODES = frozenset({1008, 3000, 4001, 4003, 4401, 4403})
# OpenSSL's names of the alerts by which a server refuses the client's TLS or certificate.
FATAL_TLS_ALERTS = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "TLSV1_ALERT_UNKNOWN_CA",
        "UNSUPPORTED_PROTOCOL",
    }
)
# The shortest wait in seconds after the close codes "service restart" and "try again later".
PATIENT_CLOSE_CODES = {1012: 5.0, 1013: 10.0}


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The consequence of an error for the next attempt.

    Attributes:
        retry: Whether there is a next attempt.
        floor: Shortest delay in seconds, capped at the longest backoff.
        retry_after: Seconds that the server asked for, which may exceed the longest backoff.
            ``None`` means that it did not ask.

    """

    retry: bool
    floor: float = 0.0
    retry_after: float | None = None


def judge(error: BaseException) -> Verdict:
    """Return whether *error* allows a retry, regardless of earlier errors."""
    if isinstance(error, HandshakeError):
        return Verdict(retry=_status_retried(error.status), retry_after=error.retry_after)
    if isinstance(error, StreamClosedError):
        return Verdict(
            retry=not is_fatal_code(error.code), floor=PATIENT_CLOSE_CODES.get(error.code, 0.0)
        )
    if isinstance(error, ssl.SSLError):
        return Verdict(retry=not _tls_fatal(error))
    return Verdict(retry=not isinstance(error, ConfigurationError | ReconnectError | SpoolError))


def _tls_fatal(error: ssl.SSLError) -> bool:
    reason = getattr(error, "reason", None)  # only errors of OpenSSL itself have it
    return isinstance(error, ssl.SSLCertVerificationError) or reason in FATAL_TLS_ALERTS


def _status_retried(status: int | None) -> bool:
    if status is None:
        return True
    # With 101 the upgrade broke the protocol. With 3xx the redirect leads to another origin.
    if status == 101 or 300 <= status < 400:
        return False
    return status in RETRIED_STATUSES or not 400 <= status < 500


def is_fatal_code(code: int) -> bool:
    """Return whether a close code means that a retry cannot help."""
    return code in FATAL_CLOSE_CODES or 3500 <= code <= 3999 or 4500 <= code <= 4999


@dataclass(frozen=True, slots=True)
class Backoff:
    """
    The delays between attempts, uniformly random in a window that doubles.

    The first delay lies in [minimum, min(maximum, 5 × minimum)]. The n-th delay (n ≥ 2) lies in
    [minimum, min(maximum, minimum × 2ⁿ)]. The wide first window spreads clients that lost their
    server at the same moment.

    Args:
        minimum: Shortest delay in seconds, above 0.
        maximum: Longest delay in seconds, at least *minimum*.
        uniform: Random function of two bounds, which tests and simulations replace.

    """

    minimum: float = 1.0
    maximum: float = 30.0
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay(self, n: int, verdict: Verdict | None = None) -> float:
        """
        Return the delay before the next attempt, in seconds.

        Args:
            n: Number of the delay since the last stable connection, from 1.
            verdict: The consequence of the latest error. ``None`` means a plain backoff.

        """
        low, high = self._window(n, verdict.floor if verdict else 0.0)
        delay = self.uniform(low, high)
        if verdict is None or verdict.retry_after is None:
            return delay
        asked = max(delay, min(verdict.retry_after, LONGEST_RETRY_AFTER))
        return self.uniform(asked, asked * 1.25)

    def _window(self, n: int, floor: float) -> tuple[float, float]:
        # Without the limit 2.0 ** 1024 overflows. The Go client's shift became negative.
        factor = 5.0 if n <= 1 else 2.0 ** min(n, 64)
        high = min(self.maximum, self.minimum * factor)
        if not floor:
            return self.minimum, high
        # The upper bound is at least six times the floor, so that not all clients return together.
        return min(max(self.minimum, floor), self.maximum), min(self.maximum, max(high, 6 * floor))

    def slow(self, pace: float) -> float:
        """Return a random delay of *pace* seconds ± 50 %."""
        return self.uniform(pace * 0.5, pace * 1.5)
