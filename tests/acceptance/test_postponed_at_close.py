"""A message that a handler has postponed when the client closes is not lost, either."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from datastream_ws import Client, Message, Postponed
from datastream_ws.testing import StreamServer
from kit.numbered import check_ledger
from kit.seen import eventually


def test_it_goes_back_to_the_spool(tmp_path: Path, stream_server: StreamServer) -> None:
    """It is in a handler's thread at that moment, which has to hand it back in time."""
    postponed, handled, all_of_them = threading.Event(), [], threading.Event()
    options: dict[str, Any] = {"spool": str(tmp_path / "spool"), "close_timeout": 0.5}

    def postpone(message: Message) -> None:
        postponed.set()
        raise Postponed(3600)

    def handle(message: Message) -> None:
        handled.append(message.data)
        if len(handled) == 3:
            all_of_them.set()

    for round_ in range(5):
        handled.clear()
        all_of_them.clear()
        postponed.clear()
        with Client(stream_server.url, message_handler=postpone, **options) as client:
            connection = stream_server.wait_connected(2 * round_ + 1, 10)[-1]
            for n in "abc":
                connection.send(n)
            assert postponed.wait(10)
            eventually(lambda: client.stats().messages_received == 3)
        check_ledger(client.stats())
        assert client.stats().messages_spooled == 3
        with Client(stream_server.url, message_handler=handle, **options):
            stream_server.wait_connected(2 * round_ + 2, 10)
            assert all_of_them.wait(10)
        assert handled == ["a", "b", "c"]
