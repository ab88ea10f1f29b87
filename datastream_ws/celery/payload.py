"""What a task is given of a message, and the ids of tasks; pure."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from typing import Any

from .. import Message

__all__ = ["argument_for", "shown", "task_id_for"]

NAMESPACE = uuid.UUID("6ee5b4d1-54a9-5e0c-8d0b-3c6f1b1f0c55")  # of our ids; never to change


def argument_for(message: Message) -> dict[str, Any]:
    """Return a message as JSON can carry it: a binary payload in base64, a key as a text."""
    data = message.data
    argument: dict[str, Any] = {
        "data": data,
        "route": message.route,
        "seq": message.seq,
        "connection": message.connection,
        "epoch": message.epoch,
        "received_at": message.received_at,
        "stream": message.stream,
    }
    if message.key is not None:  # a whole number is one in JSON, too
        argument["key"] = message.key if isinstance(message.key, int) else str(message.key)
    if isinstance(data, bytes):
        argument["data"] = base64.b64encode(data).decode("ascii")
        argument["binary"] = True
    return argument


def task_id_for(target: str, messages: Sequence[Message]) -> str:
    """
    Return the id of the task for these messages: the same whenever they are published again.

    Args:
        target: The task's name and queue, because one message may be forwarded to several.

    """
    first, last = messages[0], messages[-1]
    origin = f"{target}\n{first.stream}\n{first.epoch}:{first.seq}-{last.epoch}:{last.seq}"
    return str(uuid.uuid5(NAMESPACE, origin))


def shown(messages: Sequence[Message]) -> str:
    """Return what logs, events and Flower show in the place of the payload."""
    first, last = messages[0], messages[-1]
    numbers = f"#{first.seq}" if first is last else f"#{first.seq} to #{last.seq}"
    return f"({first.stream} {numbers},)"
