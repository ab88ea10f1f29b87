"""A WebSocket server that sends pre-encoded frames as fast as the client reads.

It runs in its own process and only copies prepared blocks into a socket, so that a benchmark
measures the client. It implements the handshake, pongs and the close of RFC 6455. Each connection
has a thread that reads and one that sends, and gets the same messages.

::

    python -m benchmarks.blaster --size 139 --count 200000     # prints its port and runs forever

A client may request fewer messages with ``ws://127.0.0.1:PORT/?count=1000``.

- ``--rate`` sends at a fixed rate. The field ``sent`` of each message is the time at which it was
  due, in nanoseconds of `time.monotonic_ns`, which all processes of a machine share.
- ``--burst`` sends that many messages at once, at the same average rate.
- ``--kind`` sends messages of `benchmarks.content` instead of padded ones.
- ``--tls`` sends over TLS.
- ``--sink`` receives instead, and sends ``done`` after the last message.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import random
import socket
import ssl
import string
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

from benchmarks import content

ROOT = Path(__file__).resolve().parent.parent
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
BLOCK_BYTES = 256 * 1024  # per sendall(), so that Python's share of the time is small
WINDOW_BITS = 12  # the deflate window that websockets requests
SMALLEST = 64  # bytes of a message with an empty pad, also with a time
FEWEST = 8  # messages in a block, even if they are large
SPIN_SECONDS = 0.0002  # by which sleep() may take too long
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

# Lets other threads run without sleeping, because even time.sleep(0) may take 80 µs.
give_way: Callable[[], object] = getattr(os, "sched_yield", partial(time.sleep, 0))


@dataclass(frozen=True)
class Load:
    """
    The messages for each connection.

    Args:
        size: The payload of each message in bytes, before compression.
        count: The messages per connection. 0 only reads.
        rate: Messages per second. ``None`` sends as fast as the client reads.
        binary: Whether to send binary frames instead of text frames.
        compress: Whether to use permessage-deflate. Clients without it are refused.
        close: Whether to close with 1000 after the last message.
        together: The number of connections to wait for before the first message.
        sink: The number of messages to read before ``done`` is sent. All must have one size.
        kind: A kind of `benchmarks.content`. ``None`` sends padded messages of one size.
        burst: The number of messages that are due at the same moment, with a rate.
        tls: A file with a certificate and its key. An empty string means no TLS.

    """

    size: int = 139
    count: int = 200_000
    rate: float | None = None
    binary: bool = False
    compress: bool = False
    close: bool = False
    together: int = 1
    sink: int = 0
    kind: str | None = None
    burst: int = 1
    tls: str = ""

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in content.KINDS:
            raise ValueError(f"kind must be one of {', '.join(content.KINDS)}")
        if self.size < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST} bytes")
        if self.together < 1 or self.sink < 0:
            raise ValueError("together must be at least 1, sink must not be negative")
        if self.count < 0 or (self.rate is not None and self.rate <= 0):
            raise ValueError("count must not be negative, rate must be above 0")
        if self.compress and self.rate is not None:
            raise ValueError("timed messages are made as they are sent: no compress with rate")

    @property
    def opcode(self) -> int:
        return BINARY if self.binary else TEXT

    @property
    def per_block(self) -> int:
        """The number of messages in a block."""
        return max(1, BLOCK_BYTES // (self.size + 10))

    def arguments(self) -> list[str]:
        """Return the arguments that create the same load in another process."""
        words = ["--size", str(self.size), "--count", str(self.count)]
        words += ["--together", str(self.together), "--sink", str(self.sink)]
        words += ["--burst", str(self.burst), "--tls", self.tls]
        if self.rate is not None:
            words += ["--rate", str(self.rate)]
        if self.kind is not None:
            words += ["--kind", self.kind]
        flags = {"--binary": self.binary, "--compress": self.compress, "--close": self.close}
        return words + [flag for flag, wanted in flags.items() if wanted]


# --- messages ---------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """Return an unmasked, final frame (RFC 6455, section 5.2). RSV1 marks a compressed one."""
    first = 0x80 | (0x40 if compressed else 0) | opcode
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", first, length) + payload
    if length < 65536:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


def message(size: int, number: int, field: str | None = None) -> bytes:
    """
    Return a JSON message of exactly *size* bytes, different for each *number*.

    The pad is random text of 32 letters, so that it compresses about as well as real data.
    """
    dice = random.Random(number)
    field = field or f'"value":{dice.uniform(100, 999):.2f}'
    head = f'{{"type":"tick","key":"k{number % 1000:03d}",{field},"pad":"'
    letters = string.ascii_lowercase + "012345"
    pad = "".join(dice.choices(letters, k=size - len(head) - 2))
    return f'{head}{pad}"}}'.encode()


def messages(load: Load) -> list[bytes]:
    """Return the messages of a block, which has at least BLOCK_BYTES and a few messages."""
    if load.kind is None:
        return [message(load.size, number) for number in range(load.per_block)]
    least = 1000 if load.kind == "bulk" else FEWEST
    found: list[bytes] = []
    while len(found) < least or sum(map(len, found)) < BLOCK_BYTES:
        found += [content.message(load.kind, len(found) + n) for n in range(least)]
    return found


@dataclass(frozen=True)
class Block:
    """Encoded frames, and the position of the end of each."""

    data: bytes
    ends: tuple[int, ...]

    @classmethod
    def of(cls, frames: list[bytes]) -> Block:
        ends, at = [], 0
        for each in frames:
            at += len(each)
            ends.append(at)
        return cls(b"".join(frames), tuple(ends))

    def head(self, count: int) -> bytes:
        """Return the first *count* frames."""
        return self.data[: self.ends[count - 1]] if count else b""


@dataclass(frozen=True)
class Stream:
    """
    The block ``first``, and then ``again`` any number of times.

    They differ only if compression keeps its window between messages. ``again`` can follow each
    block with the same content.
    """

    first: Block
    again: Block

    def chunks(self, count: int) -> Iterator[bytes]:
        """Yield the bytes of exactly *count* messages, block by block."""
        block = self.first
        while count > 0:
            taken = min(count, len(block.ends))
            yield block.data if taken == len(block.ends) else block.head(taken)
            count -= taken
            block = self.again


def deflated(compressor: zlib._Compress, payload: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692, section 7.2.1)."""
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[:-4]


