"""What objects must do that users bring along: a logger, a lease."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["Lease", "Logger"]


@runtime_checkable
class Logger(Protocol):
    """What a logger must take; ``logging.Logger`` does."""

    def debug(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def info(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def warning(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def error(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...


@runtime_checkable
class Lease(Protocol):
    """
    What a lease must do. One object belongs to one client; one thread calls it.

    *ttl* is four fifths of the option ``lease_ttl``: the rest is for the successor to notice, and
    to connect.

    Every call may block, but should give up well before *ttl* is over, and raises whatever it
    likes when the store does not answer.
    """

    def acquire(self, ttl: float) -> int | None:
        """
        Take the lease for *ttl* seconds if nobody has it.

        Returns:
            The epoch of the new tenure: max(previous + 1, milliseconds of UNIX time).
            ``None``: somebody else holds it.

        """

    def renew(self, ttl: float) -> bool:
        """Hold on for *ttl* seconds from now; False: it is lost."""
        ...

    def release(self) -> None:
        """Let go of it if it is held, and of the store; called at the end in any case."""
