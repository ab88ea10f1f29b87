"""The server of the library ``websockets``."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from .orders import listener, order, say


async def handle(connection: ServerConnection) -> None:
    try:
        async for data in connection:
            await obey(connection, order(data), data)
    except ConnectionClosed:
        pass
    await connection.wait_closed()
    say(f"closed {connection.close_code}")


async def obey(connection: ServerConnection, told: dict[str, Any], data: str | bytes) -> None:
    match told.get("do"):
        case "close":
            await connection.close(told["code"], told["reason"])
        case "drop":
            connection.transport.abort()
        case "send":
            await connection.send("x" * told["size"])
        case "fragments":
            await connection.ping(b"amid")
            await connection.send(told["of"])
        case _:
            await connection.send(data)


async def main() -> None:
    async with serve(handle, sock=listener(), max_size=2**21) as server:
        await server.serve_forever()


asyncio.run(main())
