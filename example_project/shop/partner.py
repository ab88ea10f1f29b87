"""The system of a partner, which fails from time to time."""

from __future__ import annotations

import itertools

__all__ = ["announce"]

_calls = itertools.count(1)


def announce(key: str) -> None:
    """Announce that a flag has changed. Every sixth call fails, in one of two ways."""
    call = next(_calls)
    if call % 12 == 3:
        raise ConnectionError(f"the partner is unavailable; {key!r} is not announced")
    if call % 12 == 9:
        raise ValueError(f"the partner refuses {key!r}: busy, request {call}")
