"""A Starlette app on uvicorn. The second argument names uvicorn's WebSocket library."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from .orders import listener, order, say


async def handle(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            text = message.get("text")
            await obey(socket, order(text), text if text is not None else message["bytes"])
    except WebSocketDisconnect as end:
        say(f"closed {end.code}")


async def obey(socket: WebSocket, told: dict[str, Any], data: str | bytes) -> None:
    match told.get("do"):
        case "close":
            await socket.close(told["code"], told["reason"])
        case "send":
            await socket.send_text("x" * told["size"])
        case _ if isinstance(data, str):
            await socket.send_text(data)
        case _:
            await socket.send_bytes(data)


config = uvicorn.Config(
    Starlette(routes=[WebSocketRoute("/", handle)]),
    ws=sys.argv[2],
    log_level="warning",
    ws_max_size=2**21,
)
uvicorn.Server(config).run([listener()])
