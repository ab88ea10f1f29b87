"""
Let one process at a time own a stream.

A :class:`Lease` is a right that expires, stored where all processes can reach it. Its holder
connects, and the other processes stand by. :class:`RedisLease` uses Redis, and the Django adapter
has a lease in the database. ``LeaseRenewal`` acquires and renews a lease on its own thread, so that
a hanging store never blocks the event loop.
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
    Return the lease for the option ``lease`` and the stream *name*. ``None`` means no lease.

    Raises:
        ConfigurationError: If *option* is not the URL of a supported store, or its client library
            is not installed.

    """
    if not isinstance(option, str):
        lease: Lease | None = option
        return lease
    if option.startswith(STORES):
        return RedisLease(option, name)
    raise ConfigurationError("lease: must be a redis:// URL, or an object of the Lease protocol")
