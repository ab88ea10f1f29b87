"""A laptop on a train: what cannot be fetched is a skip with its name, soon, and once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.realservers import node_packages
from kit.services import needed

CONFIG: Any = SimpleNamespace(cache=None)


@pytest.fixture(params=["closed", "silent"])
def dead_registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry whose port is closed, or one that accepts connections and never responds."""
    needed("npm", "npm")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        if request.param == "closed":
            server.close()
        monkeypatch.setenv("npm_config_registry", url)
        monkeypatch.setenv("npm_config_proxy", "")
        yield url


def skipped(folder: Path) -> float:
    """Return the seconds until the test is skipped because of the registry."""
    begun = time.monotonic()
    with pytest.raises(pytest.skip.Exception, match="npm's registry does not respond"):
        node_packages(CONFIG, "ws", folder, ["ws@8"])
    return time.monotonic() - begun


def test_a_dead_registry_skips_within_ten_seconds_and_is_asked_once(
    dead_registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert skipped(tmp_path) < 15  # 8, and what a busy machine adds
    monkeypatch.setattr("kit.realservers.registry_responds", lambda npm: pytest.fail("asked again"))
    skipped(tmp_path)


def test_in_ci_a_dead_registry_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed("npm", "npm")
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(pytest.fail.Exception, match="npm could not install ws@8"):
        node_packages(CONFIG, "ws", tmp_path, ["ws@8"])
