"""
The errors that messages and codecs raise.

They have their own module because :mod:`datastream_ws.exceptions` imports messages.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConfigurationError",
    "DataStreamError",
    "DecodeError",
    "EncodeError",
    "NotConnectedError",
]


class DataStreamError(Exception):
    """The root of all errors of this package."""

    __module__ = "datastream_ws.exceptions"

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException.__reduce__ calls __init__ with the text only. Errors with more arguments
        # would fail there, or lose them.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[DataStreamError], arguments: tuple[Any, ...]) -> DataStreamError:
    return kind.__new__(kind, *arguments)


class ConfigurationError(DataStreamError, ValueError):
    """An option, a URL or a combination of options is invalid. The text names the option."""

    __module__ = "datastream_ws.exceptions"


class NotConnectedError(DataStreamError):
    """There is no connection to send on in this process."""

    __module__ = "datastream_ws.exceptions"


class DecodeError(DataStreamError, ValueError):
    """A payload cannot be decoded. The text never contains the payload."""

    __module__ = "datastream_ws.exceptions"


class EncodeError(DataStreamError, ValueError):
    """An object cannot be sent, because JSON has no such value."""

    __module__ = "datastream_ws.exceptions"
