"""
TCP connections with Happy Eyeballs, to the first address of a host that accepts (RFC 8305).

asyncio's ``happy_eyeballs_delay`` is not used for two reasons. It leaks the socket of an attempt
that is canceled in the moment it succeeds, and uvloop does not support it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

__all__ = ["connect_tcp", "connect_unix"]

ATTEMPT_DELAY = 0.25  # seconds, RFC 8305 section 5


async def connect_tcp(host: str, port: int) -> socket.socket:
    """
    Connect to a host by TCP and return the non-blocking socket.

    Raises:
        OSError: If no address accepts. It is the error of the first address.

    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        error.strerror = f"{error.strerror} ({host})"  # the system's text does not name the host
        raise
    addresses = deque(_families_in_turn(found))
    attempts: list[asyncio.Task[socket.socket]] = []
    winner: asyncio.Task[socket.socket] | None = None
    try:
        while addresses or any(not attempt.done() for attempt in attempts):
            if addresses:
                attempts.append(loop.create_task(_connected(addresses.popleft())))
            winner = await _first(attempts, ATTEMPT_DELAY if addresses else None)
            if winner is not None:
                return winner.result()
        return attempts[0].result()
    finally:
        for attempt in attempts:
            if attempt is not winner:
                attempt.cancel()
                attempt.add_done_callback(_discard)


async def connect_unix(path: str) -> socket.socket:
    """
    Connect to the Unix socket at *path* and return the non-blocking socket.

    Raises:
        OSError: If the socket does not exist or refuses the connection.

    """
    return await _connected((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path))


async def _first(
    attempts: Sequence[asyncio.Task[socket.socket]], timeout: float | None
) -> asyncio.Task[socket.socket] | None:
    """Wait up to *timeout* seconds for an attempt to end, and return one that has succeeded."""
    running = [attempt for attempt in attempts if not attempt.done()]
    done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return next((attempt for attempt in done if attempt.exception() is None), None)


async def _connected(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that succeeded although it was canceled or lost the race."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _families_in_turn(found: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """
    Alternate between the address families (RFC 8305 section 4).

    An unreachable family then delays the connection by one attempt only.
    """
    first = [each for each in found if each[0] == found[0][0]]
    other = [each for each in found if each[0] != found[0][0]]
    pairs = itertools.zip_longest(first, other)
    return [address for pair in pairs for address in pair if address is not None]
