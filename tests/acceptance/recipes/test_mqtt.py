"""docs/recipes/mqtt.md against Mosquitto."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from kit.faultproxy import FaultProxy
from kit.http import free_port
from kit.pages import ROOT
from kit.recipes import Recipe, Served, file_of
from kit.seen import eventually
from kit.services import needed

URL = "wss://api.example.com/mqtt"
PUBLISH = "mosquitto_pub -t prices/acme -q 1 -m 42"
CONFIGURATION = """\
user root
log_type all
allow_anonymous false
password_file {folder}/passwords
listener {port} 127.0.0.1
protocol websockets
listener {plain} 127.0.0.1
"""


class Mosquitto(Served):
    """A broker over WebSocket, and over TCP to publish to."""

    def __init__(self, folder: Path) -> None:
        self.plain = free_port()
        program = needed("mosquitto", "mosquitto")
        passwords = [needed("mosquitto_passwd", "mosquitto"), "-b", "-c", str(folder / "passwords")]
        subprocess.run([*passwords, "USER", "PASSWORD"], check=True, capture_output=True)
        configuration = folder / "mosquitto.conf"

        def command(port: int) -> list[str]:
            text = CONFIGURATION.format(folder=folder, port=port, plain=self.plain)
            configuration.write_text(text)
            return [program, "-c", str(configuration)]

        super().__init__(command, " running\n", folder)

    def publish(self, recipe: Recipe, payload: str) -> None:
        """Publish with quality 1, as another client; return when the broker has it."""
        module = recipe.module
        login = module.LOGIN.replace(module.text("my-client"), module.text("publisher"))
        with socket.create_connection(("127.0.0.1", self.plain), 30) as sock:
            sock.sendall(module.packet(0x10, login))
            assert sock.recv(4)[3] == 0
            body = module.text("prices/acme") + b"\0\x07" + payload.encode()
            sock.sendall(module.packet(0x32, body))
            assert sock.recv(4) == b"\x40\x02\0\x07"

    def count(self, text: str, start: int) -> int:
        return sum(text in line for line in self.log(start))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as served:
        yield served


def test_prices_over_three_losses(server: Mosquitto) -> None:
    """Each once, also what is published while the client is away; login, then one subscription."""
    start, expected, first = 1, [], 0

    def publish(payload: str) -> None:
        expected.append(f"prices/acme {payload}")
        server.publish(recipe, payload)
        recipe.printed.wait(len(expected))
        acknowledged = len(expected) - first  # by the broker that runs now; what is not comes again
        eventually(lambda: server.count("Received PUBACK from my-client", start) == acknowledged)

    def away(how: Literal["fin", "rst"]) -> None:
        proxy.refuse()
        proxy.sever(how)
        expected.append("prices/acme away")
        eventually(lambda: not recipe.client.is_connected)
        server.publish(recipe, "away")
        proxy.accept()

    def kill() -> None:
        nonlocal start, first
        server.kill()
        start, first = 2, len(expected)

    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}/mqtt") as proxy,
        Recipe("mqtt", {URL: proxy.url}) as recipe,
    ):
        for number in recipe.connections(lambda: away("rst"), lambda: away("fin"), kill):
            publish(f"{number} " + number * 100 * "x")
        assert recipe.printed.all == expected
        assert recipe.client.stats().messages_failed == 0
    said = [line.partition(": ")[2] for line in server.log(1) + server.log(2)]
    opened = [
        line for line in said if "my-client" in line and ("CONNACK" in line or "SUBACK" in line)
    ]
    kinds = [line.split()[1] for line in opened]
    assert kinds == ["CONNACK", "SUBACK"] * 4
    assert [line.split("(")[1] for line in opened[::2]] == ["0, 0)", "1, 0)", "1, 0)", "0, 0)"]


def test_pings_are_answered(server: Mosquitto) -> None:
    url = f"ws://127.0.0.1:{server.port}/mqtt"
    with Recipe("mqtt", {URL: url}, heartbeat_interval=0.05, idle_timeout=5.0) as recipe:
        eventually(lambda: server.count("Sending PINGRESP to my-client", 1) > 2)
        assert recipe.client.stats().connections == 1


def test_a_wrong_password(server: Mosquitto) -> None:
    url = f"ws://127.0.0.1:{server.port}/mqtt"
    wrong = {URL: url, '"PASSWORD"': '"wrong"'}
    failure = Recipe("mqtt", wrong, close_timeout=0.5).failure()  # Mosquitto answers no close frame
    assert isinstance(failure, PermissionError)
    assert str(failure) == "the broker refuses the login with 5"


def test_packets_need_not_begin_where_messages_do() -> None:
    recipe = Recipe("mqtt", {})
    packet, text = recipe.module.packet, recipe.module.text
    first = packet(0x30, text("prices/a") + b"1" * 200)
    refused = packet(0x90, b"\0\x01\x80")
    second = packet(0x30, text("prices/b") + b"2")
    data = first + refused + second
    for at in range(0, len(data), 3):
        recipe.client.deliver(data[at : at + 3])
    recipe.client.deliver(second + second)
    b = "prices/b 2"
    refusal = "the broker refuses the subscription"
    assert recipe.printed.all == [f"prices/a {'1' * 200}", refusal, b, b, b]


def test_with_the_broker_of_the_page(tmp_path: Path) -> None:
    plain = str(free_port())
    publish = [needed("mosquitto_pub", "mosquitto-clients"), *PUBLISH.split()[1:], "-p", plain]

    def command(port: int) -> list[str]:
        text = file_of("mqtt", "mosquitto.conf")
        for known, free in {"1883": plain, "9001": str(port)}.items():
            assert text.count(known) == 1
            text = text.replace(known, free)
        (tmp_path / "mosquitto.conf").write_text(text)
        return [needed("mosquitto", "mosquitto"), "-c", "mosquitto.conf"]

    with (
        Served(command, " running\n", tmp_path) as broker,
        Recipe("mqtt", {URL: f"ws://127.0.0.1:{broker.port}"}) as recipe,
    ):
        assert PUBLISH in (ROOT / "docs" / "recipes" / "mqtt.md").read_text(encoding="utf-8")
        subprocess.run(publish, check=True, timeout=30)
        assert recipe.printed.wait() == ["prices/acme 42"]
