"""Tells of user code that blocks an event loop, while it does."""

from __future__ import annotations

import asyncio
import logging
import selectors
import sys
import threading
import time
from asyncio import events
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import NamedTuple

from ..forks import in_child
from ..handlers import Handler, Handlers

__all__ = ["end_watch", "watch_loop"]

PERIOD = 0.25  # seconds between two looks
PATIENCE = 0.75  # seconds without an answer: with the period, every block of a second is seen
SELECT = (selectors.__file__, "select")  # where asyncio's loops wait
LATE = 2 * PERIOD  # a look that comes so late: nothing has run, and not for the loop's fault

# Between a callback of the loop and the user's function; the packages of this project besides.
MACHINERY = {
    "asyncio",
    "concurrent",
    "contextlib",
    "functools",
    "threading",
    "uvloop",
    "websockets",
}
OURS = __name__.partition(".")[0]
DEBUGGERS = {"bdb", "pdb", "pydevd", "_pydevd_bundle", "pydevd_frame_evaluator"}

log = logging.getLogger("datastream_ws")


class WatchedClient(NamedTuple):
    """One ``start()`` of a client; *warn* logs a line, from any thread."""

    handlers: Handlers
    warn: Callable[[str], None]


class Place(NamedTuple):
    """Where a frame of a thread is; *module*: its dotted name."""

    code: CodeType
    line: int
    module: str

    @property
    def function(self) -> str:
        return f"{self.module}.{self.code.co_qualname}"

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def is_users(self) -> bool:
        return self.package not in MACHINERY and not self.package.startswith(OURS)

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line}"


class LoopWatch:
    """
    One loop: unless it waits, it is asked for a callback, and does not answer while blocked.

    Asking costs a callback per period, whatever the loop receives.

    Attributes:
        clients: Those that live on the loop.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clients: set[WatchedClient] = set()
        self._loop = loop
        self._thread = threading.get_ident()
        self._depth = _depth_of_task()  # of a callback's frame; None: not known yet
        self._answered = True
        self._asked_at = 0.0
        self._has_told = False

    def look(self, now: float, late: bool) -> None:
        """Ask, or tell of a loop that has not answered for long; *late*: nothing could."""
        if self._answered:
            if not self._is_waiting():
                self._ask(now)
        elif late or not self._loop.is_running():
            self._asked_at = now
        elif not self._has_told and now - self._asked_at >= PATIENCE:
            self._has_told = True
            self._tell(now - self._asked_at)

    def _is_waiting(self) -> bool:
        """Whether the loop is seen to wait for something to do; it need not be woken then."""
        frame = sys._current_frames().get(self._thread)
        code = None if frame is None else frame.f_code
        return code is not None and (code.co_filename, code.co_name) == SELECT

    def _ask(self, now: float) -> None:
        self._answered = self._has_told = False
        self._asked_at = now
        with suppress(RuntimeError):  # closed: it never answers, and does not run either
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._thread = threading.get_ident()
        self._depth = len(_places(sys._getframe()))
        self._answered = True

    def _tell(self, seconds: float) -> None:
        places = self._callback(_places(sys._current_frames().get(self._thread)))
        is_debugged = any(place.package in DEBUGGERS for place in places)
        caller = next((place for place in places if place.is_users), None)
        if self._answered or is_debugged or caller is None:
            return
        clients, place, handler = self._whose(places) or (self.clients, caller, None)
        name = place.function if handler is None else handler.name
        end = places[-1]
        inside = "" if end is place else f", in {end.function} at {end}"
        text = (
            f"{name} has blocked the event loop for {seconds:.1f} s, at {place}{inside}; "
            f"{_advice(handler)}"
        )
        if len(clients) == 1:
            next(iter(clients)).warn(text)
        else:
            log.warning("%s", text)

    def _callback(self, places: list[Place]) -> list[Place]:
        """Return the places of the loop's callback, from its outermost frame on."""
        for number in range(len(places) - 1, -1, -1):
            code = places[number].code
            if (code.co_filename, code.co_name) == (events.__file__, "_run"):
                return places[number + 1 :]
        # Of a loop that is not written in Python: its own frames cannot be seen.
        return [] if self._depth is None else places[self._depth - 1 :]

    def _whose(self, places: list[Place]) -> tuple[set[WatchedClient], Place, Handler] | None:
        """Return the clients whose handler is the outermost in *places*, and where it is."""
        for place in places:
            found = {client: client.handlers.find(place.code) for client in list(self.clients)}
            clients = {client for client, handler in found.items() if handler is not None}
            handler = next(filter(None, found.values()), None)
            if handler is not None:
                return clients, place, handler
        return None


def _places(frame: FrameType | None) -> list[Place]:
    """Return where a thread is, from its outermost frame on."""
    places: list[Place] = []
    while frame is not None:
        module = frame.f_globals.get("__name__")
        places.append(Place(frame.f_code, frame.f_lineno, str(module)))
        frame = frame.f_back
    return places[::-1]


def _depth_of_task() -> int | None:
    """Return how many frames there are up to that of the task at work; ``None``: there is none."""
    task = asyncio.current_task()
    frame = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    return len(_places(frame)) or None


def _advice(handler: Handler | None) -> str:
    if handler is None:
        return "run blocking calls with asyncio.to_thread()"
    if handler.inline:
        return "make it faster, or remove inline=True"
    return "use await, or define it with def, so that it runs on a thread"


class Watches:
    """The loops of this process that clients live on, and the thread that looks at them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._loops: dict[asyncio.AbstractEventLoop, LoopWatch] = {}
        self._thread: threading.Thread | None = None

    def add(self, loop: asyncio.AbstractEventLoop, client: WatchedClient) -> None:
        with self._changed:
            watch = self._loops.setdefault(loop, LoopWatch(loop))
            watch.clients.add(client)
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="datastream-watch", daemon=True)
        with suppress(RuntimeError):  # at interpreter exit
            thread.start()
            self._thread = thread

    def remove(self, loop: asyncio.AbstractEventLoop, client: WatchedClient) -> None:
        with self._changed:
            watch = self._loops.get(loop)
            if watch is not None:
                watch.clients.discard(client)
                if not watch.clients:
                    del self._loops[loop]
            self._changed.notify_all()

    def _run(self) -> None:
        looked_at = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._loops, PERIOD)
                self._forget_closed_loops()
                if not self._loops:
                    self._thread = None
                    return
                watches = list(self._loops.values())
            now = time.monotonic()
            for watch in watches:
                watch.look(now, late=now - looked_at > LATE)
            looked_at = now

    def _forget_closed_loops(self) -> None:
        """Clients that were not closed on them would keep them, and this thread, for ever."""
        for loop in [each for each in self._loops if each.is_closed()]:
            del self._loops[loop]


_watches = Watches()


def watch_loop(loop: asyncio.AbstractEventLoop, client: WatchedClient) -> None:
    """Have user code that blocks *loop* told, until :func:`end_watch`; called on the loop."""
    _watches.add(loop, client)


def end_watch(loop: asyncio.AbstractEventLoop, client: WatchedClient) -> None:
    """End a watch, or do nothing if there is none; from any thread."""
    _watches.remove(loop, client)


def _renew() -> None:
    global _watches
    _watches = Watches()  # the parent's clients are not this process's


in_child(_renew)
