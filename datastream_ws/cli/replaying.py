"""The command ``datastream-ws replay``, which serves a recording with its timing and drops."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from .. import ConfigurationError
from ..embedding import peer_text, said, signals_to
from ..runner import EXIT_OK
from ..testing import StreamServer
from ..testing.connection import StreamConnection, check_close
from .lines import write_all
from .recording import Moment, moments

__all__ = ["Replay", "replay"]

COMMAND = "datastream-ws replay"
LATEST_RETURN = 120.0  # seconds in which a dropped client can reconnect and continue


def replay(wanted: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    for _ in zip(range(2), moments(wanted.file), strict=False):
        pass  # raises an error before a client connects if the file isn't a recording
    words: SimpleQueue[str] = SimpleQueue()
    playing = Replay(wanted.file, wanted.speed, wanted.once, wanted.loop, words.put)
    server = StreamServer(wanted.host, wanted.port, on_connect=playing.serve, on_message=heard)
    with signals_to(lambda number: words.put("")):
        try:
            server.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {wanted.host} port {wanted.port}: {reason(error)}. "
                "Use --port 0 for any free port."
            ) from error
        try:
            say(f"serving {wanted.file} at {server.url} (Ctrl-C to stop)")
            if not sys.stdout.isatty():  # for scripts that use --port 0
                write_all(sys.stdout.fileno(), f"{server.url}\n".encode())
            failure = words.get()
        finally:
            server.stop()
    if failure:
        raise ConfigurationError(failure)
    return EXIT_OK


def reason(error: OSError) -> str:
    """Return the text of the operating system, because asyncio's text repeats the address."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else said(error)


@dataclass
class Replay:
    """
    Plays a recording to every client that connects, on the server's loop.

    A client that was dropped by the recording continues when it reconnects. Clients can't be told
    apart, so the next one to connect continues for the one that was dropped first.

    Args:
        path: The recording.
        speed: The factor of the speed, such as 2.0 for twice as fast.
        once: Whether to end once a client has received everything.
        loop: Whether to start again at the end.
        end: A function that is called at the end, with ``""`` or with an error of the file.

    """

    path: str
    speed: float
    once: bool
    loop: bool
    end: Callable[[str], None]
    _dropped: deque[tuple[float, Iterator[Moment]]] = field(default_factory=deque)

    async def serve(self, connection: StreamConnection) -> None:
        """Play the recording to one connection until it ends."""
        rest = self._rest_of_dropped()
        how = "from the beginning" if rest is None else "continues after the drop"
        say(f"connection {connection.number}: {how}")
        try:
            while await self._play(connection, moments(self.path) if rest is None else rest):
                await asyncio.sleep(0.1)  # limits the rate of an empty recording
                rest = None
        except (ConfigurationError, OSError) as error:
            if not isinstance(error, ConnectionError):
                self.end(said(error))
            raise

    def _rest_of_dropped(self) -> Iterator[Moment] | None:
        """Return the rest of the recording for a dropped client, or ``None`` for a new one."""
        oldest = time.monotonic() - LATEST_RETURN
        while self._dropped:
            at, rest = self._dropped.popleft()
            if at >= oldest:
                return rest
        return None

    async def _play(self, connection: StreamConnection, rest: Iterator[Moment]) -> bool:
        """Play until the end or a drop. Return whether to start again."""
        messages = 0
        pace = Pace(self.speed)
        for moment in rest:
            await pace.wait_until(moment.at)
            if moment.data is not None:
                await connection.websocket.send(moment.data)  # waits for a slow client
                messages += 1
            elif moment.event == "disconnected":
                self._dropped.append((time.monotonic(), rest))
                say(f"connection {connection.number}: {messages} messages, then {drop(moment)}")
                hang_up(connection, moment)
                return False
        say(f"connection {connection.number}: {messages} messages, the recording has ended")
        if self.once:
            connection.close(1000, "the recording has ended")
            self.end("")
        return self.loop


class Pace:
    """A clock that waits as long as the recorder did. It starts at the first moment."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began: tuple[float, float] | None = None

    async def wait_until(self, at: float) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = (at, now)
        first, began = self._began
        await asyncio.sleep(max(0.0, began + (at - first) / self._speed - now))


def drop(moment: Moment) -> str:
    """Return a text for the log that describes how a connection ended."""
    return "cut" if moment.code == 1006 else f"closed with {moment.code}"


def hang_up(connection: StreamConnection, moment: Moment) -> None:
    """End a connection as it was recorded."""
    try:
        check_close(moment.code, moment.reason)
    except ValueError:  # there was no close frame (1006), or its code must not be sent
        connection.drop()  # abort() would discard the messages that were just sent
    else:
        connection.close(moment.code, moment.reason)


def heard(connection: StreamConnection, data: str | bytes) -> None:
    """Print a message from a client, without replying to it."""
    what = peer_text(data) if isinstance(data, str) else f"{len(data)} bytes"
    say(f"connection {connection.number} sent: {what}")


def say(text: str) -> None:
    """Print a line, even if stderr is closed."""
    with suppress(OSError):
        print(f"{COMMAND}: {text}", file=sys.stderr, flush=True)
