"""Payloads of a connection through a codec that keeps a state for each."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from datastream_ws import DecodeError, State
from datastream_ws.handling.unpacking import Unpacking, unpacking_of
from kit.scene import Stream, play


class Zlib:
    """One stream for each connection, as some servers have it."""

    def __init__(self) -> None:
        self.made = 0

    def unpacker(self) -> Callable[[Any], Any]:
        self.made += 1
        stream, packed = zlib.decompressobj(), bytearray()

        def unpack(data: bytes) -> str | None:
            packed.extend(data)
            if not packed.endswith(b"\0\0\xff\xff"):
                return None
            text = stream.decompress(bytes(packed)).decode()
            packed.clear()
            return text

        return unpack

    def decode(self, data: str | bytes) -> Any:
        return json.loads(data)

    def encode(self, obj: Any) -> str:
        return json.dumps(obj)


class Server:
    """The other end of one connection."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj()

    def packed(self, obj: Any) -> bytes:
        return self._stream.compress(json.dumps(obj).encode()) + self._stream.flush(
            zlib.Z_SYNC_FLUSH
        )


def refuse(error: Exception) -> None:
    raise error


def test_a_codec_without_a_state() -> None:
    assert unpacking_of(object(), refuse) is None


def test_what_is_not_whole_yet_waits() -> None:
    server = Server()
    unpacking = unpacking_of(Zlib(), refuse)
    assert unpacking is not None
    first, second = server.packed({"a": 1}), server.packed({"a": 2})
    assert unpacking([first[:3]]) == []
    assert unpacking([first[3:], second]) == ['{"a": 1}', '{"a": 2}']


def exits(data: object) -> Any:
    raise SystemExit


@pytest.mark.parametrize("broken", [lambda data: 5, lambda data: 1 / 0, exits])
def test_nothing_is_read_behind_an_error(broken: Any) -> None:
    failed: list[Exception] = []

    def unpack(data: str | bytes) -> Any:
        return data if data == "good" else broken(data)

    unpacking = Unpacking(unpack, failed.append)
    assert unpacking(["good", "bad", "good"]) == ["good"]
    assert unpacking(["good"]) == []
    [error] = failed
    assert isinstance(error, DecodeError)
    assert isinstance(error.__cause__, TypeError | ZeroDivisionError | SystemExit)


@pytest.mark.parametrize("kind", [LookupError, SystemExit])
def test_an_unpacker_that_cannot_be_made(kind: type[BaseException]) -> None:
    class Broken:
        def unpacker(self) -> Any:
            raise kind

    failed: list[Exception] = []
    assert unpacking_of(Broken(), failed.append) is None
    assert isinstance(failed[0], DecodeError)


def test_each_connection_begins_anew() -> None:
    """Amid a message, too; numbers, routes and what handlers see are those of the messages."""
    codec = Zlib()

    async def scene(stream: Stream) -> None:
        seen: list[Any] = []
        stream.client.on_message("flag")(lambda message: seen.append((message.seq, message.json())))
        await stream.start()
        server = Server()
        await stream.receive(server.packed({"type": "flag", "n": 1}))  # type: ignore[arg-type]
        await stream.receive(server.packed({"type": "flag", "n": 2})[:9])  # type: ignore[arg-type]
        stream.engine.drop()
        await stream.start()
        assert stream.state() is State.READY
        await stream.receive(Server().packed({"type": "flag", "n": 3}))  # type: ignore[arg-type]
        assert [(seq, data["n"]) for seq, data in seen] == [(1, 1), (2, 3)]
        assert codec.made == 2

    play(scene, codec=codec)


def test_a_broken_stream_is_replaced() -> None:
    codec = Zlib()

    async def scene(stream: Stream) -> None:
        errors: list[BaseException] = []
        stream.client.on_error(errors.append)
        stream.client.on_message(stream.handle)
        await stream.start()
        await stream.receive(b"no zlib\0\0\xff\xff")  # type: ignore[arg-type]
        await stream.start()
        assert (stream.state(), codec.made) == (State.READY, 2)
        assert [type(error) for error in errors] == [DecodeError]
        await stream.receive(Server().packed("x"))  # type: ignore[arg-type]
        assert [message.data for message in stream.messages] == ['"x"']

    play(scene, codec=codec)
