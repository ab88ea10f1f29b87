"""Packets that a network drops, on a network of the test's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.netns import Network
from kit.realservers import RealServer
from kit.seen import eventually
from kit.streams import StreamProcess

PATIENCE = 1.0  # pong_timeout
OPEN = 0.5  # open_timeout


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def states(process: StreamProcess, since: float = 0.0) -> list[dict[str, Any]]:
    return [each for each in process.said if "state" in each and each["at"] >= since]


def first(process: StreamProcess, state: str, since: float) -> float:
    """Return when *state* was first reached after *since*."""
    eventually(lambda: any(each["state"] == state for each in states(process, since)), 30)
    return next(float(each["at"]) for each in states(process, since) if each["state"] == state)


@pytest.mark.fault("4", "5")
@pytest.mark.parametrize("fault", ["drop", "unplug"])
def test_every_packet_is_dropped(network: Network, fault: str, tmp_path: Path) -> None:
    """
    Noticed within pong_timeout + 0.5 s; each attempt ends at open_timeout; then all is well.
    """
    with RealServer(
        "websockets", tmp_path, prefix=network.at_server, host=network.address
    ) as server:
        options = {"pong_timeout": PATIENCE, "ping_interval": 0.3, "open_timeout": OPEN}
        with StreamProcess(
            server.url, tmp_path / "log", prefix=network.at_client, **options
        ) as client:
            client.wait_state("ready")
            begun = time.monotonic()
            getattr(network, fault)()
            noticed = first(client, "waiting", begun)
            assert noticed - begun <= PATIENCE + 0.5
            again = first(client, "waiting", first(client, "connecting", noticed))
            assert again - first(client, "connecting", noticed) <= OPEN + 0.2
            network.heal()
            first(client, "ready", again)
            assert client.errors != []
