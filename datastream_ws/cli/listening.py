"""The command ``datastream-ws listen``, which prints a stream and stays connected."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from .. import (
    Client,
    DisconnectEvent,
    GapEvent,
    HandlerError,
    Message,
    ReconnectError,
    State,
    StateEvent,
)
from ..embedding import peer_text, said, shown_url, signals_to
from ..runner import EXIT_CONFIGURATION, EXIT_OK, Runner
from .certificates import proxy_context, server_context
from .lines import Lines
from .recording import Recorder
from .screen import Screen, plural
from .standard_input import StandardInput

__all__ = ["listen", "show_log"]

COMMAND = "datastream-ws listen"
PING_INTERVAL = 15.0  # seconds; short, so that the status line soon shows the round trip
MOST_AT_ONCE = 500  # messages in one write


def listen(wanted: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    options = client_options(wanted)
    recorder = Recorder(wanted.record, shown_url(wanted.url)) if wanted.record else None
    show: Screen | Lines
    if sys.stdout.isatty():
        show = Screen(shown_url(wanted.url))
    else:
        show = Lines(COMMAND, lambda: listener.end(None))
    wish = Wish(wanted.routes, wanted.filters)
    client = Client(wanted.url, **options)
    source = StandardInput(client, show) if wanted.input else None
    listener = Listener(client, show, recorder, wish, source)
    for number, text in enumerate(wanted.send):
        client.subscribe(text, key=number)
    show_log(show, wanted.verbose)
    try:
        code = listener.run(wanted.max_messages)
    finally:
        if recorder is not None:
            recorder.close()
    if wanted.verbose and client.error is not None:
        traceback.print_exception(client.error)
    return code


def client_options(wanted: argparse.Namespace) -> dict[str, Any]:
    """Return the client's options. Raises ConfigurationError."""
    return {
        "headers": wanted.headers,
        "ssl": server_context(wanted),
        "proxy_ssl": proxy_context(wanted),
        "subprotocols": wanted.subprotocols or None,
        "max_size": wanted.max_size,
        "max_reconnect_attempts": wanted.max_reconnect_attempts,
        "min_reconnect_delay": wanted.min_reconnect_delay,
        "max_reconnect_delay": wanted.max_reconnect_delay,
        "ping_interval": PING_INTERVAL,
    }


class Show(Protocol):
    """An output for events."""

    def event(self, topic: str, text: str) -> None: ...


def show_log(show: Show, verbose: bool) -> None:
    """Show the client's log among the events if *verbose*, and hide it otherwise."""
    log = logging.getLogger("datastream_ws")
    log.propagate = False
    log.setLevel(logging.DEBUG)
    log.addHandler(Log(show) if verbose else logging.NullHandler())


class Log(logging.Handler):
    """A handler that shows log lines among the events."""

    def __init__(self, show: Show) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._show.event("log", f"{record.levelname.lower()}: {self.format(record)}")


