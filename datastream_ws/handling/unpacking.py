"""Apply a codec's per-connection unpacker to received payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..base_errors import DecodeError

__all__ = ["Unpacking", "unpacking_of"]

Unpack = Callable[[str | bytes], str | bytes | None]


class Unpacking:
    """
    The unpacker of one connection, which receives all payloads in order.

    Args:
        unpack: Returns the message that a payload completes. ``None`` means that more is needed.
        fail: Ends the connection. After an error, later payloads cannot be decoded.

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
            except BaseException as error:  # it would end the user's loop
                self._unpack = None
                self._fail(_failure(error))
            else:
                yield whole


def unpacking_of(codec: Any, fail: Callable[[Exception], None]) -> Unpacking | None:
    """
    Return the unpacker for a new connection. ``None`` means that payloads are messages.

    If the codec fails to make one, *fail* ends the connection.
    """
    make = getattr(codec, "unpacker", None)
    if make is None:
        return None
    try:
        return Unpacking(make(), fail)
    except BaseException as error:
        fail(_failure(error))
        return None


def _failure(error: BaseException) -> DecodeError:
    failure = DecodeError("codec: unpacker() failed, so the rest of the connection is unreadable")
    failure.__cause__ = error
    return failure
