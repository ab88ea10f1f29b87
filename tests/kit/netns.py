"""
Two network namespaces of Linux with a link between them. They require root.

::

    with Network() as network:
        server = [*network.at_server, "python", …]      # listens on network.address
        client = [*network.at_client, "python", …]
        network.drop()                                  # a firewall without responses
        network.heal()
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Self

import pytest

from .services import needed

__all__ = ["Network"]

CLIENT, SERVER = "10.213.7.1", "10.213.7.2"
FIREWALL = """
table inet firewall {
  chain in { type filter hook input priority 0; policy drop; }
  chain out { type filter hook output priority 0; policy drop; }
}
"""


class Network:
    """The namespaces, which ``with`` creates and removes. Without permission, tests are skipped."""

    address = SERVER

    def __init__(self) -> None:
        self._client = f"datastream-{os.getpid()}-client"
        self._server = f"datastream-{os.getpid()}-server"

    def __enter__(self) -> Self:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root can make network namespaces, on Linux")
        self._ip, self._nft = needed("ip", "iproute2"), needed("nft", "nftables")
        self.at_client = [self._ip, "netns", "exec", self._client]
        self.at_server = [self._ip, "netns", "exec", self._server]
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in (self._client, self._server):
            subprocess.run([self._ip, "netns", "del", name], capture_output=True)

    def _make(self) -> None:
        for name in (self._client, self._server):
            self._run("netns", "add", name)
        self._run(
            *("-n", self._client, "link", "add", "cable", "type", "veth"),
            *("peer", "name", "cable", "netns", self._server),
        )
        for name, address in ((self._client, CLIENT), (self._server, SERVER)):
            self._run("-n", name, "address", "add", f"{address}/30", "dev", "cable")
            self._run("-n", name, "link", "set", "cable", "up")

    def drop(self) -> None:
        """Drop every packet of the client, in both directions."""
        command = [*self.at_client, self._nft, "-f", "-"]
        subprocess.run(command, input=FIREWALL, text=True, check=True, capture_output=True)

    def unplug(self) -> None:
        """Disable the network interface of the client."""
        self._run("-n", self._client, "link", "set", "cable", "down")

    def heal(self) -> None:
        """Undo :meth:`drop` and :meth:`unplug`."""
        command = [*self.at_client, self._nft, "flush", "ruleset"]
        subprocess.run(command, check=True, capture_output=True)
        self._run("-n", self._client, "link", "set", "cable", "up")

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True)
