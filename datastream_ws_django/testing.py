"""Tools for tests that need messages but no server."""

from __future__ import annotations

from typing import Any

from .streams import datastreams

__all__ = ["deliver"]


def deliver(alias: str, data: Any, robust: bool = False, *, key: Any = None) -> None:
    """
    Pass a message to a stream's handlers and to the receivers of its signals.

    They run one at a time, in this thread and in the test's transaction.

    Args:
        alias: The stream's key in ``DATASTREAMS``.
        data: A str or bytes as received. Any other object is encoded first.
        robust: ``True`` reports a handler's exception, as in production. ``False`` raises it.
        key: The key of a fleet's stream. ``None`` without a fleet.

    """
    datastreams[alias].deliver(data, robust=robust, key=key)
