"""
The runner of clients and fleets in a foreground process.

It handles signals, the shutdown, the exit code and the health file. The commands for Django, Flask
and ``datastream-ws`` use it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, Protocol

from .client import Client
from .events import State
from .exceptions import ConfigurationError, said
from .handling.budget import Budget
from .health import StreamHealth, describe, write_health_file
from .log_fields import write
from .process.signals import signals_to
from .stats import Stats

__all__ = [
    "EXIT_CONFIGURATION",
    "EXIT_FAILED",
    "EXIT_FORCED",
    "EXIT_OK",
    "EXIT_USAGE",
    "Runnable",
    "Runner",
    "leave",
]

EXIT_OK = 0
EXIT_CONFIGURATION = 1
EXIT_USAGE = 2
EXIT_FAILED = 3  # a stream failed
EXIT_FORCED = 4  # the shutdown timed out, or a second signal was received

SIGNAL, ENDED, SPENT = "signal", "ended", "spent"


class Runnable(Protocol):
    """A :class:`~datastream_ws.Client` or a :class:`~datastream_ws.Fleet`."""

    @property
    def name(self) -> str: ...

    @property
    def _finished(self) -> Future[None] | None: ...

    def start(self) -> None: ...

    def stats(self) -> Stats: ...

    def _share(self, budget: Budget) -> None: ...

    def _ask_close(self, timeout: float | None) -> float: ...

    def _end_by(self, deadline: float) -> None: ...


class Runner:
    """
    A runner of clients and fleets in the main thread.

    It runs until a signal arrives, a client fails, or enough messages are handled. The first SIGINT
    or SIGTERM closes all clients, which handle what they have received. A second signal closes them
    immediately. A fleet continues when its streams fail. Use a runner only once.

    Args:
        clients: Clients and fleets that aren't started yet.
        shutdown_timeout: Seconds for the shutdown. ``None`` uses each client's ``close_timeout``.
        max_messages: Stop after exactly this number of messages. ``None`` means no limit.
        health_file: The path of a file that holds the health. ``None`` writes no file.
        on_beat: A function that gets the health of the streams at every beat. If it raises an
            exception, that is logged.
        beat_interval: Seconds between beats. Each change of a client's state is also a beat.

    """

    def __init__(
        self,
        clients: Sequence[Runnable],
        *,
        shutdown_timeout: float | None = None,
        max_messages: int | None = None,
        health_file: str | None = None,
        on_beat: Callable[[list[StreamHealth]], None] | None = None,
        beat_interval: float = 5.0,
    ) -> None:
        self._clients = clients
        self._shutdown_timeout = shutdown_timeout
        self._max_messages = max_messages
        self._health_file = health_file
        self._on_beat = on_beat
        self._beat_interval = beat_interval
        self._failing: set[int] = set()  # the ids of functions that failed at the last beat
        self._words: SimpleQueue[str] = SimpleQueue()  # its put() is safe in a signal handler
        self._log = logging.getLogger("datastream_ws")

    def run(self) -> int:
        """
        Start the clients, block until they have ended, and return the exit code.

        Returns:
            0 if all is well, 3 if a client failed, or 4 if the shutdown timed out or a second
            signal was received.

        Raises:
            ConfigurationError: If the health file can't be written, or an option is invalid.

        """
        self._check()
        self._share_budget()
        with signals_to(lambda number: self._words.put(SIGNAL)):
            self._start()
            stop = self._wait_for({SIGNAL, ENDED, SPENT})
            forced = self._drain()
        self._beat()
        if any(map(_has_failed, self._clients)):
            return EXIT_FAILED
        return EXIT_FORCED if forced or (stop != SPENT and self._left_behind()) else EXIT_OK

    def _start(self) -> None:
        try:
            for client in self._clients:
                if isinstance(client, Client):  # a large fleet would change all the time
                    client.on_state(lambda event: self._words.put("state"))
                client.start()
                assert client._finished is not None
                client._finished.add_done_callback(lambda _: self._words.put(ENDED))
        except BaseException:
            self._drain()
            raise

    def _check(self) -> None:
        if self._health_file is not None:
            try:
                write_health_file(self._health_file, [])
            except OSError as error:
                raise ConfigurationError(
                    f"the health file {self._health_file} cannot be written: {error.strerror}"
                ) from error

    def _share_budget(self) -> None:
        if self._max_messages is not None:
            budget = Budget(self._max_messages, partial(self._words.put, SPENT))
            for client in self._clients:
                client._share(budget)

    def _wait_for(self, wanted: set[str], deadline: float = float("inf")) -> str | None:
        """Beat until a wanted word arrives, and return it. Return ``None`` after *deadline*."""
        while (left := deadline - time.monotonic()) > 0:
            self._beat()
            try:
                word = self._words.get(timeout=min(left, self._beat_interval))
            except Empty:
                continue
            if word in wanted:
                return word
        return None

    def _drain(self) -> bool:
        """Close all clients. Return whether a second signal or the deadline cut that short."""
        closing = [client._finished for client in self._clients]
        deadlines = [client._ask_close(self._shutdown_timeout) for client in self._clients]
        forced = False
        while not forced and not all(finished is None or finished.done() for finished in closing):
            word = self._wait_for({SIGNAL, ENDED}, max(deadlines))
            forced = word != ENDED
            if word == SIGNAL:
                deadlines = [client._ask_close(0.0) for client in self._clients]
        for client, deadline in zip(self._clients, deadlines, strict=True):
            client._end_by(deadline)
        return forced

    def _left_behind(self) -> bool:
        """Return whether messages were unhandled at the deadline."""
        stats = [client.stats() for client in self._clients]
        return any(s.messages_waiting or s.messages_dropped.get("shutdown") for s in stats)

    def _beat(self) -> None:
        now = time.time()
        streams = [describe(client, now) for client in self._clients]
        if self._health_file is not None:
            self._fenced(write_health_file, self._health_file, streams)
        if self._on_beat is not None:
            self._fenced(self._on_beat, streams)

    def _fenced(self, function: Callable[..., Any], *arguments: Any) -> None:
        """
        Call *function*, and log the first of several exceptions in a row.

        A full disk must neither stop the streams nor be filled with log lines.
        """
        try:
            function(*arguments)
        except Exception as error:
            if id(function) not in self._failing:
                text = "the state of the streams cannot be stored: %s; retrying within %g s"
                write(self._log, "warning", text, said(error), self._beat_interval)
            self._failing.add(id(function))
        else:
            self._failing.discard(id(function))


def leave(code: int) -> NoReturn:
    """
    End the process with a runner's exit code. Call it in the main thread.

    With ``EXIT_FORCED`` it waits for no thread, because a stuck handler may have started some.
    """
    if code != EXIT_FORCED:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # its reader may be gone
            stream.flush()
    os._exit(code)


def _has_failed(client: Runnable) -> bool:
    if isinstance(client, Client):
        return client.state is State.FAILED
    finished = client._finished  # it has an exception after an internal error of a fleet
    return finished is not None and finished.done() and finished.exception() is not None
