"""
Fuzz the bytes from a server by coverage: ``python -m kit.fuzztarget [libFuzzer's options]``.

It requires atheris. If the engine and the reference reader disagree, or an exception escapes, it
fails and writes the bytes to a file ``crash-…``.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["datastream_ws.connection", "websockets"]):
    from datastream_ws import HandshakeError

    from .reference import LIMIT, check, meaning, read, reads
    from .wire import Wire


def one(data: bytes) -> None:
    """Test one input. Its first byte chooses the kind, and its second the size of reads."""
    if len(data) < 2:
        return
    choice, size, data = data[0], data[1], data[2:]
    parts = reads(data, [size % 61 + 1])
    if choice & 1:
        answer(parts)
    elif b"\x7e" not in data and b"\x7f" not in data:  # lengths in more bytes than they need
        deflate = bool(choice & 2)
        wire = read(parts, deflate=deflate)
        check(wire, meaning(data, LIMIT, deflate=deflate))


def answer(parts: list[bytes]) -> None:
    try:
        with Wire() as wire:
            wire.answer(*parts)
    except HandshakeError:
        pass
    assert wire.escaped == []


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
