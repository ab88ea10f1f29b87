"""The sender of ``datastream-ws listen``, which sends each line of stdin as a message."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Self

from .. import Client, DataStreamError, NotConnectedError, SendTimeoutError, StateEvent
from ..embedding import escaped, said
from .editor import Cutter, Editor, Unsent
from .lines import Lines
from .screen import LONGEST, Screen

if sys.platform != "win32":
    import termios

__all__ = ["StandardInput"]

CHUNK = 2**16  # bytes
ALMOST_READY = 2.0  # seconds
IN_BACKGROUND = 0.5  # seconds between checks whether the process is in the foreground again


class StandardInput:
    """
    The sender of the lines of stdin. Its daemon thread never delays the exit.

    It reads the descriptor directly, because a thread in ``sys.stdin`` holds a lock that the
    interpreter needs at exit. The command continues after the end of stdin.
    """

    def __init__(self, client: Client, show: Screen | Lines) -> None:
        self._client = client
        self._show = show
        self._thread = threading.Thread(target=self._run, name="datastream stdin", daemon=True)
        self._begin = threading.Lock()
        self._keyboard: Keyboard | None = None
        self._is_terminal = False
        self._reader: Cutter | Editor | None = None
        self.sent = 0  # lines
        self._prepare()

    def _prepare(self) -> None:
        if sys.stdin is None or sys.stdin.closed:  # then descriptor 0 may be a socket
            return
        self._descriptor = sys.stdin.fileno()
        self._is_terminal = os.isatty(self._descriptor)
        if self._is_terminal and (sys.platform == "win32" or not has_keys(self._descriptor)):
            return
        self._reader = Cutter()
        if self._is_terminal and isinstance(self._show, Screen) and self._show.is_live:
            self._reader = Editor()
            self._keyboard = Keyboard(self._descriptor)
            self._show.typed = self._reader.tail
        self._client.on_state(self._start)

    def __enter__(self) -> Self:
        if self._keyboard is not None:
            self._keyboard.take()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._keyboard is not None:
            self._keyboard.give_back()

    def _start(self, event: StateEvent) -> None:
        """Start reading when the client has started."""
        if self._begin.acquire(blocking=False):
            self._thread.start()

    def _run(self) -> None:
        reader = self._reader
        assert reader is not None
        with suppress(NotConnectedError):  # the client closes
            while not reader.has_ended:
                lines = reader.feed(self._read())
                if isinstance(self._show, Screen):
                    self._show.refresh()
                for line in lines:
                    self._take(line)
        if isinstance(self._show, Screen):
            self._show.typed = None

    def _read(self) -> bytes:
        """Return the next bytes. Empty at the end."""
        try:
            while self._is_terminal:
                select.select([self._descriptor], [], [])
                if has_keys(self._descriptor):
                    break
                time.sleep(IN_BACKGROUND)  # a read in the background would stop this process
            return os.read(self._descriptor, CHUNK)
        except OSError as error:
            if not self._is_terminal:  # a closed terminal also raises OSError
                self._say("failed", f"stdin: {error.strerror}")
            return b""

    def _take(self, line: str | Unsent) -> None:
        if isinstance(line, Unsent):
            self._say("failed", f"{line.why}, not sent")
        elif self._is_terminal and not self._is_ready():
            self._say("failed", f"not connected, not sent: {shortly(line)}")
        else:
            self._send(line)

    def _is_ready(self) -> bool:
        """Return whether the client is ready, or becomes ready soon after "connected" is shown."""
        if not self._client.is_connected:
            return False
        try:
            self._client.wait_ready(ALMOST_READY)
        except (DataStreamError, OSError):  # TimeoutError is an OSError
            return False
        return True

    def _send(self, line: str) -> None:
        """Send *line*, with a pipe after waiting for a connection. Raises NotConnectedError."""
        while True:
            if not self._is_terminal:
                self._wait_ready()
            try:
                self._client.send(line)
            except (NotConnectedError, SendTimeoutError) as error:
                if not self._is_terminal:
                    continue
                self._say("failed", f"{said(error)} Not sent: {shortly(line)}")
                return
            self.sent += 1
            if isinstance(self._show, Screen):
                self._say("sent", f"> {shortly(line)}")
            return

    def _wait_ready(self) -> None:
        try:
            self._client.wait_ready()
        except (DataStreamError, OSError):  # the client failed or closes, which is already shown
            raise NotConnectedError from None

    def _say(self, topic: str, text: str) -> None:
        with suppress(OSError):
            self._show.event(topic, text)


class Keyboard:
    """
    A terminal that delivers single keys without echo, because the live line shows them.

    Keys that send signals, such as Ctrl-C, still do.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before: list[Any] | None = None
        self._previous: Any = None

    def take(self) -> None:
        """Set the modes now, and again after Ctrl-Z and ``fg``, because shells reset them."""
        self._before = termios.tcgetattr(self._descriptor)
        self._set_modes()
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGCONT, lambda number, frame: self._set_modes())

    def _set_modes(self) -> None:
        with suppress(termios.error, OSError):
            if has_keys(self._descriptor):
                modes = termios.tcgetattr(self._descriptor)
                modes[3] &= ~(termios.ICANON | termios.ECHO)
                modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
                termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)

    def give_back(self) -> None:
        """Restore the modes, unless the shell is in the foreground again."""
        if self._previous is not None:
            signal.signal(signal.SIGCONT, self._previous)
        with suppress(termios.error, OSError):
            if self._before is not None and has_keys(self._descriptor):
                termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)


def has_keys(descriptor: int) -> bool:
    """Return whether this process may use the terminal. A background process would be stopped."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not the controlling terminal, so this process is never stopped
        return True


def shortly(line: str) -> str:
    """Return *line* escaped and shortened."""
    cut = f"… ({len(line):,} characters)" if len(line) > LONGEST else ""
    return escaped(line[:LONGEST]) + cut
