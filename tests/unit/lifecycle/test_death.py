"""The death of an internal part is a change of state, never silence."""

from __future__ import annotations

import threading

import pytest

from datastream_ws import Client, State
from datastream_ws.handling.runs import Runs
from datastream_ws.testing import StreamServer


@pytest.mark.fault("P14")
def test_a_worker_that_dies_fails_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the dispatcher ends the client with that error, once."""
    deaths: list[threading.Thread] = []

    def broken(*arguments: object) -> None:
        deaths.append(threading.current_thread())
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(Runs, "run", broken)
    with StreamServer() as server:
        client = Client(server.url, proxy=None)
        client.on_message(lambda message: None)
        with client:
            client.wait_ready(5)
            server.send("x")
            with pytest.raises(ZeroDivisionError):
                client.wait_closed(5)
        assert client.state is State.FAILED
        assert len(deaths) == 1
