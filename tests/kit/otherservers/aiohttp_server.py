"""The server of aiohttp."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import WSMsgType, web

from .orders import listener, order, say


async def handle(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=True, max_msg_size=2**21)
    await socket.prepare(request)
    async for message in socket:
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            await obey(request, socket, order(message.data), message.data)
    say(f"closed {socket.close_code}")
    return socket


async def obey(
    request: web.Request, socket: web.WebSocketResponse, told: dict[str, Any], data: Any
) -> None:
    match told.get("do"):
        case "close":
            await socket.close(code=told["code"], message=told["reason"].encode())
        case "drop":
            assert request.transport is not None
            request.transport.abort()
        case "send":
            await socket.send_str("x" * told["size"])
        case _ if isinstance(data, str):
            await socket.send_str(data)
        case _:
            await socket.send_bytes(data)


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, listener()).start()
    await asyncio.Event().wait()


asyncio.run(main())
