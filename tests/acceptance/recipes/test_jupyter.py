"""docs/recipes/jupyter.md, its cell run as IPython runs one: with await, on a loop that goes on."""

from __future__ import annotations

import ast
import asyncio
import inspect
from functools import partial
from typing import Any

from datastream_ws import AsyncClient
from datastream_ws.testing import StreamServer
from kit.pages import ROOT
from kit.recipes import code_of, kill
from kit.seen import FAST, eventually

PAGE = ROOT / "docs" / "recipes" / "jupyter.md"
SUBSCRIPTION = '{"type":"subscribe","symbols":["ACME"]}'


async def run_cell(code: str, names: dict[str, Any]) -> None:
    compiled = compile(code, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)  # noqa: S307  # our own page
    if inspect.iscoroutine(result):
        await result


async def test_prices_over_three_losses_while_other_cells_run() -> None:
    """Subscribed once on every connection; each price is handled once."""
    with StreamServer() as server:
        code = code_of(PAGE).text.replace("wss://api.example.com/stream", server.url)
        names: dict[str, Any] = {"FAST": FAST}
        await run_cell(code.replace("max_reconnect_attempts=None", "**FAST"), names)
        client: AsyncClient = names["client"]

        def arrived(number: int) -> bool:
            return client.is_ready and len(server.received) == number

        losses = [server.abort, server.drop, lambda: kill(server), lambda: None]
        for number, lose in enumerate(losses, 1):
            await asyncio.to_thread(eventually, partial(arrived, number))
            server.send({"type": "price", "symbol": "ACME", "price": number})
            await asyncio.to_thread(eventually, partial({"ACME": number}.__eq__, names["prices"]))
            await asyncio.to_thread(lose)
        assert client.stats().messages_handled == 4
        await run_cell("await client.close()", names)
        last = server.connections[-1]
        assert await asyncio.to_thread(last.closed.wait, 30)
        assert last.close_code == 1000
    assert [each.received for each in server.connections] == [[SUBSCRIPTION]] * 4
