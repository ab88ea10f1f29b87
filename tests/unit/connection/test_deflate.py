"""permessage-deflate: final blocks, limits, and what is agreed on."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate

from datastream_ws.connection.deflate import (
    MOST_FINAL_BLOCKS,
    TAIL,
    Decompressor,
    Deflate,
    DeflateFactory,
    TooBig,
)

TEXT = b"hello " * 50


def compressed(data: bytes, *, final: bool = False) -> bytes:
    """Compress as a peer does; *final*: its block is marked as the last, as some do."""
    stream = zlib.compressobj(wbits=-15)
    body = stream.compress(data)
    return body + stream.flush(zlib.Z_FINISH if final else zlib.Z_SYNC_FLUSH)


def test_nothing_is_lost_behind_a_final_block() -> None:
    decompressor = Decompressor(15)
    data = compressed(TEXT, final=True) + compressed(b"more")
    assert decompressor.decompress(data) == TEXT + b"more"
    assert decompressor.unconsumed_tail == b""
    assert decompressor.decompress(compressed(b"later")) == b"later"


def test_final_blocks_that_never_end() -> None:
    data = compressed(b"", final=True) * (MOST_FINAL_BLOCKS + 2)
    with pytest.raises(zlib.error, match="too many final blocks"):
        Decompressor(15).decompress(data)


def test_what_is_beyond_the_limit_is_left() -> None:
    """In one stream, and behind a final block that fills the room."""
    decompressor = Decompressor(15)
    assert decompressor.decompress(compressed(TEXT), 10) == TEXT[:10]
    assert decompressor.unconsumed_tail
    decompressor = Decompressor(15)
    data = compressed(b"0123456789", final=True) + compressed(b"more")
    assert decompressor.decompress(data, 10) == b"0123456789"
    assert decompressor.unconsumed_tail


def agreed(*, takeover: bool = True) -> Deflate:
    return Deflate(not takeover, False, 15, 15, {})


@pytest.mark.parametrize("takeover", [True, False])
def test_a_message_is_inflated_up_to_the_limit(takeover: bool) -> None:
    deflate = agreed(takeover=takeover)
    payload = compressed(TEXT).removesuffix(TAIL)
    assert deflate.inflate(payload, len(TEXT)) == TEXT
    with pytest.raises(TooBig):
        agreed(takeover=takeover).inflate(payload, len(TEXT) - 1)


def test_a_window_that_is_not_taken_over() -> None:
    """Each message begins anew: what refers to the one before is corrupt."""
    peer = zlib.compressobj(wbits=-15)
    first, second = (
        (peer.compress(TEXT) + peer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL) for _ in range(2)
    )
    both = agreed()
    assert [both.inflate(each, 1000) for each in (first, second)] == [TEXT, TEXT]
    fresh = agreed(takeover=False)
    assert fresh.inflate(first, 1000) == TEXT
    with pytest.raises(zlib.error):
        fresh.inflate(second, 1000)


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    payload = compressed(b"\0" * 50_000_000).removesuffix(TAIL)
    tracemalloc.start()
    try:
        with pytest.raises(TooBig):
            agreed().inflate(payload, 1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1_000_000


def test_the_offer_is_the_librarys_and_the_decoder_ours() -> None:
    factory = DeflateFactory()
    assert dict(factory.get_request_params())["client_max_window_bits"] is None
    made = factory.process_response_params([("server_max_window_bits", "10")], [])
    assert isinstance(made, PerMessageDeflate)
    assert isinstance(made.decoder, Decompressor)
    assert made.remote_max_window_bits == 10
    del made.decoder  # as the library does between messages without takeover
    made.decoder = None
    assert isinstance(made.decoder, Decompressor)
