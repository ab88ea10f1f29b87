"""docs/recipes/nats.md against nats-server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from datastream_ws import StreamClosedError
from kit.faultproxy import FaultProxy
from kit.http import free_port
from kit.recipes import Recipe, Served
from kit.seen import eventually
from kit.services import needed

URL = "wss://api.example.com:9222"
CONFIGURATION = """\
listen: "127.0.0.1:{plain}"
ping_interval: "{ping}"
trace: true
debug: true
websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}
authorization {{ token: "TOKEN" }}
"""


class Nats(Served):
    """A server over WebSocket, and over TCP to publish to."""

    def __init__(self, folder: Path, ping: str = "2m") -> None:
        self.plain = free_port()
        program = needed("nats-server", "nats-server")
        configuration = folder / "nats.conf"

        def command(port: int) -> list[str]:
            text = CONFIGURATION.format(plain=self.plain, port=port, ping=ping)
            configuration.write_text(text)
            return [program, "-c", str(configuration)]

        super().__init__(command, "Server is ready", folder)

    def publish(self, payload: str) -> None:
        """Publish as another client; return when the server has it."""
        with (
            socket.create_connection(("127.0.0.1", self.plain), 30) as sock,
            sock.makefile("rb") as said,
        ):
            assert said.readline().startswith(b"INFO")
            login = b'CONNECT {"verbose":false,"auth_token":"TOKEN"}\r\n'
            data = payload.encode()
            sock.sendall(login + b"PUB prices.acme %d\r\n%s\r\nPING\r\n" % (len(data), data))
            assert said.readline() == b"PONG\r\n"

    def count(self, text: str) -> int:
        return sum(" - wid:" in line and text in line for line in self.said)

    def wait_opened(self, times: int) -> None:
        """Wait for that many subscriptions since the last start: SUB is answered by nothing."""
        eventually(lambda: self.count("<<- [SUB ") == times)

    def opened(self, start: int) -> list[str]:
        """What WebSocket clients have sent at the beginning: CONNECT and SUB."""
        lines = [line for line in self.log(start) if " - wid:" in line and "<<- [" in line]
        words = [line.partition("<<- [")[2].split()[0].rstrip("]") for line in lines]
        return [word for word in words if word in ("CONNECT", "SUB")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nats]:
    with Nats(tmp_path) as served:
        yield served


def test_prices_over_three_losses(server: Nats) -> None:
    """Each once; on every connection the login, then one subscription."""
    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}") as proxy,
        Recipe("nats", {URL: proxy.url}) as recipe,
    ):
        expected = []
        for number in recipe.connections(proxy.sever, lambda: proxy.sever("fin"), server.kill):
            server.wait_opened(number if number < 4 else 1)
            server.publish(f"{number}")
            expected.append(f"prices.acme {number}")
            recipe.printed.wait(len(expected))
        assert recipe.printed.all == expected
        assert recipe.client.stats().messages_failed == 0
    assert server.opened(1) == ["CONNECT", "SUB"] * 3
    assert server.opened(2) == ["CONNECT", "SUB"]


def test_the_servers_pings(tmp_path: Path) -> None:
    """It ends connections that answer none of them."""
    with (
        Nats(tmp_path, ping="200ms") as server,
        Recipe("nats", {URL: f"ws://127.0.0.1:{server.port}"}) as recipe,
    ):
        eventually(lambda: server.count("<<- [PONG]") >= 5)
        assert recipe.client.stats().connections == 1


def test_pings_of_our_own(server: Nats) -> None:
    fill = {URL: f"ws://127.0.0.1:{server.port}"}
    with Recipe("nats", fill, heartbeat_interval=0.1, idle_timeout=10.0) as recipe:
        eventually(lambda: server.count("->> [PONG]") >= 5)
        assert recipe.client.stats().connections == 1


def test_a_wrong_token(server: Nats) -> None:
    url = f"ws://127.0.0.1:{server.port}"
    recipe = Recipe("nats", {URL: url, '"TOKEN"': '"wrong"'})
    failure = recipe.failure()
    assert isinstance(failure, StreamClosedError)
    assert failure.code == 1008
    assert recipe.printed.all == ["-ERR 'Authorization Violation'"]


def test_operations_need_not_end_where_messages_do() -> None:
    recipe = Recipe("nats", {})
    data = b"MSG prices.a 1 4\r\n\r\n42\r\n-ERR 'no'\r\nMSG prices.b 1 reply 0\r\n\r\n+OK\r\n"
    for at in range(0, len(data), 3):
        recipe.client.deliver(data[at : at + 3])
    recipe.client.deliver(data)
    assert recipe.printed.all == ["prices.a \r\n42", "-ERR 'no'", "prices.b "] * 2
