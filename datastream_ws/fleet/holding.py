"""Represent the lease of one stream among the many that this process holds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ..lease.clock import clock

__all__ = ["Holding", "Term"]


class Term:
    """
    A period during which this process is a member. All its tenures end with it.

    Attributes:
        token: Identifies the process and the term in the store.
        deadline: When it ends unless a renewal extends it, by the clock of leases.
        slack: Seconds between its end and its expiry in the store.

    """

    __slots__ = ("deadline", "slack", "token")

    def __init__(self, token: str, slack: float) -> None:
        self.token = token
        self.deadline = float("-inf")
        self.slack = slack

    @property
    def left(self) -> float:
        """Seconds until the term ends. It has ended if the value is not positive."""
        return self.deadline - clock()


class Holding:
    """
    One tenure of one stream, renewed together with all others of this process.

    It is the :class:`~datastream_ws.lease.renewal.Renewal` of one client, which calls it when it
    starts. An ended tenure never resumes. The fleet then starts another client.

    Attributes:
        epoch: The epoch of the tenure.
        is_refused: Always True, because a client must not wait for an ended tenure.
        is_used: Whether a client has been made for it.

    """

    __slots__ = ("_is_over", "_on_change", "_term", "epoch", "is_refused", "is_used")

    def __init__(self, term: Term, epoch: int) -> None:
        self.epoch = epoch
        self.is_refused = True
        self.is_used = False
        self._term = term
        self._is_over = False
        self._on_change: Callable[[], None] | None = None

    def __call__(
        self, *, on_change: Callable[[], None], report: Callable[[BaseException], None]
    ) -> Holding:
        """
        Return this holding as a client's renewal. The fleet reports errors once for all clients.
        """
        self.is_used = True
        self._on_change = on_change
        return self

    def end(self) -> None:
        """End the tenure now, and notify the client."""
        self._is_over = True
        if self._on_change is not None:
            self._on_change()

    def tenure(self) -> int | None:
        return self.epoch if self.is_held else None

    @property
    def left(self) -> float:
        return float("-inf") if self._is_over else self._term.left

    @property
    def is_held(self) -> bool:
        return self.left > 0

    @property
    def slack(self) -> float:
        return self._term.slack

    def start(self) -> None:
        """Do nothing, because the fleet's thread renews the tenure."""

    def look_for_hang(self) -> None:
        """Do nothing, because the fleet checks once for all clients."""

    def campaign(self) -> None:
        """Do nothing, because an ended tenure never resumes."""

    def rest(self) -> None:
        """Do nothing, because the fleet renews the tenure as long as it holds the stream."""

    def close(self) -> Future[None]:
        """Return a done future. The fleet releases the stream, or starts another client for it."""
        done: Future[None] = Future()
        done.set_result(None)
        return done
