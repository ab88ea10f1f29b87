"""The messages, connections and attempts that a StreamServer has recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from .connection import StreamConnection

__all__ = ["Attempt", "Record"]


@dataclass
class Attempt:
    """
    A TCP connection.

    Attributes:
        at: The monotonic time at which it was opened.
        status: The HTTP status of the response. ``None`` before the response.

    """

    at: float
    status: int | None = None


class Record:
    """The messages, connections and attempts in order of arrival. It's thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._received: list[str | bytes] = []
        self._connections: list[StreamConnection] = []
        self._attempts: list[Attempt] = []

    def add_attempt(self, attempt: Attempt) -> None:
        with self._changed:
            self._attempts.append(attempt)

    def answer(self, attempt: Attempt, status: int) -> None:
        with self._changed:
            attempt.status = status
            self._changed.notify_all()

    def add_connection(self, connection: StreamConnection) -> None:
        with self._changed:
            self._connections.append(connection)
            self._changed.notify_all()

    def add_message(self, data: str | bytes) -> None:
        with self._changed:
            self._received.append(data)
            self._changed.notify_all()

    @property
    def received(self) -> list[str | bytes]:
        with self._changed:
            return list(self._received)

    @property
    def connections(self) -> list[StreamConnection]:
        with self._changed:
            return list(self._connections)

    @property
    def attempts(self) -> list[Attempt]:
        with self._changed:
            return list(self._attempts)

    def wait_received(self, n: int, timeout: float) -> list[str | bytes]:
        self._wait(timeout, lambda: len(self._received) >= n, lambda: self._missing(n))
        return self.received

    def wait_connected(self, n: int, timeout: float) -> list[StreamConnection]:
        self._wait(timeout, lambda: len(self._connections) >= n, lambda: self._missed(n))
        return self.connections

    def wait_attempts(self, n: int, timeout: float) -> list[Attempt]:
        self._wait(timeout, lambda: len(self._statuses()) >= n, lambda: self._unanswered(n))
        return self.attempts

    def _wait(
        self, timeout: float, enough: Callable[[], bool], complaint: Callable[[], str]
    ) -> None:
        with self._changed:
            if not self._changed.wait_for(enough, timeout):
                raise TimeoutError(f"within {timeout} s, {complaint()}")

    def _statuses(self) -> list[int]:
        return [attempt.status for attempt in self._attempts if attempt.status is not None]

    def _missing(self, n: int) -> str:
        shown = ", ".join(repr(data)[:100] for data in self._received[-10:])
        return f"{len(self._received)} of {n} messages arrived, at last [{shown}]"

    def _missed(self, n: int) -> str:
        accepted, answered = len(self._connections), self._statuses()
        return (
            f"{accepted} of {n} connections were accepted; {len(self._attempts)} attempts "
            f"were made, answered with {answered[-20:]}"
        )

    def _unanswered(self, n: int) -> str:
        answered = self._statuses()
        return (
            f"{len(answered)} of {n} attempts were answered, with {answered[-20:]}; "
            f"{len(self._attempts)} were made"
        )
