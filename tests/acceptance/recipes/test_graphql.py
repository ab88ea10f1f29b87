"""docs/recipes/graphql.md against graphql-ws, the reference server of the protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datastream_ws import StreamClosedError
from kit.faultproxy import FaultProxy
from kit.http import get
from kit.pages import ROOT
from kit.realservers import HERE, node_packages
from kit.recipes import Recipe, Served, file_of
from kit.seen import eventually
from kit.services import needed

URL = "wss://api.example.com/graphql"
PACKAGES = ["graphql-ws@6", "graphql@16", "ws@8"]


@pytest.fixture
def server(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Served]:
    home = node_packages(pytestconfig, "graphql", tmp_path, PACKAGES)
    command = [needed("node", "nodejs"), str(HERE / "graphql_server.mjs")]
    with Served(lambda port: [*command, str(port), str(home)], "listening", tmp_path) as served:
        yield served


def subscriptions(server: Served, order: str = "") -> object:
    return get(server.port, f"/{order}")[1]


def test_prices_over_three_losses(server: Served) -> None:
    """Each price once; on every connection the login, then one subscription."""
    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}/graphql") as proxy,
        Recipe("graphql", {URL: proxy.url}) as recipe,
    ):
        lose = [proxy.sever, lambda: proxy.sever("fin"), server.kill]
        for number in recipe.connections(*lose):
            eventually(lambda: subscriptions(server) == 1)
            assert subscriptions(server, f"publish/{number}") == 1
            recipe.printed.wait(number)
        assert recipe.printed.all == [f"acme {number}" for number in range(1, 5)]
        assert server.said == ["listening", "login TOKEN", "subscribed to ACME"]
        logins = [line for line in server.log(1) if line != "gone"]
        assert logins == ["listening", *["login TOKEN", "subscribed to ACME"] * 3]


def test_the_server_is_answered(server: Served) -> None:
    with Recipe("graphql", {URL: f"ws://127.0.0.1:{server.port}/graphql"}):
        eventually(lambda: subscriptions(server) == 1)
        subscriptions(server, "ping")
        eventually(lambda: server.said.count("pong") == 1)


def test_what_the_server_ends_is_not_asked_for_again(server: Served) -> None:
    with Recipe("graphql", {URL: f"ws://127.0.0.1:{server.port}/graphql"}) as recipe:
        eventually(lambda: subscriptions(server) == 1)
        subscriptions(server, "end")
        assert recipe.printed.wait() == ["acme ended "]
        recipe.after(recipe.client.reconnect)
        assert recipe.client.is_ready
        assert subscriptions(server) == 0
        assert server.said.count("login TOKEN") == 2
        assert server.said.count("subscribed to ACME") == 1


def test_a_wrong_token(server: Served) -> None:
    url = f"ws://127.0.0.1:{server.port}/graphql"
    recipe = Recipe("graphql", {URL: url, "TOKEN": "wrong"})
    failure = recipe.failure()
    assert isinstance(failure, StreamClosedError)
    assert failure.code == 4403


def test_with_the_server_of_the_page(tmp_path: Path) -> None:
    def command(port: int) -> list[str]:
        text = file_of("graphql", "server.py")
        assert text.count("8765") == 1
        (tmp_path / "server.py").write_text(text.replace("8765", str(port)))
        return [sys.executable, "-u", "server.py"]

    paths = {"PYTHONPATH": str(ROOT)}
    with (
        Served(command, "serving ", tmp_path, paths) as server,
        Recipe("graphql", {URL: f"ws://127.0.0.1:{server.port}"}) as recipe,
    ):
        for _ in recipe.connections(recipe.client.reconnect):
            printed = recipe.printed.wait(len(recipe.printed.all) + 1)
            assert printed[-1].startswith("acme ")
