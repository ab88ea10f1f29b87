"""docs/recipes/stomp.md against RabbitMQ's plugin web_stomp, on a node of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.faultproxy import FaultProxy
from kit.http import free_port
from kit.recipes import Recipe, Served
from kit.seen import eventually
from kit.services import missing, needed

URL = "wss://api.example.com/ws"
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one on the path changes the user
CONFIGURATION = """\
listeners.tcp = none
stomp.listeners.tcp = none
web_stomp.tcp.ip = 127.0.0.1
web_stomp.tcp.port = {port}
log.console = true
log.console.level = debug
default_user = USER
default_pass = PASSWORD
"""

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("rabbitmq node")]


class Rabbit(Served):
    """A node with its own name, files, cookie and port mapper."""

    ends_with_stdin = False  # shared by tests: what one of them starts must open nothing here

    def __init__(self, folder: Path) -> None:
        if not PROGRAM.exists():
            missing("no RabbitMQ server (Debian: rabbitmq-server)")
        (folder / "plugins").write_text("[rabbitmq_web_stomp].\n")
        epmd = str(free_port())
        environment = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": epmd,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"recipe{epmd}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server: no shell in between
        }

        def command(port: int) -> list[str]:
            (folder / "rabbitmq.conf").write_text(CONFIGURATION.format(port=port))
            return [str(PROGRAM)]

        super().__init__(command, "Server startup complete", folder, environment)
        self._epmd = {**os.environ, **environment}

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        epmd = [needed("epmd", "erlang-base"), "-kill"]
        subprocess.run(epmd, env=self._epmd, capture_output=True, check=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    with Rabbit(tmp_path_factory.mktemp("rabbit")) as served:
        yield served


def settled(recipe: Recipe, number: int) -> None:
    """Wait until the broker has taken all acknowledgements: it answers in order."""
    eventually(lambda: recipe.client.stats().messages_waiting == 0)
    receipt = recipe.module.frame("SEND", destination="/topic/none", receipt=f"r{number}")
    recipe.client.request(receipt, lambda message: message.route == "RECEIPT")


def test_orders_over_three_losses(server: Rabbit) -> None:
    """
    Each once; one subscription on every connection; a broker that is killed keeps orders.

    The broker ends a connection that subscribes before its login, or twice: four are enough.
    """
    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}/ws") as proxy,
        Recipe("stomp", {URL: proxy.url}) as recipe,
    ):
        for number in recipe.connections(proxy.sever, lambda: proxy.sever("fin"), server.kill):
            body = f"{number}: a\nb\n"
            order = recipe.module.frame(
                "SEND", body, destination="/queue/orders", persistent="true"
            )
            recipe.client.send(order)
            recipe.printed.wait(number)
            settled(recipe, number)
        assert recipe.printed.all == [f"/queue/orders {number}: a\nb\n" for number in range(1, 5)]
        assert recipe.client.stats().messages_failed == 0
        assert recipe.client.stats().connections == 4


def test_an_order_whose_handling_was_cut_off_comes_again(server: Rabbit) -> None:
    with (
        FaultProxy(f"ws://127.0.0.1:{server.port}/ws") as proxy,
        Recipe("stomp", {URL: proxy.url}) as recipe,
    ):
        frame = recipe.module.frame

        def cut_off(*_: str, **__: str) -> str:
            proxy.sever()
            raise OSError("cut off before the acknowledgement")

        vars(recipe.module)["frame"] = cut_off
        order = frame("SEND", "once more", destination="/queue/orders")
        recipe.client.send(order)
        recipe.printed.wait()
        vars(recipe.module)["frame"] = frame
        assert recipe.printed.wait(2) == ["/queue/orders once more"] * 2
        settled(recipe, 1)


def test_heart_beats(server: Rabbit) -> None:
    """The broker ends connections that are silent for longer than the client has promised."""
    url = f"ws://127.0.0.1:{server.port}/ws"
    fill = {URL: url, "10000,10000": "500,500"}
    with Recipe("stomp", fill, heartbeat_interval=0.2, idle_timeout=20.0) as recipe:
        beats = recipe.client.stats().messages_received + 6
        eventually(lambda: recipe.client.stats().messages_received >= beats)
        assert recipe.client.stats().connections == 1


def test_a_wrong_password(server: Rabbit) -> None:
    url = f"ws://127.0.0.1:{server.port}/ws"
    failure = Recipe("stomp", {URL: url, "passcode:PASSWORD": "passcode:wrong"}).failure()
    assert isinstance(failure, PermissionError)
    assert str(failure) == "Bad CONNECT"


def test_headers_are_escaped() -> None:
    module = Recipe("stomp", {}).module
    odd = "a:b\\c\nd\re\\n"
    message = type("Message", (), {"data": module.frame("SEND", "body\n", x_odd=odd)})
    assert module.headers_and_body(message) == ({"x-odd": odd}, "body\n")