def new_compressor() -> zlib._Compress:
    return zlib.compressobj(wbits=-WINDOW_BITS)


def plain(load: Load) -> Stream:
    """Return uncompressed frames."""
    block = Block.of([frame(load.opcode, payload) for payload in messages(load)])
    return Stream(block, block)


def compressed(load: Load, *, takeover: bool) -> Stream:
    """
    Return compressed frames. With *takeover*, the window is kept between messages.

    A block is longer than the window. Each block leaves the same bytes in the window, so the second
    block can be repeated.
    """
    compressor = new_compressor()
    payloads = messages(load)

    def block() -> Block:
        packed = (deflated(compressor if takeover else new_compressor(), each) for each in payloads)
        return Block.of([frame(load.opcode, data, compressed=True) for data in packed])

    first = block()
    return Stream(first, block() if takeover else first)


class Sources:
    """The streams for all kinds of clients, encoded before the first one connects."""

    def __init__(self, load: Load) -> None:
        self.compress = load.compress
        self.plain = plain(load)
        self.takeover = compressed(load, takeover=True) if load.compress else self.plain
        self.no_takeover = compressed(load, takeover=False) if load.compress else self.plain

    def choose(self, offer: str | None) -> tuple[Stream, str | None]:
        """Return the stream and the extension for a client's offer. ``None`` means no extension."""
        if not self.compress or offer is None:
            return self.plain, None
        agreed = ["permessage-deflate"]
        if "server_max_window_bits" in offer:
            agreed.append(f"server_max_window_bits={WINDOW_BITS}")
        if "server_no_context_takeover" in offer:
            agreed.append("server_no_context_takeover")
            return self.no_takeover, "; ".join(agreed)
        return self.takeover, "; ".join(agreed)


