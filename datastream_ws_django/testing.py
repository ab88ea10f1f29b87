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
        data: str or bytes as received, or an object that the stream's codec encodes.
        robust: Whether an exception of a handler is logged, as in production, and not raised.
        key: Key of the stream that received the message. Only for a fleet.

    """
    datastreams[alias].deliver(data, robust=robust, key=key)
