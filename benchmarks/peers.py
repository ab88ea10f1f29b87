"""Other clients, each of which handles messages as its documentation shows."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contestants import PATIENCE, Stopwatch, contestant, finished

__all__: list[str] = []

Decode = Callable[[Any], Any]

MOST_BYTES = 16 * 2**20  # of a message, for all clients


# --- websockets, the baseline ------------------------------------------------


@contestant("bare")
def bare(url: str, count: int) -> float:
    """websockets: async for, json.loads inline"""
    return asyncio.run(bare_loop(url, count))


async def bare_loop(url: str, count: int) -> float:
    from websockets.asyncio.client import connect

    watch = Stopwatch(count)
    async with connect(url, max_size=MOST_BYTES) as connection:
        async for message in connection:
            json.loads(message)
            if watch.tick():
                break
    return watch.seconds


@contestant("bare-raw")
def bare_raw(url: str, count: int) -> float:
    """websockets: async for, nothing decoded"""
    return asyncio.run(bare_raw_loop(url, count))


async def bare_raw_loop(url: str, count: int) -> float:
    from websockets.asyncio.client import connect

    watch = Stopwatch(count)
    async with connect(url) as connection:
        async for _ in connection:
            if watch.tick():
                break
    return watch.seconds


# --- websocket-client -----------------------------------------------------------------------------


@contestant("websocket-client", pace=0.2, deflate=False)
def websocket_client(url: str, count: int) -> float:
    """websocket-client: WebSocketApp, json.loads in on_message"""
    import websocket

    watch = Stopwatch(count)

    def on_message(app: websocket.WebSocketApp, message: str) -> None:
        json.loads(message)
        if watch.tick():
            app.keep_running = False

    websocket.WebSocketApp(url, on_message=on_message).run_forever()
    return watch.seconds


# --- aiohttp --------------------------------------------------------------------------------------


@contestant("aiohttp", pace=2)
def aiohttp_client(url: str, count: int) -> float:
    """aiohttp: async for, message.json()"""
    return asyncio.run(aiohttp_loop(url, count, json.loads))


@contestant("aiohttp-msgspec", pace=3)
def aiohttp_msgspec(url: str, count: int) -> float:
    """aiohttp: async for, message.json() with msgspec"""
    return asyncio.run(aiohttp_loop(url, count, msgspec_decode()))


async def aiohttp_loop(url: str, count: int, decode: Decode) -> float:
    import aiohttp

    watch = Stopwatch(count)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, compress=15, max_msg_size=MOST_BYTES) as socket,
    ):
        async for message in socket:
            message.json(loads=decode)
            if watch.tick():
                break
    return watch.seconds


def msgspec_decode() -> Decode:
    import msgspec

    return msgspec.json.Decoder().decode


# --- picows ---------------------------------------------------------------------------------------


@contestant("picows-raw", pace=8, deflate=False)
def picows_raw(url: str, count: int) -> float:
    """picows: frame callback, nothing decoded"""
    return asyncio.run(picows_loop(url, count, None))


@contestant("picows-json", pace=2.5, deflate=False)
def picows_json(url: str, count: int) -> float:
    """picows: frame callback, json.loads"""
    return asyncio.run(picows_loop(url, count, json.loads))


async def picows_loop(url: str, count: int, decode: Decode | None) -> float:
    from picows import WSFrame, WSListener, WSTransport, ws_connect

    watch = Stopwatch(count)

    class Listener(WSListener):  # type: ignore[misc]  # not installed for lint
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if decode is not None:
                decode(frame.get_payload_as_utf8_text())
            if watch.tick():
                transport.disconnect()

    transport, _ = await ws_connect(Listener, url)
    await transport.wait_disconnected()
    return watch.seconds


@contestant("picows-websockets-raw", pace=5)
def picows_websockets_raw(url: str, count: int) -> float:
    """picows.websockets: async for, nothing decoded"""
    return asyncio.run(picows_websockets_loop(url, count, None))


@contestant("picows-websockets-msgspec", pace=4)
def picows_websockets_msgspec(url: str, count: int) -> float:
    """picows.websockets: async for, msgspec"""
    return asyncio.run(picows_websockets_loop(url, count, msgspec_decode()))


@contestant("picows-websockets-json", pace=2)
def picows_websockets_json(url: str, count: int) -> float:
    """picows.websockets: async for, json.loads"""
    return asyncio.run(picows_websockets_loop(url, count, json.loads))


async def picows_websockets_loop(url: str, count: int, decode: Decode | None) -> float:
    from picows.websockets import connect

    watch = Stopwatch(count)
    async with connect(url, max_size=MOST_BYTES) as connection:
        async for message in connection:
            if decode is not None:
                decode(message)
            if watch.tick():
                break
    return watch.seconds


# --- a loop that looks routes up ------------------------------------------------------------------


@contestant("bare-routes")
def bare_routes(url: str, count: int) -> float:
    """websockets: async for, json.loads, one of 1,000 functions by the message's type"""
    return asyncio.run(bare_routes_loop(url, count))


