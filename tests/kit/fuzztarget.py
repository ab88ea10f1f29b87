"""
What a server may send, chosen by coverage: ``python -m kit.fuzztarget [libFuzzer's options]``.

Needs atheris. Fails with the bytes in a file named ``crash-…`` when the engine and the reference
reader do not agree, or something escapes.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["datastream_ws.connection", "websockets"]):
    from datastream_ws import HandshakeError

    from .reference import LIMIT, check, meaning, read, reads
    from .wire import Wire


def one(data: bytes) -> None:
    """The first byte says whether it is an answer or a stream, and packed; the second, how cut."""
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
