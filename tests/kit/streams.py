"""
Clients in their own processes, which a test can kill, stop and observe.

::

    with StreamProcess(server.url, log, spool=str(path), journal=True) as process:
        process.wait_handled(100)
        process.kill()
    process.handled                     # the messages of its handler, in order

The handler writes a line to the log file for each message before it returns. A killed process has
not handled the messages without a line, and may have handled a message that comes again later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .children import Child
from .seen import eventually

__all__ = ["Handled", "StreamProcess", "entries"]

PROGRAM = """
import json, os, sys, threading, time
from datastream_ws import Client

url, log, options, slow = json.loads(sys.argv[1])
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
client = Client(url, max_reconnect_attempts=None, min_reconnect_delay=0.05,
                max_reconnect_delay=0.1, **options)

def say(**words):
    os.write(out, (json.dumps(words) + "\\n").encode())

@client.on_ready
def resume():
    last = client.last_message
    client.send({"resume": last.json().get("n", 0) if last is not None else 0})

@client.on_message
def handle(message):
    at = time.monotonic()  # first: a process that is stopped after it was handling already
    say(n=message.json().get("n"), epoch=message.epoch, seq=message.seq, pid=os.getpid(), at=at)
    if slow:
        time.sleep(slow)

@client.on_state
def state(event):
    say(state=event.state.value, at=time.monotonic(), pid=os.getpid())

@client.on_gap
def gap(event):
    last = event.last_message
    say(gap=last.json().get("n", 0) if last is not None else 0, pid=os.getpid())

@client.on_error
def error(error):
    say(error=f"{type(error).__name__}: {error}", at=time.monotonic(), pid=os.getpid())

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(9)), daemon=True).start()
try:
    client.run()
finally:
    stats = client.stats()
    left_out = ("last_error", "handlers", "recent_events", "round_trips")
    found = {name: getattr(stats, name) for name in stats.__slots__ if name not in left_out}
    found["messages_dropped"] = dict(stats.messages_dropped)
    say(stats=found, pid=os.getpid(), at=time.monotonic())
"""


class Handled(NamedTuple):
    """A message that the handler of a process was called with. *at* is a monotonic time."""

    n: int | None
    epoch: int
    seq: int
    pid: int
    at: float


class StreamProcess(Child):
    """
    A process with one client, which ``with`` starts and kills.

    Args:
        url: The URL of the server. ``on_ready`` sends ``{"resume": n}`` of the last message, or 0.
        log: The file that the process writes. Several processes can share it.
        slow: Seconds that the handler takes for each message.
        prefix: A command that runs the program, such as ``ip netns exec …``.
        options: The options of the client.

    """

    def __init__(
        self,
        url: str,
        log: Path,
        *,
        slow: float = 0.0,
        prefix: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(PROGRAM, [url, str(log), options, slow], prefix)
        self.log = log

    @property
    def said(self) -> list[dict[str, Any]]:
        """All lines that this process has written, as dicts."""
        return [each for each in entries(self.log) if each["pid"] == self.pid]

    @property
    def handled(self) -> list[Handled]:
        return [Handled(**each) for each in self.said if "n" in each]

    @property
    def state(self) -> str | None:
        states: list[str] = [each["state"] for each in self.said if "state" in each]
        return states[-1] if states else None

    @property
    def errors(self) -> list[str]:
        return [each["error"] for each in self.said if "error" in each]

    def wait_state(self, state: str, timeout: float = 20.0) -> None:
        eventually(lambda: self.state == state, timeout, lambda: f"{self.state}, {self.errors}")

    def wait_handled(self, count: int, timeout: float = 30.0) -> list[Handled]:
        eventually(
            lambda: len(self.handled) >= count,
            timeout,
            lambda: f"{len(self.handled)} handled, {self.state}, {self.errors}",
        )
        return self.handled


def entries(log: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log, as dicts."""
    if not log.exists():
        return []
    text = log.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
