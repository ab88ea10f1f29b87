"""
The errors that the lowest modules raise; :mod:`datastream_ws.exceptions` has them all.

Apart from the others, because those name a message, and a message raises these.
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
        # Exception's own would call __init__ with the text alone, and lose or refuse the rest.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[DataStreamError], arguments: tuple[Any, ...]) -> DataStreamError:
    return kind.__new__(kind, *arguments)


class ConfigurationError(DataStreamError, ValueError):
    """An option, a URL or a combination of them cannot work; the text names the option."""

    __module__ = "datastream_ws.exceptions"


class NotConnectedError(DataStreamError):
    """There is no connection to send on in this process."""

    __module__ = "datastream_ws.exceptions"


class DecodeError(DataStreamError, ValueError):
    """A payload cannot be decoded; the payload itself is not in the text."""

    __module__ = "datastream_ws.exceptions"


class EncodeError(DataStreamError, ValueError):
    """An object cannot be sent: it is nothing that JSON has."""

    __module__ = "datastream_ws.exceptions"
