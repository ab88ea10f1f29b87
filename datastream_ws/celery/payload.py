"""What a task is given of a message, and the ids of tasks; pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from .. import Message
from ..embedding import argument_for

__all__ = ["argument_for", "shown", "task_id_for"]

NAMESPACE = uuid.UUID("6ee5b4d1-54a9-5e0c-8d0b-3c6f1b1f0c55")  # of our ids; never to change


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
