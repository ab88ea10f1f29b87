"""Inflates permessage-deflate, bounded and past final blocks (RFC 7692)."""

from __future__ import annotations

import zlib

__all__ = ["Decompressor"]

MOST_FINAL_BLOCKS = 64  # in what is inflated at once; each costs a few kB and a copy of the rest


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
