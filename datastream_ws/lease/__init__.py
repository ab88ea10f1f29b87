"""
One owner among many processes.

A :class:`Lease` is a right with an end, kept in a store that all processes reach. Whoever holds
it connects; the others stand by. :class:`RedisLease` keeps it in Redis; Django's adapter has one
in the database. ``LeaseRenewal`` acquires and renews it on a thread of its own, so that a
store that hangs never blocks the event loop.
"""

from __future__ import annotations

from typing import Any

from ..exceptions import ConfigurationError
from ..option_checks import STORES
from ..protocols import Lease
from ..redaction import hides_arguments
from .redis import RedisLease
from .renewal import LeaseRenewal

__all__ = ["Lease", "LeaseRenewal", "RedisLease", "lease_for"]


@hides_arguments
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
