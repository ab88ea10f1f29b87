"""
A TCP connection to whichever address of a host answers first.

asyncio offers the same as ``happy_eyeballs_delay``, but loses the socket of an attempt that is
cancelled in the moment it succeeds: ``close()`` would leave it open. uvloop, whose loop may be the
user's, does not offer it.

Source: RFC 8305.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

__all__ = ["dialled", "dialled_unix"]

ATTEMPT_DELAY = 0.25  # seconds, RFC 8305 section 5


async def dialled(host: str, port: int) -> socket.socket:
    """
    Return a connected, non-blocking socket.

    Raises:
        OSError: Of the first address, when none can be reached.

    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        error.strerror = f"{error.strerror} ({host})"  # the system does not say which
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


async def dialled_unix(path: str) -> socket.socket:
    """Return a non-blocking socket that is connected to the Unix socket at *path*."""
    return await _connected((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path))


async def _first(
    attempts: Sequence[asyncio.Task[socket.socket]], timeout: float | None
) -> asyncio.Task[socket.socket] | None:
    """Wait for one of *attempts* to end; return it if it has succeeded."""
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
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _families_in_turn(found: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Order addresses so that a family that is unreachable costs one attempt. Section 4."""
    first = [each for each in found if each[0] == found[0][0]]
    other = [each for each in found if each[0] != found[0][0]]
    pairs = itertools.zip_longest(first, other)
    return [address for pair in pairs for address in pair if address is not None]
