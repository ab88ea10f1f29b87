"""Happy eyeballs (RFC 8305): whichever address answers first, and no socket left of the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from datastream_ws.connection import dialing
from datastream_ws.connection.dialing import connect_tcp
from datastream_ws.exceptions import network_text

V6, V4 = socket.AF_INET6, socket.AF_INET
Connecting = Callable[[str], Coroutine[Any, Any, None]]


def found(family: int, host: str) -> tuple[Any, ...]:
    return family, socket.SOCK_STREAM, 0, "", (host, 80)


class Loop(asyncio.SelectorEventLoop):
    """Resolves to these addresses, and connects as it is told."""

    def __init__(self, addresses: list[tuple[Any, ...]], connecting: Connecting) -> None:
        super().__init__()
        self._addresses = addresses
        self._connecting = connecting
        self.sockets: list[socket.socket] = []
        self.hosts: list[str] = []

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return self._addresses

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self.sockets.append(sock)
        self.hosts.append(address[0])
        await self._connecting(address[0])


def dial(addresses: list[tuple[Any, ...]], connecting: Connecting) -> tuple[Loop, Any]:
    loop = Loop(addresses, connecting)
    try:
        result: Any = loop.run_until_complete(connect_tcp("h", 80))
        result.close()
    except OSError as error:
        result = error
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert all(sock.fileno() == -1 for sock in loop.sockets)
    return loop, result


def test_the_first_that_answers() -> None:
    async def connects(host: str) -> None: ...

    loop, sock = dial([found(V6, "a"), found(V4, "b")], connects)
    assert loop.hosts == ["a"]
    assert isinstance(sock, socket.socket)


def test_families_in_turn_until_one_answers() -> None:
    async def connects(host: str) -> None:
        if host != "v4":
            raise OSError(host)

    loop, sock = dial([found(V6, "a"), found(V6, "b"), found(V4, "v4")], connects)
    assert loop.hosts == ["a", "v4"]
    assert isinstance(sock, socket.socket)


def test_none_answers() -> None:
    """The error is that of the first address."""

    async def fails(host: str) -> None:
        raise OSError(host)

    loop, error = dial([found(V6, "a"), found(V4, "b")], fails)
    assert loop.hosts == ["a", "b"]
    assert str(error) == "a"


def test_a_slow_one_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "ATTEMPT_DELAY", 0.0)

    async def connects(host: str) -> None:
        if host == "slow":
            await asyncio.Event().wait()

    loop, sock = dial([found(V6, "slow"), found(V4, "b")], connects)
    assert loop.hosts == ["slow", "b"]
    assert isinstance(sock, socket.socket)


def test_a_slow_one_may_still_answer_when_the_last_has_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No address is left to try, but one is not refused yet."""
    monkeypatch.setattr(dialing, "ATTEMPT_DELAY", 0.0)
    refused = asyncio.Event()

    async def connects(host: str) -> None:
        if host == "slow":
            await refused.wait()
            await asyncio.sleep(0.01)
        else:
            refused.set()
            raise OSError(host)

    loop, sock = dial([found(V6, "slow"), found(V4, "b")], connects)
    assert loop.hosts == ["slow", "b"]
    assert isinstance(sock, socket.socket)


def test_two_that_answer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other's socket is closed, too."""
    monkeypatch.setattr(dialing, "ATTEMPT_DELAY", 0.0)
    waiting: list[asyncio.Future[None]] = []

    async def connects(host: str) -> None:
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == 2:
            for future in waiting:
                future.set_result(None)
        await waiting[-1]

    loop, sock = dial([found(V6, "a"), found(V4, "b")], connects)
    assert len(loop.sockets) == 2
    assert isinstance(sock, socket.socket)


def test_a_name_that_cannot_be_resolved_is_in_the_text() -> None:
    """The system says only that a name is not known."""

    class Lost(Loop):
        async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    loop = Lost([], lambda _: asyncio.sleep(0))
    with pytest.raises(socket.gaierror) as caught:
        loop.run_until_complete(connect_tcp("feed.invalid", 80))
    loop.close()
    expected = "the host name cannot be resolved: Name or service not known (feed.invalid)"
    assert network_text(caught.value) == expected
