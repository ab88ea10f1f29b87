"""
Recordings of streams in files of JSON lines (UTF-8).

::

    {"recording": "datastream-ws", "version": 1, "url": "wss://api.example.com/stream", …}
    {"at": 0.118, "event": "connected"}
    {"at": 0.231, "text": "{\"type\":\"flag_update\",\"key\":\"dark-mode\",\"value\":true}"}
    {"at": 0.705, "binary": "AAECAw=="}
    {"at": 9.402, "event": "disconnected", "code": 1012, "reason": "restarting"}

``at`` is the number of seconds since the start. ``text`` is the payload of a text frame, and
``binary`` is the payload of a binary frame in base64. Each line is written with one call, so the
file stays readable if the process is killed. An incomplete last line is ignored.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .. import ConfigurationError, DisconnectEvent, Message
from .lines import one_line

__all__ = ["Moment", "Recorder", "moments"]

VERSION = 1
LATE_HOOK = 5.0  # seconds that a message waits for the event "connected" of its connection


@dataclass(frozen=True, slots=True)
class Moment:
    """
    A message or an event in a recording.

    Attributes:
        at: Seconds since the start of the recording.
        data: The payload of a message. ``None`` for an event.
        event: ``"connected"`` or ``"disconnected"``. It's empty for a message.
        code: The close code of a disconnection. It's 1006 if there was no close frame.
        reason: The close reason of a disconnection.

    """

    at: float
    data: str | bytes | None = None
    event: str = ""
    code: int = 1006
    reason: str = ""


class Recorder:
    """
    The writer of a recording. It's thread-safe.

    Messages and events arrive on different threads. To keep their order, an event is written just
    before the first message of a later connection, or at the end.

    Raises:
        ConfigurationError: If the file exists, because it is never overwritten.
        OSError: If the file can't be written.

    """

    def __init__(self, path: str, url: str) -> None:
        self.path = path
        self.messages = 0
        self._began = time.time()
        self._last = 0.0
        self._events: deque[tuple[int, dict[str, Any]]] = deque()
        self._told = threading.Condition()
        self._connections = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(path, flags, 0o600)  # payloads may contain secrets
        except FileExistsError:
            raise ConfigurationError(
                f"--record: {path} already exists. Remove it, or pass another file."
            ) from None
        self._size = 0
        started = datetime.fromtimestamp(self._began, UTC).isoformat(timespec="milliseconds")
        head = {"recording": "datastream-ws", "version": VERSION, "url": url, "started": started}
        try:
            self._write([head])
        except OSError:  # an empty file would only stop the next recording
            os.close(self._file)
            os.unlink(path)
            raise

    def connected(self) -> None:
        """Record that a connection was opened."""
        with self._told:
            self._connections += 1
            self._events.append((self._connections, self._event("connected")))
            self._told.notify_all()

    def disconnected(self, event: DisconnectEvent) -> None:
        """Record the end of a connection, unless the client closed it."""
        if event.error is None and not event.will_retry:
            return
        line = self._event("disconnected") | {"code": event.code}
        if event.reason:
            line["reason"] = event.reason
        with self._told:
            self._events.append((event.connection, line))

    def write(self, messages: Sequence[Message]) -> None:
        """Record *messages* of one or several connections."""
        lines: list[dict[str, Any]] = []
        for message in messages:
            with self._told:
                number = message.connection
                self._told.wait_for(lambda: self._connections >= number, LATE_HOOK)  # noqa: B023
                lines += self._events_before(number)
            self._last = max(self._last, message.received_at - self._began)
            lines.append({"at": round(self._last, 6)} | payload(message.data))
        self._write(lines)
        self.messages += len(messages)

    def close(self) -> None:
        """Write the remaining events, and close the file. Calling it again has no effect."""
        if self._file < 0:
            return
        with suppress(OSError), self._told:
            self._write([line for _, line in self._events])
        os.close(self._file)
        self._file = -1

    def _event(self, name: str) -> dict[str, Any]:
        return {"at": round(time.time() - self._began, 6), "event": name}

    def _events_before(self, connection: int) -> Iterator[dict[str, Any]]:
        """Yield the events that precede the messages of *connection*."""
        while self._events and (
            self._events[0][0] < connection
            or (self._events[0][0] == connection and self._events[0][1]["event"] == "connected")
        ):
            line = self._events.popleft()[1]
            self._last = max(self._last, line["at"])
            yield line | {"at": round(self._last, 6)}

    def _write(self, lines: list[dict[str, Any]]) -> None:
        """Write lines. If the disk is full, remove the incomplete line."""
        if not lines:
            return
        data = memoryview("".join(one_line(line) + "\n" for line in lines).encode())
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            whole = bytes(data[:written]).rfind(b"\n") + 1
            with suppress(OSError):
                os.ftruncate(self._file, self._size + whole)
            self._size += whole
            raise
        self._size += len(data)


def payload(data: str | bytes) -> dict[str, str]:
    """Return a payload in the form of a recording."""
    if isinstance(data, str):
        return {"text": data}
    return {"binary": base64.b64encode(data).decode()}


def moments(path: str) -> Iterator[Moment]:
    """
    Yield the messages and events of a recording, line by line.

    Raises:
        OSError: If the file can't be read.
        ConfigurationError: If it isn't a recording, or a line of it is invalid.

    """
    with open(path, "rb") as file:
        _check_head(path, file.readline())
        for number, line in enumerate(file, start=2):
            if not line.endswith(b"\n"):
                return  # incomplete, because the recorder was killed
            try:
                yield _moment(json.loads(line))
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                raise ConfigurationError(
                    f"{path}: line {number} is not a valid line of a recording"
                ) from None


def _check_head(path: str, line: bytes) -> None:
    try:
        head = json.loads(line)
        good = head["recording"] == "datastream-ws"
        version = int(head["version"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        good, version = False, 0
    if not good:
        raise ConfigurationError(
            f"{path}: is not a recording. Make one with `listen URL --record FILE`."
        )
    if version > VERSION:
        raise ConfigurationError(f"{path}: was recorded by a newer version. Upgrade datastream-ws.")


def _moment(line: dict[str, Any]) -> Moment:
    at = float(line["at"])
    if not 0 <= at < 1e9:
        raise ValueError
    if "text" in line:
        return Moment(at, str(line["text"]))
    if "binary" in line:
        return Moment(at, base64.b64decode(line["binary"], validate=True))
    if line["event"] not in ("connected", "disconnected"):
        raise ValueError
    return Moment(at, None, line["event"], int(line.get("code", 1006)), str(line.get("reason", "")))
