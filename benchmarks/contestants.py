"""The contestants, which are ways to receive a stream, and the measurement of their time.

Every contestant connects, handles exactly `count` messages and closes. The time runs from the first
handled message to the last, so it includes neither imports nor the handshake. To add a contestant,
write a function ``run(url, count) -> seconds`` with `@contestant("name", …)` in `peers.py` or
`ours.py`. Import its packages inside the function, so that the others run without them.

::

    python -m benchmarks.contestants                        # list the contestants
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datastream_ws

__all__ = ["CONTESTANTS", "Contestant", "Stopwatch", "check", "contestant", "finished", "named"]

Run = Callable[[str, int], float]

PATIENCE = 120.0  # seconds that a contestant may take


@dataclass(frozen=True)
class Contestant:
    """
    A way to receive.

    Args:
        name: The name on the command line and in results.
        about: A short description.
        run: A function that receives messages, and returns the seconds.
        pace: The approximate speed, relative to the bare loop. The number of messages is multiplied
            by it, so that all contestants take about the same time.
        deflate: Whether it can receive compressed messages.

    """

    name: str
    about: str
    run: Run
    pace: float = 1.0
    deflate: bool = True

    def share(self, count: int) -> int:
        """Return the number of messages, if the bare loop gets *count*."""
        return max(2, int(count * self.pace))


CONTESTANTS: dict[str, Contestant] = {}


def contestant(name: str, *, pace: float = 1.0, deflate: bool = True) -> Callable[[Run], Run]:
    """Register a function as a contestant. Tables show the first line of its docstring."""

    def enter(run: Run) -> Run:
        about = (run.__doc__ or "").partition("\n")[0]
        CONTESTANTS[name] = Contestant(name, about, run, pace, deflate)
        return run

    return enter


def named(name: str) -> Contestant:
    """
    Return the contestant with this name.

    Raises:
        KeyError: If there is none. The text lists all names.

    """
    for module in ("peers", "ours", "adapters"):
        importlib.import_module(f"benchmarks.{module}")
    if name not in CONTESTANTS:
        raise KeyError(f"no contestant {name!r}; there are {', '.join(CONTESTANTS)}")
    return CONTESTANTS[name]


def receive(name: str, url: str, count: int) -> dict[str, float]:
    """Return the seconds and the CPU seconds that a contestant takes for *count* messages."""
    seconds = named(name).run(url, count)
    return {"seconds": seconds, "worked": Stopwatch.worked}


class Stopwatch:
    """A counter of messages that measures the time from the first to the last one."""

    __slots__ = ("_began", "_count", "seen", "started", "stopped")

    worked = 0.0  # CPU seconds of the last measurement in this process

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError("a time from first to last needs at least 2 messages")
        self._count = count
        self.seen = 0
        self.started = self.stopped = self._began = 0.0

    def tick(self) -> bool:
        """Count a handled message, and return whether it was the last one."""
        self.seen = seen = self.seen + 1
        if seen == 1:
            self.started, self._began = time.perf_counter(), time.process_time()
        elif seen == self._count:
            self.stopped = time.perf_counter()
            Stopwatch.worked = time.process_time() - self._began
            return True
        return False

    @property
    def seconds(self) -> float:
        """The measured time. Raises RuntimeError unless exactly *count* messages were handled."""
        if self.seen != self._count:
            raise RuntimeError(f"{self.seen} messages handled, {self._count} expected")
        return self.stopped - self.started


async def finished(done: asyncio.Event) -> bool:
    """Wait for *done*, and return whether it was set in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await done.wait()
    except TimeoutError:
        return False


def check(client: datastream_ws.Client | datastream_ws.AsyncClient, in_time: bool) -> None:
    """Raise RuntimeError unless a run was complete, on one connection and without failures."""
    stats = client.stats()
    if not in_time or stats.connections != 1 or stats.messages_failed:
        raise RuntimeError(f"not a clean run: {client.state}, {client.error!r}, {stats}")


def main() -> None:
    from benchmarks import contestants  # not __main__, which has another registry

    contestants.named("bare")
    for each in contestants.CONTESTANTS.values():
        print(f"{each.name:28} {each.about}")


if __name__ == "__main__":
    main()
