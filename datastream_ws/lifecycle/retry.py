"""
How long to wait before the next attempt, and whether to make one. Pure: no clock, no network.

Source: RFC 6455 section 7.2.3 (a first wait of 0–5 s spread at random, then truncated binary
exponential backoff); the fatal close codes are those of Centrifugo's clients and of the Go
client (4001), the IANA registry's 3000 and the usual 44xx.
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
# Alerts by which a server refuses our TLS, or the certificate we lack; OpenSSL's names for them.
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
# Close code -> shortest first wait in seconds: "service restart", "try again later".
PATIENT_CLOSE_CODES = {1012: 5.0, 1013: 10.0}


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The consequence of an error for the next attempt.

    Attributes:
        retry: Whether there is one.
        floor: Shortest wait in seconds (still within the longest backoff).
        retry_after: Seconds the server asked for. It may exceed the longest backoff.

    """

    retry: bool
    floor: float = 0.0
    retry_after: float | None = None


def judge(error: BaseException) -> Verdict:
    """Say whether *error*, seen for itself, is worth another attempt."""
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
    reason = getattr(error, "reason", None)  # set only by OpenSSL itself
    return isinstance(error, ssl.SSLCertVerificationError) or reason in FATAL_TLS_ALERTS


def _status_retried(status: int | None) -> bool:
    """101 is an upgrade that breaks the protocol; 3xx a redirect that may not be followed."""
    if status is None:
        return True
    if status == 101 or 300 <= status < 400:
        return False
    return status in RETRIED_STATUSES or not 400 <= status < 500


def is_fatal_code(code: int) -> bool:
    """Whether a close code says that trying again makes no sense."""
    return code in FATAL_CLOSE_CODES or 3500 <= code <= 3999 or 4500 <= code <= 4999


@dataclass(frozen=True, slots=True)
class Backoff:
    """
    The waits between attempts: uniform in a window that doubles.

    The first wait lies in [minimum, min(maximum, 5 × minimum)], the n-th (n ≥ 2) in
    [minimum, min(maximum, minimum × 2ⁿ)]. The wide first window spreads a fleet that lost its
    server at one moment.

    Args:
        minimum: Seconds, > 0.
        maximum: Seconds, ≥ minimum.
        uniform: Random function of two bounds; injected by tests and simulations.

    """

    minimum: float = 1.0
    maximum: float = 30.0
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay(self, n: int, verdict: Verdict | None = None) -> float:
        """Return the *n*-th wait (from 1) since the last stable connection, in seconds."""
        low, high = self._window(n, verdict.floor if verdict else 0.0)
        delay = self.uniform(low, high)
        if verdict is None or verdict.retry_after is None:
            return delay
        asked = max(delay, min(verdict.retry_after, LONGEST_RETRY_AFTER))
        return self.uniform(asked, asked * 1.25)

    def _window(self, n: int, floor: float) -> tuple[float, float]:
        # The exponent is clamped: 2.0 ** 1024 overflows, and Go's shift turned negative.
        factor = 5.0 if n <= 1 else 2.0 ** min(n, 64)
        high = min(self.maximum, self.minimum * factor)
        if not floor:
            return self.minimum, high
        # 1012: 5–30 s, 1013: 10–30 s and more, so that a fleet does not come back as one.
        return min(max(self.minimum, floor), self.maximum), min(self.maximum, max(high, 6 * floor))

    def slow(self, pace: float) -> float:
        """Return a wait of *pace* seconds ± 50 %."""
        return self.uniform(pace * 0.5, pace * 1.5)
