"""docs/recipes/starlette.md under uvicorn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from datastream_ws.testing import StreamServer
from kit.http import free_port, get
from kit.recipes import Recipe, kill
from kit.seen import eventually


@contextmanager
def served(recipe: Recipe) -> Iterator[int]:
    """Serve the application of a recipe; yields its port."""
    port = free_port()
    options: dict[str, Any] = {"port": port, "lifespan": "on", "log_level": "error"}
    # Not uvloop, which is installed, too: libuv keeps a pipe as long as the process lives.
    server = uvicorn.Server(uvicorn.Config(recipe.module.app, loop="asyncio", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: get(port, "/health")[0])
        yield port
    finally:
        server.should_exit = True
        thread.join(30)


def test_prices_over_three_losses() -> None:
    """Subscribed once on every connection; closed with 1000 when the application ends."""
    with StreamServer() as server:
        recipe = Recipe("starlette", {"wss://api.example.com/stream": server.url})
        with served(recipe) as port:
            for number in recipe.connections(server.abort, server.drop, lambda: kill(server)):
                eventually(lambda: get(port, "/health") == (200, {"ready": True}))
                server.wait_received(number)
                server.send({"type": "price", "symbol": "ACME", "price": number})
                eventually(lambda: get(port, "/prices")[1].get("ACME") == len(server.connections))
            server.stop()
            eventually(lambda: get(port, "/health") == (503, {"ready": False}))
            server.start()
            eventually(lambda: get(port, "/health")[0] == 200)
        last = server.connections[-1]
        assert last.closed.wait(10)
        assert last.close_code == 1000
    subscription = '{"type":"subscribe","symbols":["ACME"]}'
    assert [each.received for each in server.connections] == [[subscription]] * 5
