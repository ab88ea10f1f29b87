"""
The permessage-deflate extension with bounded output and support for final blocks (RFC 7692).

The ``websockets`` library negotiates the extension, compresses messages and inflates fragments.
:mod:`.frames` inflates messages in one frame, with the same decompressor.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.typing import ExtensionParameter

__all__ = ["Decompressor", "Deflate", "DeflateFactory", "TooBig"]

SETTINGS = {"memLevel": 5}  # as the library sets for `compression="deflate"`
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.2
MOST_FINAL_BLOCKS = 64  # per call; each costs a few kB and a copy of the remaining data


class TooBig(Exception):
    """A message inflates to more than the limit."""


class Decompressor:
    """
    A ``zlib.decompressobj`` that continues after a final block (RFC 7692 section 7.2.3.4).

    zlib's own object ignores all data after a final block. Later messages would be empty, and
    ``unused_data`` would grow without a limit.

    Args:
        window_bits: Base-two logarithm of the server's window, 8 to 15.

    Attributes:
        unconsumed_tail: Input that the limit left unprocessed, as in zlib.

    """

    __slots__ = ("_stream", "_window_bits", "unconsumed_tail")

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(-window_bits)
        self.unconsumed_tail = b""

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        """
        Inflate *data*, to at most *max_length* bytes (0 means no limit).

        Raises:
            zlib.error: If *data* is corrupt.

        """
        inflated = self._stream.decompress(data, max_length)
        self.unconsumed_tail = self._stream.unconsumed_tail
        return inflated if not self._stream.eof else self._go_on(inflated, max_length)

    def _go_on(self, inflated: bytes, max_length: int) -> bytes:
        """Inflate the data after a final block, with an empty window."""
        for _ in range(MOST_FINAL_BLOCKS):
            rest = self._stream.unused_data
            self._stream = zlib.decompressobj(-self._window_bits)
            room = max_length - len(inflated)
            # With no room left, ask for one byte, which shows whether any output follows.
            more = self._stream.decompress(rest, max_length and max(1, room))
            if more and max_length and room <= 0:
                self.unconsumed_tail = rest
                return inflated
            inflated += more
            self.unconsumed_tail = self._stream.unconsumed_tail
            if not self._stream.eof:
                return inflated
        raise zlib.error("too many final blocks")


class Deflate(PerMessageDeflate):
    """
    The library's extension with :class:`Decompressor` as its decoder.

    The library creates a decoder in several places, always by assigning to ``decoder``. The
    property replaces each of them.
    """

    @property
    def decoder(self) -> Any:
        return self._decoder

    @decoder.setter
    def decoder(self, _: object) -> None:
        self._decoder = Decompressor(self.remote_max_window_bits)

    @decoder.deleter
    def decoder(self) -> None:
        del self._decoder

    def inflate(self, payload: bytes, limit: int) -> bytes:
        """
        Inflate the payload of an unfragmented message.

        Raises:
            TooBig: If the message is longer than *limit* bytes.
            zlib.error: If the payload is corrupt.

        """
        if self.remote_no_context_takeover:
            decoder = Decompressor(self.remote_max_window_bits)
        else:
            decoder = self._decoder
        inflated = decoder.decompress(payload + TAIL, limit + 1)
        if len(inflated) > limit or decoder.unconsumed_tail:
            raise TooBig
        return inflated


class DeflateFactory(ClientPerMessageDeflateFactory):
    """Offers the extension with the library's parameters, and makes a :class:`Deflate` of it."""

    def __init__(self) -> None:
        super().__init__(compress_settings=SETTINGS)

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> Deflate:
        agreed = super().process_response_params(params, accepted_extensions)
        return Deflate(
            agreed.remote_no_context_takeover,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
            agreed.compress_settings,
        )
