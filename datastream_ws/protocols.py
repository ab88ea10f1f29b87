"""The protocols for loggers and leases that users pass as options."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["Lease", "Logger"]


@runtime_checkable
class Logger(Protocol):
    """The methods of a logger, which ``logging.Logger`` has."""

    def debug(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def info(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def warning(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def error(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...


@runtime_checkable
class Lease(Protocol):
    """
    The methods of a lease. One object belongs to one client, and one thread calls it.

    *ttl* is 0.8 of the option ``lease_ttl``. The remaining time is for the next holder to notice
    and to connect.

    Every call may block, but should give up well before *ttl* expires. If the store doesn't
    respond, it may raise any exception.
    """

    def acquire(self, ttl: float) -> int | None:
        """
        Take the lease for *ttl* seconds if no other process holds it.

        Returns:
            The epoch of this acquisition, which is max(previous + 1, UNIX time in milliseconds).
            ``None`` if another process holds the lease.

        """

    def renew(self, ttl: float) -> bool:
        """Keep the lease for *ttl* seconds from now. ``False`` means that it is lost."""
        ...

    def release(self) -> None:
        """
        Release the lease if it's held, and close the store. It's always called at the end.

        If the last :meth:`acquire` raised an exception, the store may have granted the lease.
        """
