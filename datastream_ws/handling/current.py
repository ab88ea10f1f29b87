"""Whose handler runs here, and for which connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["belongs_here", "called_for", "handling"]


# The client whose handler is running here; a close() in there must not wait for itself.
handling: ContextVar[object] = ContextVar("datastream_handling", default=None)


class CalledFor(NamedTuple):
    """Whose hook runs here, for which connection; *task*: of a coroutine hook."""

    owner: object
    connection: object
    task: asyncio.Task[Any] | None


_called_for: ContextVar[CalledFor | None] = ContextVar("datastream_called_for", default=None)


@contextmanager
def called_for(owner: object, connection: object | None) -> Iterator[None]:
    """A hook of *owner* runs here; what it sends belongs to *connection* (``None``: to any)."""
    if connection is None:
        yield
        return
    token = _called_for.set(CalledFor(owner, connection, _current_task()))
    try:
        yield
    finally:
        _called_for.reset(token)


def belongs_here(owner: object, connection: object) -> bool:
    """Tell whether *connection* may be used here: not by a hook that outlived an earlier one."""
    hook = _called_for.get()
    if hook is None or hook.connection is connection or hook.owner is not owner:
        return True
    # A task that a coroutine hook has started lives on its own, though it has the hook's context.
    return hook.task is not None and hook.task is not _current_task()


def _current_task() -> asyncio.Task[Any] | None:
    return None if asyncio._get_running_loop() is None else asyncio.current_task()
