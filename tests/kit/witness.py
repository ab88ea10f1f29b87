"""
The handlers of a scenario's stream, which are the same in every process, and their reports.

Each fact is a line of JSON with the stream, the monotonic time and the event.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from datastream_ws import DisconnectEvent, Message, State, StateEvent
from datastream_ws.handlers import Decorators

from .scenarios import Scenario

__all__ = ["attend", "writer"]

Say = Callable[..., None]


def writer(path: str) -> Say:
    """Return a function that appends facts to a file. It's safe in any thread and process."""
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(**fact: Any) -> None:
        os.write(out, (json.dumps(fact) + "\n").encode())

    return say


def attend(
    stream: Decorators, scenario: Scenario, say: Say, client: Callable[[], Any] | None = None
) -> None:
    """
    Register the handlers of *scenario* on *stream*.

    Args:
        stream: An object with the decorators of a client.
        scenario: The scenario.
        say: A function that gets each fact.
        client: A function that returns the client. ``None`` means that *stream* is the client.

    """
    Witness(scenario, say, client or (lambda: stream)).listen(stream)


class Witness:
    """The handlers of one stream."""

    def __init__(self, scenario: Scenario, say: Say, client: Callable[[], Any]) -> None:
        self._scenario = scenario
        self._say = say
        self._client = client
        self._closing = threading.Event()
        self._ready_calls = 0

    def listen(self, stream: Decorators) -> None:
        stream.on_ready(self.on_ready)
        stream.on_message(self.on_message)
        stream.on_disconnect(self.on_disconnect)
        stream.on_error(self.on_error)
        stream.on_state(self.on_state)

    def say(self, **fact: Any) -> None:
        self._say(stream=self._scenario.name, at=time.monotonic(), **fact)

    def on_ready(self) -> None:
        self._ready_calls += 1
        if self._ready_calls <= self._scenario.ready_fails:
            raise LookupError("as the scenario requires")

    def on_message(self, message: Message) -> None:
        if message.data == "raise":
            raise LookupError("as the message requires")
        if message.data == "exit":
            raise SystemExit("as the message requires")
        if message.data == "hold":
            self._hold()
        self.say(handled=message.data, connection=message.connection)

    def _hold(self) -> None:
        """Block until the client closes, after all messages have been received."""
        while self._client().stats().messages_received < len(self._scenario.handled):
            time.sleep(0.005)
        self.say(holding=True)
        self._closing.wait(60)

    def on_disconnect(self, event: DisconnectEvent) -> None:
        self.say(ended=event.code, connection=event.connection, will_retry=event.will_retry)

    def on_error(self, error: BaseException) -> None:
        cause = error.__cause__
        text = f"{error}" if cause is None else f"{error}: {type(cause).__name__}"
        self.say(error=type(error).__name__, text=text)

    def on_state(self, event: StateEvent) -> None:
        self.say(state=event.state.value, delay=event.delay)
        if event.state is State.CLOSING:
            self._closing.set()
        if event.state.is_final:
            self._closing.set()
            self.say(stats=self._stats(), why=repr(self._client().error))

    def _stats(self) -> dict[str, Any]:
        stats = self._client().stats()
        names = ("received", "handled", "failed", "waiting", "spooled")
        counts = {name: getattr(stats, f"messages_{name}") for name in names}
        return counts | {"dropped": sum(stats.messages_dropped.values())}
