"""The contestants, which are ways to receive a stream, and the measurement of their time.

Every contestant connects, handles exactly `count` messages and closes. The time runs from the first
handled message to the last, so it includes neither imports nor the handshake. To add a contestant,
write a function ``run(url, count) -> seconds`` with `@contestant("name", …)` in `peers.py` or
`ours.py`. Import its packages inside the function, so that the others run without them.

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

PATIENCE = 120.0  # seconds until a contestant that does not finish is given up


@dataclass(frozen=True)
class Contestant:
    """
    A way to receive.

    Args:
        name: What it goes by on the command line and in results.
        about: What it is, in a few words.
        run: Receives; returns seconds.
        pace: About how fast it is, in terms of the bare loop: it is given that many more or fewer
            messages, so that all take about the same time.
        deflate: Whether it can receive compressed messages.

    """

    name: str
    about: str
    run: Run
    pace: float = 1.0
    deflate: bool = True

    def share(self, count: int) -> int:
        """How many messages it is given where the bare loop is given `count`."""
        return max(2, int(count * self.pace))


CONTESTANTS: dict[str, Contestant] = {}


def contestant(name: str, *, pace: float = 1.0, deflate: bool = True) -> Callable[[Run], Run]:
    """Enter a function under `name`. The first line of its docstring is what tables show."""

    def enter(run: Run) -> Run:
        about = (run.__doc__ or "").partition("\n")[0]
        CONTESTANTS[name] = Contestant(name, about, run, pace, deflate)
        return run

    return enter


def named(name: str) -> Contestant:
    """
    The contestant of this name.

    Raises:
        KeyError: If there is none; it says which there are.

    """
    for module in ("peers", "ours", "adapters"):
        importlib.import_module(f"benchmarks.{module}")
    if name not in CONTESTANTS:
        raise KeyError(f"no contestant {name!r}; there are {', '.join(CONTESTANTS)}")
    return CONTESTANTS[name]


def receive(name: str, url: str, count: int) -> dict[str, float]:
    """Seconds a contestant takes for `count` messages, and of the processor's time among them."""
    seconds = named(name).run(url, count)
    return {"seconds": seconds, "worked": Stopwatch.worked}


class Stopwatch:
    """Counts messages and times them: `count` of them, from the first to the last."""

    __slots__ = ("_began", "_count", "seen", "started", "stopped")

    worked = 0.0  # seconds of the processor's time, of the last that stopped in this process

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError("a time from first to last needs at least 2 messages")
        self._count = count
        self.seen = 0
        self.started = self.stopped = self._began = 0.0

    def tick(self) -> bool:
        """Count a handled message; True when it was the last."""
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
        """The time measured. Raises `RuntimeError` unless exactly `count` messages came."""
        if self.seen != self._count:
            raise RuntimeError(f"{self.seen} messages handled, {self._count} expected")
        return self.stopped - self.started


async def finished(done: asyncio.Event) -> bool:
    """Whether `done` was set in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await done.wait()
    except TimeoutError:
        return False


def check(client: datastream_ws.Client | datastream_ws.AsyncClient, in_time: bool) -> None:
    """Raise unless the run is one to be counted: all of it, over one connection, no failures."""
    stats = client.stats()
    if not in_time or stats.connections != 1 or stats.messages_failed:
        raise RuntimeError(f"not a clean run: {client.state}, {client.error!r}, {stats}")


def main() -> None:
    from benchmarks import contestants  # not __main__: its registry is the one that is filled

    contestants.named("bare")
    for each in contestants.CONTESTANTS.values():
        print(f"{each.name:28} {each.about}")


if __name__ == "__main__":
    main()
