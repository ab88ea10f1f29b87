"""Warns about user code while it blocks an event loop."""

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
from ..log_fields import write

__all__ = ["end_watch", "watch_loop"]

PERIOD = 0.25  # seconds between two checks
PATIENCE = 0.75  # seconds without a response; PERIOD and PATIENCE make up the promised second
SELECT = (selectors.__file__, "select")  # the function in which asyncio's loops wait
LATE = 2 * PERIOD  # a later check means that the whole process was suspended

# Packages between a callback of the loop and the user's function, beside those of this project.
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
    """
    One ``start()`` of a client.

    Attributes:
        handlers: The client's handlers.
        warn: Logs a warning, from any thread.
        on_closed: Called on the watch's thread if the loop is closed before :func:`end_watch`.

    """

    handlers: Handlers
    warn: Callable[[str], None]
    on_closed: Callable[[], None]


class Place(NamedTuple):
    """
    The position of a stack frame.

    Attributes:
        code: The code object of the function.
        line: The line number.
        module: The module's dotted name.

    """

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
    The watch on one loop.

    Unless the loop waits for events, each check schedules a callback. A loop that does not run the
    callback in time is blocked. A check costs one callback per period, whatever the loop receives.

    Attributes:
        clients: The clients that run on the loop.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clients: set[WatchedClient] = set()
        self._loop = loop
        self._thread = threading.get_ident()
        self._depth = _depth_of_task()  # of a callback's frame on the stack; None if unknown
        self._answered = True
        self._asked_at = 0.0
        self._has_reported = False

    def look(self, now: float, late: bool) -> None:
        """
        Check the loop, from the watch's thread.

        Args:
            now: Time of ``time.monotonic()``.
            late: Whether the process was suspended, so that the loop could not respond.

        """
        if self._answered:
            if not self._is_waiting():
                self._ask(now)
        elif late or not self._loop.is_running():
            self._asked_at = now
        elif not self._has_reported and now - self._asked_at >= PATIENCE:
            self._has_reported = True
            self._report(now - self._asked_at)

    def _is_waiting(self) -> bool:
        """Return whether the loop waits for events. An idle loop is not woken for a check."""
        frame = sys._current_frames().get(self._thread)
        code = None if frame is None else frame.f_code
        return code is not None and (code.co_filename, code.co_name) == SELECT

    def _ask(self, now: float) -> None:
        self._answered = self._has_reported = False
        self._asked_at = now
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._thread = threading.get_ident()
        self._depth = len(_places(sys._getframe()))
        self._answered = True

    def _report(self, seconds: float) -> None:
        places = self._callback(_places(sys._current_frames().get(self._thread)))
        is_debugged = any(place.package in DEBUGGERS for place in places)
        caller = next((place for place in places if place.is_users), None)
        if self._answered or is_debugged or caller is None:
            return
        all_clients = set(self.clients)  # other threads add and remove clients
        clients, place, handler = self._find_handler(places, all_clients) or (
            all_clients,
            caller,
            None,
        )
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
            write(log, "warning", "%s", text)

    def _callback(self, places: list[Place]) -> list[Place]:
        """Return the frames of the loop's callback, from the outermost on."""
        for number in range(len(places) - 1, -1, -1):
            code = places[number].code
            if (code.co_filename, code.co_name) == (events.__file__, "_run"):
                return places[number + 1 :]
        # A loop that is not written in Python, like uvloop, has no frames of its own.
        return [] if self._depth is None else places[self._depth - 1 :]

    def _find_handler(
        self, places: list[Place], all_clients: set[WatchedClient]
    ) -> tuple[set[WatchedClient], Place, Handler] | None:
        """Return the outermost handler in *places*, its frame and the clients that have it."""
        for place in places:
            found = {c: h for c in all_clients if (h := c.handlers.find(place.code)) is not None}
            if found:
                return set(found), place, next(iter(found.values()))
        return None


def _places(frame: FrameType | None) -> list[Place]:
    """Return the frames of a thread's stack, from the outermost on."""
    places: list[Place] = []
    while frame is not None:
        module = frame.f_globals.get("__name__")
        places.append(Place(frame.f_code, frame.f_lineno, str(module)))
        frame = frame.f_back
    return places[::-1]


def _depth_of_task() -> int | None:
    """Return how deep the running task is on the stack. ``None`` means that no task runs."""
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
    """The watched loops of this process, and the thread that checks them."""

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
                left = self._forget_closed_loops()
                watches = list(self._loops.values())
                if not watches:
                    self._thread = None
            _end(left)
            if not watches:
                return
            now = time.monotonic()
            for watch in watches:
                watch.look(now, late=now - looked_at > LATE)
            looked_at = now

    def _forget_closed_loops(self) -> list[WatchedClient]:
        """Remove closed loops, and return the clients that were not closed before them."""
        closed = [self._loops.pop(loop) for loop in list(self._loops) if loop.is_closed()]
        return [client for watch in closed for client in watch.clients]


def _end(clients: list[WatchedClient]) -> None:
    """End clients whose loop is closed. The list is emptied, so that the watch keeps none."""
    while clients:
        clients.pop().on_closed()


_watches = Watches()


def watch_loop(loop: asyncio.AbstractEventLoop, client: WatchedClient) -> None:
    """Warn about user code that blocks *loop*, until :func:`end_watch`. Call it on the loop."""
    _watches.add(loop, client)


def end_watch(loop: asyncio.AbstractEventLoop, client: WatchedClient) -> None:
    """End a watch, from any thread. Calling it again has no effect."""
    _watches.remove(loop, client)


def _renew() -> None:
    global _watches
    _watches = Watches()  # a forked child has none of the parent's loops


in_child(_renew)
