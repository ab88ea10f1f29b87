"""permessage-deflate as both engines read it: bounded, and past final blocks (RFC 7692)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

__all__ = ["OFFER", "Decompressor", "Inflate", "TooBig", "inflate_for"]

NAME = "permessage-deflate"
# Nothing is sent compressed by an engine that reads with `Inflate`: whatever a server wants to be
# spared, it is spared, and it needs to keep no window of ours.
OFFER = f"{NAME}; client_no_context_takeover; client_max_window_bits"
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.2
ALLOWED = frozenset(
    f"{side}_{what}"
    for side in ("server", "client")
    for what in ("no_context_takeover", "max_window_bits")
)
WINDOW_BITS = frozenset(map(str, range(8, 16)))
MOST_FINAL_BLOCKS = 64  # in what is inflated at once; each costs a few kB and a copy of the rest


class TooBig(Exception):
    """A message inflates to more than it may."""


class Decompressor:
    """
    ``zlib.decompressobj`` that goes on after a final block, as RFC 7692 section 7.2.3.4 wants.

    zlib's own says no more after one: later messages would be empty, and what the peer sends
    would be kept for ever.

    Args:
        window_bits: Base-two logarithm of the peer's window, 8 to 15.

    Attributes:
        unconsumed_tail: As zlib's: what was not looked at because of the limit.

    """

    __slots__ = ("_stream", "_window_bits", "unconsumed_tail")

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(-window_bits)
        self.unconsumed_tail = b""

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        """Return at most *max_length* bytes (0: no limit); zlib.error when *data* is corrupt."""
        inflated = self._stream.decompress(data, max_length)
        self.unconsumed_tail = self._stream.unconsumed_tail
        return inflated if not self._stream.eof else self._go_on(inflated, max_length)

    def _go_on(self, inflated: bytes, max_length: int) -> bytes:
        """Inflate what follows a final block, with a new window: the peer's is not known."""
        for _ in range(MOST_FINAL_BLOCKS):
            rest = self._stream.unused_data
            self._stream = zlib.decompressobj(-self._window_bits)
            room = max_length - len(inflated)
            more = self._stream.decompress(rest, max_length and max(1, room))
            if more and max_length and room <= 0:
                self.unconsumed_tail = rest
                return inflated
            inflated += more
            self.unconsumed_tail = self._stream.unconsumed_tail
            if not self._stream.eof:
                return inflated
        raise zlib.error("too many final blocks")


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
        self._stream = Decompressor(window_bits)

    def message(self, data: bytes, limit: int | None) -> bytes:
        """
        Return the message; raise TooBig above *limit* bytes, zlib.error when it is corrupt.
        """
        if not self._takeover:
            self._stream = Decompressor(self._window_bits)
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
    if name != NAME or len(parameters) != len(rest) or not parameters.keys() <= ALLOWED:
        raise ValueError("unexpected extension")
    _window_bits(parameters, "client_max_window_bits")
    return Inflate(
        _window_bits(parameters, "server_max_window_bits"),
        takeover="server_no_context_takeover" not in parameters,
    )


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip().strip('"')


def _window_bits(parameters: Mapping[str, str], name: str) -> int:
    bits = parameters.get(name, "15")
    if bits not in WINDOW_BITS:
        raise ValueError("unexpected window size")
    return int(bits)