async def bare_routes_loop(url: str, count: int) -> float:
    from websockets.asyncio.client import connect

    watch, done = Stopwatch(count), False

    def handle(obj: Any) -> None:
        nonlocal done
        done = watch.tick()

    functions = {f"t{number:03}": handle for number in range(1000)}
    async with connect(url) as connection:
        async for message in connection:
            obj = json.loads(message)
            functions[obj["type"]](obj)
            if done:
                break
    return watch.seconds


# --- websocket-rs, for Python 3.12 and newer ------------------------------------------------------


@contestant("websocket-rs", pace=2.5, deflate=False)
def websocket_rs(url: str, count: int) -> float:
    """websocket-rs: async for, json.loads"""
    return asyncio.run(websocket_rs_loop(url, count, json.loads))


@contestant("websocket-rs-msgspec", pace=5, deflate=False)
def websocket_rs_msgspec(url: str, count: int) -> float:
    """websocket-rs: async for, msgspec"""
    return asyncio.run(websocket_rs_loop(url, count, msgspec_decode()))


async def websocket_rs_loop(url: str, count: int, decode: Decode) -> float:
    from websocket_rs import connect

    watch = Stopwatch(count)
    async with await connect(url) as connection:
        async for message in connection:
            decode(bytes(message))
            if watch.tick():
                break
    return watch.seconds


# --- Schematic's own client -----------------------------------------------------------------------


@contestant("schematichq")
def schematichq(url: str, count: int) -> float:
    """schematichq[datastream]: DatastreamWSClient, async handler"""
    return asyncio.run(schematichq_loop(url, count))


async def schematichq_loop(url: str, count: int) -> float:
    from schematic.datastream.websocket_client import ClientOptions, DatastreamWSClient

    watch, done = Stopwatch(count), asyncio.Event()

    async def handle(message: Any) -> None:
        if watch.tick():
            done.set()

    options = ClientOptions(
        url=url, api_key="none", message_handler=handle, logger=logging.getLogger("schematic")
    )
    client = DatastreamWSClient(options)
    client.start()
    if not await finished(done):
        raise RuntimeError(f"not finished within {PATIENCE:g} s")
    await client.close()
    return watch.seconds


# --- a plain socket, which shows the limit of the blaster ---------------------------------------


@contestant("drain", pace=8, deflate=False)
def drain(url: str, count: int) -> float:
    """plain socket: bytes read and dropped"""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        sock.sendall(
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: localhost\r\n".encode()
            + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        with sock.makefile("rb", buffering=0) as reader:
            while reader.readline().strip():
                pass
            head = reader.read(10) or b""
        return drain_bytes(sock, frame_bytes(head) * count - len(head))


def frame_bytes(head: bytes) -> int:
    """Return the size of a frame in bytes, given its first ten. All frames have one size."""
    length = head[1]
    if length == 126:
        return 4 + int.from_bytes(head[2:4])
    return 10 + int.from_bytes(head[2:10]) if length == 127 else 2 + length


def drain_bytes(sock: socket.socket, left: int) -> float:
    buffer = bytearray(1024 * 1024)
    started = time.perf_counter()
    while left > 0:
        got = sock.recv_into(buffer)
        if not got:
            raise RuntimeError(f"the connection ended {left} bytes early")
        left -= got
    return time.perf_counter() - started
