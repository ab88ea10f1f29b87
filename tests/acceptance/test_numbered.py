"""The numbered server and the ledger: what later shows that nothing was lost must work first."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from datastream_ws.testing.connection import StreamConnection
from kit.numbered import NumberedServer, check_ledger, check_numbers


def number(frame: str | bytes) -> int:
    message = json.loads(frame)
    assert message["type"] == "number"
    return int(message["n"])


def receive(client: ClientConnection, upto: int) -> tuple[list[int], ConnectionClosed | None]:
    """Return the numbers, through *upto* or through the end of the connection, and that end."""
    got: list[int] = []
    try:
        while not got or got[-1] < upto:
            got.append(number(client.recv(timeout=5)))
    except ConnectionClosed as end:
        return got, end
    return got, None


def resume(client: ClientConnection, last: int | None) -> None:
    client.send(json.dumps({"resume": last}))


@pytest.mark.parametrize("last", [0, None])
def test_everything_in_order(last: int | None) -> None:
    """From 0 or null all numbers come, once the client has asked."""
    with NumberedServer(2000) as server, connect(server.url) as client:
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.02)
        client.send("something else")
        resume(client, last)
        got, _ = receive(client, 2000)
        server.wait_finished(5)
    check_numbers(got, 2000)
    assert server.highest == 2000


def test_resumes_after_the_last() -> None:
    """A client gets what follows the number it names."""
    with NumberedServer(10) as server, connect(server.url) as client:
        resume(client, 7)
        assert receive(client, 10)[0] == [8, 9, 10]


def test_drops_in_turn_until_all_came() -> None:
    """Connections end after so many messages, each in its way; resuming, nothing is lost."""
    ways: list[Any] = [1011, "drop", "abort", lambda connection: connection.close(4000)]
    got: list[int] = []
    ends = []
    with NumberedServer(500, drop_every=100, ways=ways) as server:
        while not got or got[-1] < 500:
            with connect(server.url) as client:
                resume(client, got[-1] if got else 0)
                more, end = receive(client, 500)
                got += more
                ends.append(end.rcvd.code if end and end.rcvd else None)
    check_numbers(got, 500)
    assert server.drops >= 4  # RST may cost a connection more
    assert ends[:2] == [1011, None]
    assert 4000 in ends


def test_last_number_is_left_alone() -> None:
    """Where the last number is also due for a drop, the connection stays."""
    with NumberedServer(10, drop_every=10) as server, connect(server.url) as client:
        resume(client, 0)
        receive(client, 10)
        server.wait_finished(5)
        assert server.drops == 0
        assert client.ping().wait(5)


def test_rate() -> None:
    """Numbers come at the rate asked for."""
    with NumberedServer(20, rate=200) as server, connect(server.url) as client:
        begun = time.monotonic()
        resume(client, 0)
        receive(client, 20)
        assert 0.09 <= time.monotonic() - begun < 0.5


def test_live_feed() -> None:
    """Without resuming, the newest connection gets the next number, and the old ones no more."""
    with NumberedServer(200, rate=1000, resume=False) as server, connect(server.url) as one:
        first, _ = receive(one, 5)
        with connect(server.url) as two:
            later, _ = receive(two, 200)
            server.wait_finished(5)
            with suppress(TimeoutError):
                while True:
                    first.append(number(one.recv(timeout=0.05)))
    assert first + later == list(range(1, 201))


def test_wait_finished_says_how_far_it_came() -> None:
    """A wait in vain tells where the numbers stand."""
    with NumberedServer(10) as server, pytest.raises(TimeoutError, match="0 of 10"):
        server.wait_finished(0.01)


def test_callable_way_is_given_the_connection() -> None:
    """A function may do what no word is for."""
    seen: list[StreamConnection] = []

    def way(connection: StreamConnection) -> None:
        seen.append(connection)
        connection.drop()

    with NumberedServer(10, drop_every=1, ways=[way]) as server, connect(server.url) as client:
        resume(client, 0)
        receive(client, 10)
        assert [connection.number for connection in seen] == [1]


def stats(**changes: Any) -> SimpleNamespace:
    counts = {
        "messages_received": 15,
        "messages_handled": 5,
        "messages_failed": 4,
        "messages_dropped": {"overflow": 2, "shutdown": 1},
        "messages_waiting": 2,
        "messages_spooled": 1,
    }
    return SimpleNamespace(**counts | changes)


def test_ledger_that_balances() -> None:
    """Received is the sum of all the rest."""
    check_ledger(stats())


@pytest.mark.parametrize(
    "change",
    [
        {"messages_received": 16},
        {"messages_handled": 6},
        {"messages_failed": 3},
        {"messages_dropped": {"overflow": 2}},
        {"messages_waiting": 0},
        {"messages_spooled": 2},
    ],
)
def test_ledger_that_does_not(change: dict[str, Any]) -> None:
    """Every count counts, and the error shows them all."""
    with pytest.raises(AssertionError, match=r"received, but .*handled"):
        check_ledger(stats(**change))


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ([1, 3], "1 lost"),
        ([1, 2, 2, 3], "1 doubled"),
        ([1, 2, 3, 4], "1 unknown"),
        ([1, 3, 2], "1 out of order"),
        ([], "3 lost"),
    ],
)
def test_numbers_that_are_wrong(numbers: list[int], wrong: str) -> None:
    """Lost, doubled, unknown and disordered numbers are told apart."""
    with pytest.raises(AssertionError, match=wrong):
        check_numbers(numbers, 3)
