"""The lease of one stream that this process holds as one of many."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ..lease.clock import clock

__all__ = ["Holding", "Term"]


class Term:
    """
    A process's time as a member, and with it the end of all that it holds.

    Attributes:
        deadline: When it ends by itself, unless a renewal moves that.

    """

    __slots__ = ("deadline", "slack", "token")

    def __init__(self, token: str, slack: float) -> None:
        self.token = token
        self.deadline = float("-inf")
        self.slack = slack

    @property
    def left(self) -> float:
        return self.deadline - clock()


class Holding:
    """
    One tenure of one stream, renewed with all others of this process.

    It is the :class:`~datastream_ws.lease.renewal.Renewal` of one client, and what makes it: called
    by the client that starts. It never begins again; the fleet starts another client then.

    Attributes:
        is_used: A client has been made for it.

    """

    __slots__ = ("_is_over", "_on_change", "_term", "epoch", "is_refused", "is_used")

    def __init__(self, term: Term, epoch: int) -> None:
        self.epoch = epoch
        self.is_refused = True  # there is no waiting for it
        self.is_used = False
        self._term = term
        self._is_over = False
        self._on_change: Callable[[], None] | None = None

    def __call__(
        self, *, on_change: Callable[[], None], report: Callable[[BaseException], None]
    ) -> Holding:
        """Serve a client; what is to be reported, the fleet reports once for all."""
        self.is_used = True
        self._on_change = on_change
        return self

    def end(self) -> None:
        """Be over now; the client is told."""
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
        """Nothing: the fleet's thread runs."""

    def look_for_hang(self) -> None:
        """Nothing: the fleet looks, once for all."""

    def campaign(self) -> None:
        """Do nothing, because a holding that has ended stays so."""

    def rest(self) -> None:
        """Nothing: it is renewed as long as the fleet holds it."""

    def close(self) -> Future[None]:
        """The fleet lets go of it, or starts another client of the stream."""
        done: Future[None] = Future()
        done.set_result(None)
        return done
