"""Identify the client and connection whose handler or hook is running here."""

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
    """Return the current task, or the thread if no event loop runs here."""
    if asyncio._get_running_loop() is None:
        return threading.get_ident()
    return asyncio.current_task()


class Handling:
    """
    The client whose handler is running here.

    ``close()`` inside a handler must not wait for that handler. Tasks and threads that a handler
    has started may wait, although they inherit its context.
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
        """Return the client. ``None`` means that no handler runs here."""
        found = self._variable.get()
        return found[0] if found is not None and found[1] == here() else None


handling = Handling()


class CalledFor(NamedTuple):
    """
    The hook that is running here.

    Attributes:
        owner: The client.
        connection: The connection that the hook was called for.
        is_login: Whether it is an ``on_connect`` hook.
        place: The hook's task or thread.

    """

    owner: object
    connection: object
    is_login: bool
    place: Place


_called_for: ContextVar[CalledFor | None] = ContextVar("datastream_called_for", default=None)


@contextmanager
def called_for(owner: object, connection: object, *, is_login: bool = False) -> Iterator[None]:
    """Mark the code within as a hook of *owner*, so that it sends over *connection* only."""
    token = _called_for.set(CalledFor(owner, connection, is_login, here()))
    try:
        yield
    finally:
        _called_for.reset(token)


def belongs_here(owner: object, connection: object) -> bool:
    """
    Return whether the caller may use *connection*.

    A hook that has outlived its own connection may not use a later one of the same client.
    """
    hook = _called_for.get()
    if hook is None or hook.connection is connection or hook.owner is not owner:
        return True
    # A task that the hook has started is independent, although it inherits the hook's context.
    if isinstance(hook.place, asyncio.Task):
        return hook.place is not here()
    return asyncio._get_running_loop() is None and hook.place != threading.get_ident()


def passes_gate(owner: object) -> bool:
    """Return whether the caller is an ``on_connect`` hook of *owner*, or was started by one."""
    hook = _called_for.get()
    return hook is not None and hook.owner is owner and hook.is_login
