"""permessage-deflate for an engine whose library has none: received messages only (RFC 7692)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

__all__ = ["OFFER", "Inflate", "TooBig", "inflate_for"]

OFFER = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.2


class TooBig(Exception):
    """A message inflates to more than it may."""


class Inflate:
    """
    Inflates the messages of one connection.

    Args:
        window_bits: Base-two logarithm of the server's window, 8 to 15.
        takeover: Whether the window goes on from one message to the next.

    """

    def __init__(self, window_bits: int = 15, *, takeover: bool = True) -> None:
        self._window_bits = window_bits
        self._takeover = takeover
        self._stream = zlib.decompressobj(-window_bits)

    def message(self, data: bytes, limit: int | None) -> bytes:
        """
        Return the message; raise TooBig above *limit* bytes, zlib.error when it is corrupt.
        """
        if not self._takeover:
            self._stream = zlib.decompressobj(-self._window_bits)
        stream = self._stream
        if limit is None:
            return stream.decompress(data + TAIL)
        inflated = stream.decompress(data + TAIL, limit + 1)
        if len(inflated) > limit or stream.unconsumed_tail:
            raise TooBig
        return inflated


def inflate_for(answer: str | None) -> Inflate | None:
    """
    Return what the server's Sec-WebSocket-Extensions calls for; ``None``: nothing.

    Raises:
        ValueError: If it is not an answer to :data:`OFFER`.

    """
    if not answer:
        return None
    name, *rest = (part.strip() for part in answer.split(";"))
    parameters = dict(_parameter(part) for part in rest)
    allowed = {"server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits"}
    if name != OFFER or len(parameters) != len(rest) or not parameters.keys() <= allowed:
        raise ValueError("unexpected extension")
    return Inflate(
        _window_bits(parameters), takeover="server_no_context_takeover" not in parameters
    )


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip().strip('"')


def _window_bits(parameters: Mapping[str, str]) -> int:
    bits = int(parameters.get("server_max_window_bits", "15"))
    if not 8 <= bits <= 15:
        raise ValueError("unexpected window size")
    return bits
