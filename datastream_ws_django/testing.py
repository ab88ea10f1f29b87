"""For tests: messages without a server."""

from __future__ import annotations

from typing import Any

from .streams import datastreams

__all__ = ["deliver"]


def deliver(alias: str, data: Any, robust: bool = False, *, key: Any = None) -> None:
    """
    Give a message to a stream's handlers, plain and coroutine functions, receivers too.

    They run in this thread, one after the other, in the test's transaction.

    Args:
        alias: The stream's key in ``DATASTREAMS``.
        data: str or bytes as received, or an object to be encoded first.
        robust: Report what a handler raises, as in production, instead of raising it.
        key: Of a fleet: the key of the stream that the message is of.

    """
    datastreams[alias].deliver(data, robust=robust, key=key)
