"""
One owner among many processes.

A :class:`Lease` is a right with an end, kept in a store that all processes reach. Whoever holds
it connects; the others stand by. :class:`RedisLease` keeps it in Redis; Django's adapter has one
in the database. ``LeaseRenewal`` acquires and renews it on a thread of its own, so that a
store that hangs never blocks the event loop.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..exceptions import ConfigurationError
from ..option_checks import STORES
from .redis import RedisLease
from .renewal import LeaseRenewal

__all__ = ["Lease", "LeaseRenewal", "RedisLease", "lease_for"]


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


def lease_for(option: Any, name: str) -> Lease | None:
    """
    Return the lease that the option ``lease`` means, for the stream *name*.

    Raises:
        ConfigurationError: If it is no URL of a known store, or the store's client is missing.

    """
    if option is None or not isinstance(option, str):
        lease: Lease | None = option
        return lease
    if option.startswith(STORES):
        return RedisLease(option, name)
    raise ConfigurationError("lease: must be a redis:// URL, or an object of the Lease protocol")
