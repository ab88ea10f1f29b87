"""The ``websockets`` library's permessage-deflate, reading past final blocks (RFC 7692)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.typing import ExtensionParameter

from .inflate import Decompressor

__all__ = ["DeflateFactory"]

SETTINGS = {"memLevel": 5}  # as the library's own `compression="deflate"`


class DeflateFactory(ClientPerMessageDeflateFactory):
    """Offers the extension as the library does."""

    def __init__(self) -> None:
        super().__init__(compress_settings=SETTINGS)

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> PerMessageDeflate:
        agreed = super().process_response_params(params, accepted_extensions)
        return Deflate(
            agreed.remote_no_context_takeover,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
            agreed.compress_settings,
        )


class Deflate(PerMessageDeflate):
    """Whatever the library makes its decoder of, it is ours."""

    @property
    def decoder(self) -> Any:
        return self._decoder

    @decoder.setter
    def decoder(self, _: object) -> None:
        self._decoder = Decompressor(self.remote_max_window_bits)

    @decoder.deleter
    def decoder(self) -> None:
        del self._decoder
