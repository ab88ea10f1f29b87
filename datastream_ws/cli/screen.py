"""The output on a terminal, with messages, events and a live status line."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Self

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .. import Client, Message, State, StateEvent, Stats
from ..embedding import escaped

__all__ = ["LONGEST", "Screen", "duration", "message_text", "prompt_text", "status_text"]

LONGEST = 500  # characters of a message that are shown; a pipe gets all of them
FIRST_BYTES = 24  # bytes of a binary message that are shown
REFRESHES = 4  # per second
RATE_SECONDS = 2.0

STYLES = {
    "lost": "red",
    "failed": "bold red",
    "waiting": "yellow",
    "connected": "green",
    "gap": "yellow",
    "sent": "bold",
    "log": "dim",
}
LIGHTS = {
    State.READY: "green",
    State.CONNECTED: "green",
    State.CONNECTING: "yellow",
    State.WAITING: "yellow",
    State.FAILED: "red",
}


class Screen:
    """
    The output of a stream on a terminal. It's thread-safe.

    Args:
        where: The URL without secrets.
        console: A console of rich. ``None`` uses stdout.

    Attributes:
        typed: A function that returns the end of the line that the user is typing. ``None`` if the
            user can't type.

    """

    def __init__(self, where: str, console: Console | None = None) -> None:
        if console is None and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal without UTF-8
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._where = where
        self._client: Client | None = None
        self.typed: Callable[[int], str] | None = None
        self._since: tuple[StateEvent, float] | None = None
        self._rate = Rate()
        self._lock = threading.Lock()  # so that lines of different threads don't mix
        self._live = Live(
            console=self._console,
            get_renderable=self._below,
            refresh_per_second=REFRESHES,
            transient=True,
        )

    @property
    def is_live(self) -> bool:
        """Whether the terminal can redraw a line."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def refresh(self) -> None:
        """Redraw the live lines now."""
        self._live.refresh()

    def watch(self, client: Client) -> None:
        """Show this client's state and counters in the status line."""
        self._client = client
        client.on_state(self._note)

    def _note(self, event: StateEvent) -> None:
        self._since = (event, time.monotonic())

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def messages(self, messages: Sequence[Message]) -> None:
        """Print *messages*. Raises OSError."""
        self._print(Text("\n").join(message_text(message) for message in messages))

    def event(self, topic: str, text: str) -> None:
        """Print an event."""
        line = Text.assemble((_clock(time.time()), "dim"), "  ", (text, STYLES.get(topic, "")))
        self._print(line)

    def _print(self, text: Text) -> None:
        with self._lock:
            self._console.print(text, soft_wrap=True)

    def _below(self) -> Group:
        """Return the live lines, which are the typed line and the status line."""
        typed, width = self.typed, self._console.width
        lines = [self._status()]
        if typed is not None:
            lines.insert(0, prompt_text(typed(width), width))
        return Group(*lines)

    def _status(self) -> Text:
        client = self._client
        if client is None:
            return Text("")
        stats, now = client.stats(), time.monotonic()
        event, at = self._since or (None, now)
        state = client.state if event is None else event.state
        left = None if event is None or event.delay is None else event.delay - (now - at)
        rate = self._rate.of(stats.messages_received, now)
        return status_text(self._where, state, stats, rate=rate, left=left)


class Rate:
    """The rate of messages per second over the last 2 seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def of(self, count: int, now: float) -> float:
        """Return the rate, given the count of messages now."""
        seen = [each for each in self._seen if now - each[0] <= RATE_SECONDS] or self._seen[-1:]
        self._seen = [*seen, (now, count)]
        then, before = self._seen[0]
        return max(0.0, (count - before) / (now - then)) if now > then else 0.0


def status_text(
    where: str, state: State, stats: Stats, *, rate: float = 0.0, left: float | None = None
) -> Text:
    """Return the status line. Narrow terminals cut its end, so it begins with the state."""
    said = state.value
    if state is State.WAITING and left is not None:
        said = f"next attempt in {max(0.0, left):.0f} s"
    figures = [plural(stats.messages_received, "message")]
    if state.is_connected:
        figures.append(f"{rate:,.0f}/s")
    if stats.reconnects:
        figures.append(plural(stats.reconnects, "reconnect"))
    if stats.messages_waiting > 1:
        figures.append(f"{stats.messages_waiting:,} behind")
    if stats.round_trip_time is not None and state.is_connected:
        figures.append(f"{stats.round_trip_time * 1000:.0f} ms")
    if stats.connected_since is not None and state.is_connected:
        figures.append(f"up {duration(time.time() - stats.connected_since)}")
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("● ", LIGHTS.get(state, "dim")).append(said, "bold")
    for figure in [*figures, where]:
        line.append(" · ", "dim").append(figure)
    return line


def prompt_text(typed: str, width: int) -> Text:
    """Return the line that the user is typing, or its end if it's too long for the terminal."""
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("> ", "bold")
    if not typed:
        return line.append("Type a line and press Enter to send it", "dim")
    shown, room = escaped(typed), width - len("> ") - len(" ")
    is_cut = cell_len(shown) > room
    while cell_len(shown) > room - is_cut:
        shown = shown[1:]
    return line.append("…" if is_cut else "").append(shown).append(" ", "reverse")


def message_text(message: Message) -> Text:
    """Return a message as one line, escaped and shortened."""
    line = Text(no_wrap=True)
    line.append(_clock(message.received_at), "dim").append("  ")
    if isinstance(message.data, bytes):
        return line.append(binary_text(message.data), "magenta")
    if message.route not in (None, ""):
        line.append(escaped(str(message.route)[:40]), "cyan").append("  ")
    line.append(escaped(message.data[:LONGEST]))
    if len(message.data) > LONGEST:
        line.append(f"… ({len(message.data):,} characters)", "dim")
    return line


def binary_text(data: bytes) -> str:
    """Return the size and the first bytes of a binary message."""
    more = " …" if len(data) > FIRST_BYTES else ""
    return f"{plural(len(data), 'byte')}: {data[:FIRST_BYTES].hex(' ')}{more}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Return a duration such as ``7 s``, ``3:25`` or ``2:03:25``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).isoformat(" ", "milliseconds").partition(" ")[2]
