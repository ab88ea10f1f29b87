"""Whose handler runs here, and for which connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

__all__ = ["belongs_here", "called_for", "handling", "passes_gate"]

Place = asyncio.Task[Any] | int | None


def here() -> Place:
    """Return the task at work, or the thread; what a handler starts is another one."""
    if asyncio._get_running_loop() is None:
        return threading.get_ident()
    return asyncio.current_task()


class Handling:
    """
    The client whose handler is running here; a ``close()`` in there must not wait for itself.

    Tasks and threads that a handler has started live on their own: they may wait for the end.
    """

    def __init__(self) -> None:
        self._variable: ContextVar[tuple[object, Place] | None] = ContextVar(
            "datastream_handling", default=None
        )

    def set(self, owner: object) -> Token[tuple[object, Place] | None]:
        return self._variable.set((owner, here()))

    def reset(self, token: Token[tuple[object, Place] | None]) -> None:
        self._variable.reset(token)

    def get(self) -> object:
        """Return the client; ``None`` where no handler runs."""
        found = self._variable.get()
        return found[0] if found is not None and found[1] == here() else None


handling = Handling()


class CalledFor(NamedTuple):
    """The client whose hook runs here, the connection, and the task or thread as *place*."""

    owner: object
    connection: object
    is_login: bool
    place: Place


_called_for: ContextVar[CalledFor | None] = ContextVar("datastream_called_for", default=None)


@contextmanager
def called_for(owner: object, connection: object, *, is_login: bool = False) -> Iterator[None]:
    """A hook of *owner* runs here; what it sends belongs to *connection*."""
    token = _called_for.set(CalledFor(owner, connection, is_login, here()))
    try:
        yield
    finally:
        _called_for.reset(token)


def belongs_here(owner: object, connection: object) -> bool:
    """Tell whether *connection* may be used here: not by a hook that outlived an earlier one."""
    hook = _called_for.get()
    if hook is None or hook.connection is connection or hook.owner is not owner:
        return True
    # What a hook has started lives on its own, though a task has the hook's context.
    if isinstance(hook.place, asyncio.Task):
        return hook.place is not here()
    return asyncio._get_running_loop() is None and hook.place != threading.get_ident()


def passes_gate(owner: object) -> bool:
    """Tell whether this is the login: an ``on_connect`` hook of *owner*, or what it has started."""
    hook = _called_for.get()
    return hook is not None and hook.owner is owner and hook.is_login
