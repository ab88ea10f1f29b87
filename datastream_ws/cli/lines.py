"""The output for a pipe, with messages as JSON lines on stdout and events on stderr."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

from .. import Message

__all__ = ["Lines", "json_line", "one_line", "write_all"]

# Characters that JSON allows in strings, but that control a terminal or end a line. These are DEL,
# C1 controls, line separators and marks for the direction of text.
UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
BETWEEN_TOKENS = str.maketrans("\r\n\t", "   ")


def one_line(obj: Any) -> str:
    """Return *obj* as one line of JSON that is safe on a terminal."""
    return UNSAFE.sub(_code, json.dumps(obj, ensure_ascii=False, separators=(",", ":")))


def _code(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def json_line(message: Message) -> str:
    """
    Return a message as one line of JSON.

    If the payload is JSON, ``data`` is the unchanged payload. Otherwise it's a string. For a binary
    message it's in base64, and ``"binary": true`` is added.
    """
    head = {
        "received_at": round(message.received_at, 6),
        "connection": message.connection,
        "seq": message.seq,
    }
    data = message.data
    if isinstance(data, bytes):
        return one_line(head | {"binary": True, "data": base64.b64encode(data).decode()})
    if not is_json(data):
        return one_line(head | {"data": data})
    inner = UNSAFE.sub(_code, data.translate(BETWEEN_TOKENS).strip())
    return f'{one_line(head)[:-1]},"data":{inner}}}'


def is_json(text: str) -> bool:
    """Return whether *text* is JSON as in RFC 8259, without NaN and Infinity."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def write_all(descriptor: int, data: bytes) -> None:
    """
    Write *data* without a buffer. Raises OSError.

    A handler thread may block here when the process exits. If it used sys.stdout, it would hold a
    lock that the interpreter needs at exit.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Lines:
    """
    Prints the messages of a stream for another program. :class:`Screen` prints them on a terminal.

    Args:
        command: The prefix of lines on stderr.
        on_reader_gone: A function that is called on a thread when the reader of stdout has exited.

    """

    def __init__(self, command: str, on_reader_gone: Callable[[], None]) -> None:
        self._command = command
        self._on_reader_gone = on_reader_gone
        self._stdout = sys.stdout.fileno()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="datastream stdout", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None: ...

    def messages(self, messages: Sequence[Message]) -> None:
        """Print *messages*. Raises OSError, or BrokenPipeError if the reader has exited."""
        write_all(self._stdout, "".join(json_line(message) + "\n" for message in messages).encode())

    def event(self, topic: str, text: str) -> None:
        """Print an event on stderr."""
        print(f"{self._command}: {text}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        """Wait until the reader exits. Otherwise `| head` would hang on a quiet stream."""
        if not hasattr(select, "poll"):
            return
        poll = select.poll()
        poll.register(self._stdout, 0)  # POLLERR and POLLHUP are always reported
        if any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll()):
            self._on_reader_gone()