def timed(load: Load, rate: float) -> Iterator[bytes]:
    """
    Yield the bytes of all messages when they are due. Late messages are sent together.

    The time in a message is when it was due, so it includes the time that a slow client costs.
    """
    mark = "#" * 19
    head, tail = message(load.size, 0, f'"sent":{mark}').split(mark.encode())
    head = frame(load.opcode, bytes(load.size))[: -load.size] + head
    start, period, burst, sent = time.monotonic_ns(), 1e9 / rate, load.burst, 0
    while sent < load.count:
        sleep_until(start + int(sent * period))
        late = int((time.monotonic_ns() - start) / period) + 1 if burst == 1 else sent + burst
        due = min(load.count, late, sent + 1000)
        stamps = (b"%19d" % (start + int(n // burst * burst * period)) for n in range(sent, due))
        yield b"".join(head + stamp + tail for stamp in stamps)
        sent = due


def sleep_until(moment: int) -> None:
    """Return at *moment*, in monotonic nanoseconds. Sleep first, and spin at the end."""
    while (left := (moment - time.monotonic_ns()) / 1e9) > 0:
        if left > SPIN_SECONDS:
            time.sleep(left - SPIN_SECONDS)
        else:
            give_way()


# --- the server -----------------------------------------------------------------------------------


REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def read_request(reader: BinaryIO) -> tuple[str, dict[str, str]]:
    """Return the target and headers of a handshake, with names in lower case."""
    headers: dict[str, str] = {}
    words = reader.readline().decode("latin-1").split()
    while line := reader.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return words[1] if len(words) > 1 else "", headers


def count_in(target: str) -> int | None:
    """Return the number of messages that a client requests. ``None`` means all."""
    values = parse_qs(urlsplit(target).query).get("count")
    return int(values[0]) if values else None


def response(key: str, extension: str | None) -> bytes:
    """Return the server's response to a handshake (RFC 6455, section 4.2.2)."""
    digest = hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
    ]
    if extension is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extension}")
    return "\r\n".join([*lines, "", ""]).encode()


def read_frames(reader: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the opcode and the payload of each frame of a client."""
    while len(head := reader.read(2)) == 2:
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", reader.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", reader.read(8))
        mask = reader.read(4)
        yield head[0] & 0x0F, unmasked(reader.read(length), mask)


def unmasked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(whole)).to_bytes(size)


def skip(reader: BinaryIO, size: int) -> bool:
    """Read and discard this number of bytes. Return ``False`` if the client disconnects."""
    buffer = memoryview(bytearray(1024 * 1024))
    while size > 0:
        got = reader.readinto(buffer[:size])  # type: ignore[attr-defined]
        if not got:
            return False
        size -= got
    return True


def masked_frame_bytes(head: bytes) -> int:
    """Return the size of a client's frame in bytes, given its first ten bytes."""
    length = head[1] & 0x7F
    if length < 126:
        return 6 + length
    return 8 + int.from_bytes(head[2:4]) if length == 126 else 14 + int.from_bytes(head[2:10])


def first_deflate_offer(headers: dict[str, str]) -> str | None:
    """Return the parameters of the first permessage-deflate offer, or ``None``."""
    for offer in headers.get("sec-websocket-extensions", "").split(","):
        if offer.strip().startswith("permessage-deflate"):
            return offer
    return None


class Peer:
    """A connection, from its handshake to its end."""

    def __init__(
        self, sock: socket.socket, load: Load, sources: Sources, start: threading.Barrier
    ) -> None:
        self._sock = sock
        self._load = load
        self._sources = sources
        self._start = start
        self._writing = threading.Lock()  # so that no pong is written within a block
        self._ended = False
        self._said_close = False

    def serve(self) -> None:
        """Send the load, and respond to pings until the client closes."""
        if self._load.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._load.tls)
            self._sock = context.wrap_socket(self._sock, server_side=True)
        with self._sock, contextlib.suppress(OSError), self._sock.makefile("rb") as reader:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            target, headers = read_request(reader)
            if "sec-websocket-key" not in headers:
                return  # not a WebSocket client
            stream, extension = self._sources.choose(first_deflate_offer(headers))
            if self._load.compress and extension is None:
                self._write(REFUSAL)
                return
            self._write(response(headers["sec-websocket-key"], extension))
            count = count_in(target)
            count = self._load.count if count is None else min(count, self._load.count)
            threading.Thread(target=self._blast, args=(stream, count), daemon=True).start()
            if self._swallow(reader):
                self._answer(reader)

    def _swallow(self, reader: BinaryIO) -> bool:
        """Read the messages of a sink by their size, because parsing would be slower."""
        if not self._load.sink:
            return True
        head = reader.read(10)
        if len(head) < 10:
            return False
        swallowed = skip(reader, self._load.sink * masked_frame_bytes(head) - len(head))
        if swallowed:
            self._write(frame(TEXT, b"done"))
        return swallowed

    def _answer(self, reader: BinaryIO) -> None:
        try:
            for opcode, payload in read_frames(reader):
                if opcode == PING:
                    self._write(frame(PONG, payload))
                elif opcode == CLOSE:
                    break
        finally:
            self._ended = True
        self._close()
        self._sock.shutdown(socket.SHUT_RDWR)  # also wakes a sender that is stuck

    def _blast(self, stream: Stream, count: int) -> None:
        load = self._load
        chunks = stream.chunks(count) if load.rate is None else timed(load, load.rate)
        with contextlib.suppress(OSError):
            self._start.wait()
            for chunk in chunks:
                if self._ended:
                    return
                self._write(chunk)
            if load.close:
                self._close()

    def _close(self) -> None:
        """Send a close frame with 1000, unless it was sent already."""
        self._write(frame(CLOSE, struct.pack("!H", 1000)), last=True)

    def _write(self, data: bytes, *, last: bool = False) -> None:
        with self._writing:
            if not self._said_close:
                self._said_close = last
                self._sock.sendall(data)


def serve(load: Load, port: int = 0) -> None:
    """Print the port, and serve connections until the process is killed."""
    sources = Sources(load)
    start = threading.Barrier(load.together)
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=Peer(sock, load, sources, start).serve, daemon=True).start()


