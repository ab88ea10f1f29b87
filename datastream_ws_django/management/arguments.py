"""The types of the management commands' arguments."""

from __future__ import annotations

from argparse import ArgumentTypeError

from datastream_ws.embedding import LONGEST_SECONDS

__all__ = ["count", "seconds", "seconds_above_0"]


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError("must be a whole number of at least 1")
    return number


def seconds(text: str) -> float:
    """Parse a duration, which may be 0. A longer one than about 30 years can't be waited for."""
    number = _number(text)
    if not 0 <= number <= LONGEST_SECONDS:
        raise ArgumentTypeError(f"must be a number of seconds from 0 to {LONGEST_SECONDS:g}")
    return number


def seconds_above_0(text: str) -> float:
    """Parse a duration above 0."""
    number = _number(text)
    if not 0 < number <= LONGEST_SECONDS:
        raise ArgumentTypeError("must be a number of seconds above 0")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")  # not within any limits
