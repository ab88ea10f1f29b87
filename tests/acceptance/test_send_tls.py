"""Sending over TLS, whose transport in asyncio buffers twice and pauses in its own way."""

from __future__ import annotations

import ssl
import threading
import time

import pytest
import trustme

from datastream_ws import Client
from datastream_ws.testing import StreamServer
from kit.rawserver import Drain, RawServer, Stall, Upgrade, WaitFor
from kit.seen import FAST, eventually

CA = trustme.CA()
TRUSTING = ssl.create_default_context()
CA.configure_trust(TRUSTING)


def serving() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_server_that_says_nothing_gets_every_message() -> None:
    """One after another, when nothing is received between them."""
    with (
        StreamServer(ssl=serving()) as server,
        Client(server.url, ssl=TRUSTING, **FAST) as client,
    ):
        client.wait_ready(30)
        for number in range(5):
            client.send(str(number))
            assert server.wait_received(number + 1, 30)[-1] == str(number)
        assert client.stats().connections == 1


def test_a_flush_ends_once_everything_is_with_the_kernel() -> None:
    """Not while bytes wait below TLS; and soon after the server takes the last of them."""
    go = threading.Event()
    with (
        RawServer([Upgrade(), WaitFor(go), Drain()], ssl=serving()) as server,
        Client(server.url, ssl=TRUSTING, close_timeout=0.3, **FAST) as client,
    ):
        client.wait_ready(30)
        client.send(b"x" * 12 * 2**20)  # more than the system takes
        with pytest.raises(TimeoutError):
            client.flush(0.5)
        go.set()
        client.flush(30)


def test_a_stuck_server_is_noticed() -> None:
    with (
        RawServer([Upgrade(), Stall()], ssl=serving()) as server,
        Client(server.url, ssl=TRUSTING, write_timeout=0.5, close_timeout=0.3, **FAST) as client,
    ):
        client.wait_ready(30)
        begun = time.monotonic()
        client.send(b"x" * 12 * 2**20)
        server.wait_connections(2, 30)
        assert time.monotonic() - begun >= 0.5
        eventually(lambda: "no data could be sent" in str(client.stats().last_error))
