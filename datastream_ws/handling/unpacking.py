"""Received payloads through a codec that keeps a state for each connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..base_errors import DecodeError

__all__ = ["Unpacking", "unpacking_of"]

Unpack = Callable[[str | bytes], str | bytes | None]


class Unpacking:
    """
    The payloads of one connection, in order, through what the codec has made for it.

    Args:
        fail: Ends the connection: after an error nothing that follows can be read.

    """

    def __init__(self, unpack: Unpack, fail: Callable[[Exception], None]) -> None:
        self._unpack: Unpack | None = unpack
        self._fail = fail

    def __call__(self, payloads: list[str | bytes]) -> list[str | bytes]:
        """Return the messages that *payloads* complete."""
        return list(self._whole(payloads))

    def _whole(self, payloads: list[str | bytes]) -> Iterator[str | bytes]:
        for payload in payloads:
            if self._unpack is None:
                return
            try:
                whole = self._unpack(payload)
                if whole is None:
                    continue
                if not isinstance(whole, str | bytes):
                    raise TypeError(
                        f"the unpacker returned {type(whole).__name__}, not str or bytes"
                    )
            except Exception as error:
                self._unpack = None
                self._fail(_failure(error))
            else:
                yield whole


def unpacking_of(codec: Any, fail: Callable[[Exception], None]) -> Unpacking | None:
    """Return what unpacks a new connection's payloads, or ``None`` if they are the messages."""
    make = getattr(codec, "unpacker", None)
    if make is None:
        return None
    try:
        return Unpacking(make(), fail)
    except Exception as error:
        fail(_failure(error))
        return None


def _failure(error: Exception) -> DecodeError:
    failure = DecodeError("codec: unpacker() failed, so the rest of the connection is unreadable")
    failure.__cause__ = error
    return failure
