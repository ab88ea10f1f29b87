"""Call the store of a lease or a fleet, and report when it fails or hangs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..exceptions import LeaseError
from ..redaction import peer_text
from .clock import clock

__all__ = ["HANG_SECONDS", "StoreCalls", "lease_error"]

T = TypeVar("T")

HANG_SECONDS = 2.0  # after so long without a response, the store is reported as hanging


class StoreCalls:
    """
    The calls of one thread to a store. Facts may be read from any thread.

    Args:
        report: Receives a LeaseError. A lasting failure is reported once.

    """

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        self._report = report
        self._called_at = float("inf")
        self._failing_since = float("inf")

    @property
    def waited(self) -> float:
        """Seconds since the current call began; not positive without one."""
        return clock() - self._called_at

    @property
    def failed_for(self) -> float:
        """Seconds since the first of the current failures; not positive without one."""
        return clock() - self._failing_since

    @property
    def is_failing(self) -> bool:
        return self._failing_since < float("inf")

    def ask(self, call: Callable[[], T]) -> T | None:
        """Call the store and return its result. ``None`` means that it has failed."""
        self._called_at = clock()
        try:
            answer = call()
        except BaseException as error:
            text = f"the store does not respond ({type(error).__name__}: {peer_text(error)})"
            self.report_once(lease_error(text, error))
            return None
        finally:
            self._called_at = float("inf")
        self._failing_since = float("inf")
        return answer

    def report_hang(self, waited: float) -> None:
        """Report that a call has taken *waited* seconds; call it from any other thread."""
        self.report_once(LeaseError(f"lease: the store has not responded for {waited:.0f} s"))

    def report_once(self, error: LeaseError) -> None:
        """Report an error, unless an earlier one is still current."""
        if not self.is_failing:
            self._failing_since = clock()
            self._report(error)


def lease_error(text: str, error: BaseException) -> LeaseError:
    """Return *error* if it is a LeaseError, or a LeaseError with this text that it caused."""
    if isinstance(error, LeaseError):
        return error
    failure = LeaseError(f"lease: {text}")
    failure.__cause__ = error
    return failure
