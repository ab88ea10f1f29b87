"""docs/recipes/json-rpc.md against a server that follows JSON-RPC 2.0 and geth's subscriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from datastream_ws import NotConnectedError
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, kill

URL = "wss://api.example.com/rpc"


class Node:
    """A chain of blocks. Its subscriptions end with their connection."""

    def __init__(self) -> None:
        self.server = StreamServer(on_message=self.take)
        self.block = 0
        self.subscriptions: dict[str, StreamConnection] = {}
        self.methods: list[tuple[int, str]] = []

    def take(self, connection: StreamConnection, data: str | bytes) -> None:
        request = json.loads(data)
        assert request["jsonrpc"] == "2.0"
        self.methods.append((connection.number, request["method"]))
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == "eth_subscribe":
            name = hex(0xABC + len(self.subscriptions))
            self.subscriptions[name] = connection
            answer["result"] = name
        elif request["method"] == "eth_blockNumber":
            answer["result"] = hex(self.block)
        elif request["method"] == "echo":
            answer["result"] = request["params"]
        elif request["method"] == "die":
            connection.abort()
            return
        else:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        connection.send(answer)

    def mine(self) -> None:
        self.block += 1
        for name, connection in self.subscriptions.items():
            params = {"subscription": name, "result": {"number": hex(self.block)}}
            if connection.is_open:
                event = {"jsonrpc": "2.0", "method": "eth_subscription", "params": params}
                connection.send(event)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    with node.server:
        yield node


def test_blocks_over_three_losses(node: Node) -> None:
    """Each block once; on every connection one subscription, then the current block."""
    server = node.server
    expected = []
    with Recipe("json-rpc", {URL: server.url}) as recipe:
        for _ in recipe.connections(server.abort, server.drop, lambda: kill(server)):
            expected += [f"from block {node.block}", f"block {node.block + 1}"]
            node.mine()
            recipe.printed.wait(len(expected))
            node.block += 10  # unseen
        assert recipe.printed.all == expected
    methods = ["eth_subscribe", "eth_blockNumber"]
    assert node.methods == [(number, each) for number in range(1, 5) for each in methods]


def test_calls(node: Node) -> None:
    """Twenty at a time, each with its own answer; an error, and a loss, are raised."""
    with Recipe("json-rpc", {URL: node.server.url}) as recipe, ThreadPoolExecutor(20) as pool:
        call = recipe.module.call
        assert list(pool.map(lambda n: call("echo", n), range(100))) == [[n] for n in range(100)]
        with pytest.raises(recipe.module.RpcError, match="Method not found"):
            call("unknown")
        with pytest.raises(NotConnectedError):
            call("die")
