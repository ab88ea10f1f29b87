"""docs/recipes/django-channels.md against Channels under Daphne."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest

from datastream_ws import UnauthorizedError
from kit.faultproxy import FaultProxy
from kit.http import get
from kit.realservers import HERE, package
from kit.recipes import Recipe, Served
from kit.seen import eventually

URL = "wss://api.example.com"

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 15) and find_spec("daphne") is None,
    reason="autobahn, which daphne needs, has no wheel for Python 3.15",
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    package("daphne")
    package("channels")
    monkeypatch.setenv("FEED_TOKEN", "TOKEN")
    environment = {"FEED": str(tmp_path / "feed"), "PYTHONPATH": str(HERE)}
    daphne = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "--no-server-name", "-p"]

    def command(port: int) -> list[str]:
        return [*daphne, str(port), "channels_server:application"]

    with Served(command, "Listening on TCP address", tmp_path, environment) as served:
        eventually(lambda: followers(served) == 0)
        yield served


def followers(server: Served, order: str = "") -> object:
    return get(server.port, f"/{order}")[1]


def said(server: Served, start: int) -> list[str]:
    return [line for line in server.log(start) if line.startswith(("login", "follow"))]


def test_events_over_three_losses(server: Served) -> None:
    """Each event once and in order, those of the time away, too; each follows from the last."""

    def away(how: Literal["fin", "rst"]) -> None:
        proxy.refuse()
        proxy.sever(how)
        eventually(lambda: followers(server) == 0)
        assert followers(server, "publish/0") == 0
        proxy.accept()

    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}") as proxy,
        Recipe("django-channels", {f'"{URL}/ws': f'"{proxy.url}/ws'}) as recipe,
    ):
        lose = [lambda: away("rst"), lambda: away("fin"), server.kill]
        for number in recipe.connections(*lose):
            assert followers(server, f"publish/{number}") == 1
            recipe.printed.wait_for(re.compile(rf"\d+ {number}").fullmatch)
        assert recipe.printed.all == ["1 1", "2 0", "3 2", "4 0", "5 3", "6 4"]
    follows = ["follow prices 0", "follow prices 1", "follow prices 3", "follow prices 5"]
    opened = [line for follow in follows for line in ("login Token TOKEN", follow)]
    assert said(server, 1) == opened[:6]
    assert said(server, 2) == opened[6:]


@pytest.mark.parametrize("what", ["token", "origin"])
def test_what_the_server_refuses(
    what: str, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = {f'"{URL}/ws': f'"ws://127.0.0.1:{server.port}/ws'}
    if what == "token":
        monkeypatch.setenv("FEED_TOKEN", "wrong")
    else:
        fill['origin="https://api.example.com"'] = 'origin="https://elsewhere.example"'
    failure = Recipe("django-channels", fill).failure()
    assert isinstance(failure, UnauthorizedError)
    assert failure.status == 403
    assert said(server, 1) == (["login Token wrong"] if what == "token" else [])