@dataclass(frozen=True, slots=True)
class Wish:
    """
    The selection of the messages to print.

    Attributes:
        routes: The routes to print. If it's empty, messages of every route are printed.
        texts: The texts that a message must contain.

    """

    routes: Sequence[str] = ()
    texts: Sequence[str] = ()

    def of(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not self.routes and not self.texts:
            return messages
        return [message for message in messages if self._wants(message)]

    def _wants(self, message: Message) -> bool:
        if self.routes and str(message.route) not in self.routes:
            return False
        data = message.data
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        return all(each in text for each in self.texts)


class Listener:
    """
    A client whose messages and events are shown and recorded.

    Args:
        client: The client.
        show: The output.
        recorder: The recorder of all messages. ``None`` records nothing.
        wish: The selection of the messages to show.
        source: The sender of the lines of stdin. ``None`` doesn't read stdin.

    """

    def __init__(
        self,
        client: Client,
        show: Screen | Lines,
        recorder: Recorder | None,
        wish: Wish,
        source: StandardInput | None,
    ) -> None:
        self.client = client
        self._wish = wish
        self._shown = 0
        self._connections = 0  # the last connection that was shown
        self._telling = threading.Lock()
        self._show = show
        self._recorder = recorder
        self._source = source
        self._ends: list[str | None] = []  # no lock, because a signal handler may interrupt another
        self._away = 0.0
        self._register()

    def _register(self) -> None:
        client, recorder = self.client, self._recorder
        if isinstance(self._show, Screen):
            self._show.watch(client)
        if recorder is not None:
            client.on_connect(recorder.connected)
            client.on_disconnect(recorder.disconnected)
        client.on_batch(max_size=MOST_AT_ONCE, max_wait=0.0)(self._messages)
        client.on_connect(self._connected)
        client.on_disconnect(self._lost)
        client.on_gap(self._gap)
        client.on_state(self._state)
        client.on_error(self._error)

    def run(self, max_messages: int | None) -> int:
        """Block until the end, and return the exit code."""
        source = self._source or nullcontext()
        with signals_to(lambda number: self.end(None)), self._show, source:
            self._say("connecting", f"connecting to {shown_url(str(self.client.options.url))}")
            if self._ends:  # Ctrl-C was pressed before the runner handles it
                return EXIT_OK
            code = Runner([self.client], max_messages=max_messages).run()
        if not self._ends:
            self._sum_up()
        elif (failure := self._ends[0]) is not None:
            print(f"{COMMAND}: {failure}", file=sys.stderr)
            return EXIT_CONFIGURATION
        return code

    def end(self, failure: str | None) -> None:
        """Request the close. *failure* is an error to print, or ``None``."""
        self._ends.append(failure)
        self.client.request_close()

    def _sum_up(self) -> None:
        stats = self.client.stats()
        text = plural(stats.messages_handled, "message")
        if self._shown < stats.messages_handled:
            text += f", {self._shown:,} of them shown"
        if self._source is not None and self._source.sent:
            text += f", {plural(self._source.sent, 'line')} sent"
        if stats.reconnects:
            text += f", {plural(stats.reconnects, 'reconnect')}"
        if self._away:
            text += f", {self._away:.1f} s without a connection"
        if self._recorder is not None:
            text += f"; {plural(self._recorder.messages, 'message')} in {self._recorder.path}"
        self._say("end", text)

    def _say(self, topic: str, text: str) -> None:
        with suppress(OSError):
            self._show.event(topic, text)

    # --- handlers and hooks, which run on two threads at the same time ---

    def _messages(self, messages: Sequence[Message]) -> None:
        if self._ends:
            return
        if not self._record(messages):
            return
        self._tell_connected(messages[0].connection)  # before its first message
        wanted = self._wish.of(messages)
        self._shown += len(wanted)
        try:
            if wanted:
                self._show.messages(wanted)
        except BrokenPipeError:
            self.end(None)
        except OSError as error:
            self.end(f"stdout: {error.strerror}")

    def _record(self, messages: Sequence[Message]) -> bool:
        """Record *messages*. If that fails, end the command, so that the recording has no gap."""
        recorder = self._recorder
        if recorder is None:
            return True
        try:
            recorder.write(messages)
        except OSError as error:
            held = plural(recorder.messages, "message")
            self.end(f"--record: {recorder.path}: {error.strerror}; ended with {held} in it")
            return False
        return True

    def _connected(self) -> None:
        self._tell_connected(self.client.stats().connections)

    def _tell_connected(self, number: int) -> None:
        with self._telling:
            is_new = number > self._connections
            self._connections = max(number, self._connections)
            if is_new:
                self._say("connected", "connected")

    def _lost(self, event: DisconnectEvent) -> None:
        if event.error is not None:  # None if the client closed the connection
            wait = f"; next attempt in {event.delay:.1f} s" if event.delay is not None else ""
            self._say("lost", f"{said(event.error)}{wait}")

    def _gap(self, event: GapEvent) -> None:
        self._away += event.seconds
        self._say(
            "gap", f"{event.seconds:.1f} s without a connection; messages sent meanwhile are lost"
        )

    def _state(self, event: StateEvent) -> None:
        if event.state is State.FAILED and event.error is not None:
            gave_up = "" if isinstance(event.error, ReconnectError) else "gave up: "
            self._say(
                "failed", f"{gave_up}{said(event.error)} (run `datastream-ws check` for details)"
            )
        elif event.state is State.WAITING and not event.previous.is_connected:
            self._say("waiting", f"{said(event.error)}; next attempt in {event.delay:.1f} s")
        elif event.state is State.CONNECTING and self._ends:  # Ctrl-C was pressed before start()
            self.client.request_close()

    def _error(self, error: BaseException) -> None:
        if isinstance(error, HandlerError):  # other errors are shown by the hooks above
            self._say("failed", peer_text(f"{error}: {error.__cause__}"))