# --- the process ----------------------------------------------------------------------------------


def certificate(folder: Path) -> str:
    """Create a certificate for 127.0.0.1 with its key, and return the path of the file."""
    path = folder / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / "key.pem").read_text())
    return str(path)


class Blaster:
    """
    A blaster in its own process, which ``with`` starts and ends.

    ::

        with Blaster(Load(size=139, count=200_000)) as blaster:
            measure(blaster.url)

    The process also ends if this process is killed.
    """

    def __init__(self, load: Load, *, tls: bool = False) -> None:
        self.load = load
        self.url = ""
        self._tls = tls
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Blaster:
        if self._tls:
            path = certificate(Path(self._folder.name))
            self.load = replace(self.load, tls=path)
            os.environ["SSL_CERT_FILE"] = path  # the default contexts of all clients read it
        command = [sys.executable, "-m", "benchmarks.blaster", "--until-eof"]
        self._process = subprocess.Popen(
            [*command, *self.load.arguments()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the blaster did not start: exit code {self._process.wait()}")
        self.url = f"{'wss' if self._tls else 'ws'}://127.0.0.1:{port}/"
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()
        if self._tls:
            del os.environ["SSL_CERT_FILE"]


def give_precedence() -> None:
    """
    Run only on cores that no client wants, where the system supports it.

    The server spins until messages are due. With two cores, a client with two threads would
    otherwise wait for the server's time slices, unlike the client of a server on another machine.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def leave_at_eof() -> None:
    """End the process when its stdin is closed."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)  # the accept loop never ends


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.blaster", description=__doc__)
    add = parser.add_argument
    add("--size", type=int, default=139, help="Payload bytes per message (default: 139)")
    add("--count", type=int, default=200_000, help="Messages per connection (default: 200000)")
    add("--rate", type=float, help="Send N messages per second, with their times")
    add("--binary", action="store_true", help="Send binary frames")
    add("--compress", action="store_true", help="Compress with permessage-deflate")
    add("--close", action="store_true", help="Close with 1000 after the last message")
    add("--together", type=int, default=1, help="Wait for N connections before the first message")
    add("--sink", type=int, default=0, help="Read N messages, and send `done`")
    add("--kind", choices=content.KINDS, help="Send varied messages of this kind")
    add("--burst", type=int, default=1, help="Send N messages at once, with --rate")
    add("--tls", default="", metavar="FILE", help="Serve with the certificate and key in FILE")
    add(
        "--port",
        type=int,
        default=0,
        help="Listen on this port, or on any free port with 0 (default: 0)",
    )
    add("--until-eof", action="store_true", help="Exit when stdin is closed")
    words = vars(parser.parse_args())
    port, until_eof = words.pop("port"), words.pop("until_eof")
    try:
        load = Load(**words)
    except ValueError as error:
        parser.error(str(error))
    if load.rate is not None:
        give_precedence()
    if until_eof:
        threading.Thread(target=leave_at_eof, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        serve(load, port)


if __name__ == "__main__":
    main()
