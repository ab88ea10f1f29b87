"""docs/recipes/socket-io.md against socket.io itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.faultproxy import FaultProxy
from kit.http import get
from kit.realservers import HERE, node_packages
from kit.recipes import Recipe, Served
from kit.seen import eventually
from kit.services import needed

URL = "wss://api.example.com"


@pytest.fixture
def server(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Served]:
    home = node_packages(pytestconfig, "socket.io", tmp_path, ["socket.io@4"])
    command = [needed("node", "nodejs"), str(HERE / "socketio_server.mjs")]
    with Served(lambda port: [*command, str(port), str(home)], "listening", tmp_path) as served:
        yield served


def in_room(server: Served, order: str = "") -> object:
    return get(server.port, f"/{order}")[1]


def test_events_over_three_losses(server: Served) -> None:
    """Each event once; on every connection the login, then one join."""
    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}") as proxy,
        Recipe("socket-io", {URL: proxy.url}) as recipe,
    ):
        lose = [proxy.sever, lambda: proxy.sever("fin"), server.kill]
        for number in recipe.connections(*lose):
            eventually(lambda: in_room(server) == 1)
            assert in_room(server, f"publish/{number}") == 1
            recipe.printed.wait(number)
        assert recipe.printed.all == [f"price {number}" for number in range(1, 5)]
        opened = [line for line in server.log(1) if line != "pong"]
        assert opened == ["listening", *["login TOKEN", "join news"] * 3]
        assert [line for line in server.said if line != "pong"] == opened[:3]


def test_pongs_calls_and_acknowledgements(server: Served) -> None:
    with Recipe("socket-io", {URL: f"ws://127.0.0.1:{server.port}"}) as recipe:
        assert [recipe.module.call("double", number) for number in range(12)] == [
            [2 * number] for number in range(12)
        ]
        in_room(server, "ask")
        assert recipe.printed.wait() == ["question"]
        eventually(lambda: "acknowledged" in server.said)
        eventually(lambda: server.said.count("pong") >= 2)
        assert recipe.client.stats().connections == 1


def test_a_wrong_token(server: Served) -> None:
    fill = {URL: f"ws://127.0.0.1:{server.port}", "TOKEN": "wrong"}
    failure = Recipe("socket-io", fill).failure()
    assert isinstance(failure, PermissionError)
    assert str(failure) == "not authorized"
    assert server.said == ["listening", "login wrong"]
