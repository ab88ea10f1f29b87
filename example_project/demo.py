"""
A client that reconnects before your eyes: ``python -m example_project.demo``.

It starts a feed on this machine that drops its connections now and then, and prints what
arrives and every change of state, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from datetime import datetime
from typing import Any

from datastream_ws import DataStreamError, DisconnectEvent, GapEvent, HandlerError, StateEvent
from datastream_ws.schematic import Client, DataStreamResponse, EntityType, MessageType
from example_project.feed import COMPANY_KEYS, Feed

COLOURS = {"state": 36, "lost": 31, "gap": 33, "error": 31}


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    wanted = _parser().parse_args(arguments)
    # Everything is printed below; without this Python would print warnings a second time.
    logging.getLogger("datastream_ws").addHandler(logging.NullHandler())
    with Feed(wanted.interval, wanted.seed) as feed:
        return Demo(feed.url, wanted.messages).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=__doc__)
    add = parser.add_argument
    add("--messages", type=int, metavar="N", help="end after N messages")
    add("--interval", type=float, metavar="S", default=0.25, help="seconds between messages")
    add("--seed", type=int, metavar="N", help="the same seed: the same changes and drops")
    return parser


class Demo:
    """A client of the feed at *url* that prints, and ends after *limit* messages (if any)."""

    def __init__(self, url: str, limit: int | None) -> None:
        self._limit = limit
        self._messages = 0
        self._gaps: list[float] = []
        self._client = Client(
            "demo-key",
            url,
            # Short, for eyes that wait; the defaults are 1 and 30 s, 10 s, 10 attempts.
            min_reconnect_delay=0.3,
            max_reconnect_delay=1.5,
            stable_after=1.0,
            max_reconnect_attempts=None,
        )
        self._register()

    def _register(self) -> None:
        client = self._client
        client.on_entity()(self._entity)
        client.on_state(self._state)
        client.on_disconnect(self._lost)
        client.on_gap(self._gap)
        client.on_error(self._error)
        client.start_entity(EntityType.FLAGS)
        client.start_entity(EntityType.COMPANY, COMPANY_KEYS)

    def run(self) -> int:
        """Block until the limit, Ctrl-C or SIGTERM; return the exit code."""
        try:
            self._client.run()
        except DataStreamError as error:
            show("error", f"gave up: {error}")
            return 1
        print(self._summary(), flush=True)
        return 0

    def _summary(self) -> str:
        reconnects, gaps = self._client.stats().reconnects, len(self._gaps)
        away = f" ({sum(self._gaps):.1f} s without a connection)" if gaps else ""
        return f"{self._messages} messages, {reconnects} reconnects, {gaps} gaps{away}"

    # --- handlers ---

    def _entity(self, response: DataStreamResponse) -> None:
        if self._messages == self._limit:  # what had arrived when the limit was reached
            return
        self._messages += 1
        self._show(*described(response))
        if self._messages == self._limit:
            self._client.close()

    def _state(self, event: StateEvent) -> None:
        wait = "" if event.delay is None else f", next attempt in {event.delay:.1f} s"
        self._show("state", f"{event.previous.value} → {event.state.value}{wait}")

    def _lost(self, event: DisconnectEvent) -> None:
        if event.error is not None:  # None: closed by us
            self._show("lost", f"connection {event.connection}: {event.error}")

    def _gap(self, event: GapEvent) -> None:
        self._gaps.append(event.seconds)
        self._show("gap", f"{event.seconds:.1f} s without a connection; what was sent is missed")

    def _error(self, error: BaseException) -> None:
        if isinstance(error, HandlerError):  # the network's are told by the state
            self._show("error", f"{error}: {error.__cause__}")

    def _show(self, topic: str, text: str) -> None:
        try:
            show(topic, text)
        except BrokenPipeError:  # the reader has left, as `… | head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._client.close()


def described(response: DataStreamResponse) -> tuple[str, str]:
    """Return a topic, and a line about what arrived."""
    data: Any = response.data
    if response.error is not None:
        return "error", response.error.error
    if response.entity_type is EntityType.FLAGS:
        return "flags", ", ".join(_flag(each) for each in data)
    if response.entity_type is EntityType.FLAG:
        return "flag", _flag(data)
    if response.entity_type is EntityType.COMPANY:
        kind = "all" if response.message_type is MessageType.FULL else "changed"
        return "company", f"{kind}: {', '.join(f'{key} {data[key]}' for key in sorted(data))}"
    return "heartbeat", ""


def _flag(flag: dict[str, Any]) -> str:
    return f"{flag['key']} {'on' if flag['default_value'] else 'off'}"


def show(topic: str, text: str) -> None:
    """Print a line with the time; from any thread."""
    now = datetime.now().isoformat(" ", "milliseconds").partition(" ")[2]
    line = f"{now}  {topic:<9}  {text}".rstrip()
    if topic in COLOURS and _coloured():
        line = f"\x1b[{COLOURS[topic]}m{line}\x1b[0m"
    sys.stdout.write(f"{line}\n")  # in one piece: hooks and handlers are on different threads
    sys.stdout.flush()


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


if __name__ == "__main__":
    sys.exit(main())
