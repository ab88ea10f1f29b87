"""What a pipe is given: a JSON line for each message on stdout, words on stderr."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

from .. import Message

__all__ = ["Lines", "json_line", "one_line", "write_all"]

# What may stand in JSON as it is, but drives a terminal or ends a line somewhere: DEL, C1 controls,
# separators, directions of writing. Outside of strings there is none of it.
UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
BETWEEN_TOKENS = str.maketrans("\r\n\t", "   ")


def one_line(obj: Any) -> str:
    """Return *obj* as JSON that is one line, and harmless on a terminal."""
    return UNSAFE.sub(_code, json.dumps(obj, ensure_ascii=False, separators=(",", ":")))


def _code(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def json_line(message: Message) -> str:
    """
    Return a message as one line of JSON.

    ``data`` is the payload itself where that is JSON, digit for digit as it came; else a string,
    of base64 for a binary message (then with ``"binary": true``).
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
    """Whether *text* is JSON as RFC 8259 has it: without NaN and Infinity."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def write_all(descriptor: int, data: bytes) -> None:
    """
    Write *data*, unbuffered. Raises OSError.

    A handler thread may be stuck here when the process has to end: sys.stdout would hold a lock
    then that the interpreter wants at exit.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Lines:
    """
    Shows a stream to a program; see :class:`Screen` for people.

    Args:
        command: What words on stderr begin with.
        on_reader_gone: Called, on a thread, once nobody reads stdout any more.

    """

    def __init__(self, command: str, on_reader_gone: Callable[[], None]) -> None:
        self._command = command
        self._on_reader_gone = on_reader_gone
        self._stdout = sys.stdout.fileno()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="datastream stdout", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def messages(self, messages: Sequence[Message]) -> None:
        """Print *messages*; raises OSError, BrokenPipeError once nobody reads any more."""
        write_all(self._stdout, "".join(json_line(message) + "\n" for message in messages).encode())

    def event(self, topic: str, text: str) -> None:
        """Say something that is no message."""
        print(f"{self._command}: {text}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        """Wait for the reader to leave: `| head` on a stream that is silent now would wait."""
        if not hasattr(select, "poll"):
            return
        poll = select.poll()
        poll.register(self._stdout, 0)  # POLLERR and POLLHUP are told in any case
        if any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll()):
            self._on_reader_gone()
