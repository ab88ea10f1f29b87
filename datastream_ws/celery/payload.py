"""The id and the representation of a task."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from .. import Message

__all__ = ["shown", "task_id_for"]

NAMESPACE = uuid.UUID("6ee5b4d1-54a9-5e0c-8d0b-3c6f1b1f0c55")  # of the task ids; never change it


def task_id_for(target: str, messages: Sequence[Message]) -> str:
    """
    Return the id of the task for these messages. It's the same if they are published again.

    Args:
        target: The name and queue of the task, because a message can be forwarded to several.
        messages: The messages of the task.

    """
    first, last = messages[0], messages[-1]
    origin = f"{target}\n{first.stream}\n{first.epoch}:{first.seq}-{last.epoch}:{last.seq}"
    return str(uuid.uuid5(NAMESPACE, origin))


def shown(messages: Sequence[Message]) -> str:
    """Return the text that logs, events and Flower show instead of the payload."""
    first, last = messages[0], messages[-1]
    numbers = f"#{first.seq}" if first is last else f"#{first.seq} to #{last.seq}"
    return f"({first.stream} {numbers},)"
