"""Forks. A child process first replaces its locks, and then resets the clients it inherited."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import Any, Protocol

__all__ = ["bury", "in_child", "notice_fork", "watch_forks"]

Callback = Callable[[], None]


class Forkable(Protocol):
    """A client that can be reset in a forked child."""

    def _forget_parent(self) -> None:
        """Become idle in a forked child, without touching the parent's objects."""
        ...


class Owner(weakref.ref[object]):
    """A weak reference to an object, with the method to call on it."""

    __slots__ = ("function",)

    function: Callable[[Any], None]


class Callbacks:
    """
    Functions and bound methods, called in the order in which they were added.

    A bound method is removed when its object is garbage-collected.
    """

    def __init__(self) -> None:
        # The key is the id, because two objects may compare equal.
        self._found: dict[int, Callback | Owner] = {}

    def add(self, callback: Callback) -> None:
        if not isinstance(callback, MethodType):
            self._found[id(callback)] = callback
            return
        # Not a WeakMethod, because its callback prints an error at interpreter exit.
        owner = Owner(callback.__self__, self._forget)
        owner.function = callback.__func__
        self._found[id(owner)] = owner

    def _forget(self, owner: weakref.ref[object]) -> None:
        self._found.pop(id(owner), None)

    def call(self) -> None:
        """Call all callbacks. An exception is logged, and the others are still called."""
        for found in list(self._found.values()):
            callback = _bound(found) if isinstance(found, Owner) else found
            if callback is not None:
                try:
                    callback()
                except Exception:
                    logging.getLogger("datastream_ws").exception("after a fork: %r", callback)


def _bound(owner: Owner) -> Callback | None:
    living = owner()
    return None if living is None else MethodType(owner.function, living)


_renewals = Callbacks()
_clients = Callbacks()
_pid = os.getpid()

# The parent's objects. A child keeps them, because their finalizers would touch shared sockets.
_graveyard: list[Any] = []


def in_child(callback: Callback) -> None:
    """
    Call *callback* in every forked child, before anything else of this package runs there.

    Use it for a lock that outlives calls, because a thread of the parent may hold it during the
    fork. A bound method is called as long as its object lives. The registry keeps no reference.
    """
    _renewals.add(callback)


def watch_forks(client: Forkable) -> None:
    """Reset *client* in forked children, after all callbacks of :func:`in_child`."""
    _clients.add(client._forget_parent)


def notice_fork() -> None:
    """Run the callbacks if this is a child of a fork in C, as in uWSGI, which calls no hook."""
    if _pid != os.getpid():
        _after_fork_in_child()


def _after_fork_in_child() -> None:
    global _pid
    _pid = os.getpid()  # set first, because the callbacks may call notice_fork()
    _renewals.call()
    _clients.call()


def bury(remains: Any, descriptors: list[int]) -> None:
    """
    Keep the parent's objects alive in a forked child, and release its sockets.

    The descriptors then refer to /dev/null. If they were closed, the system would reuse their
    numbers, and a finalizer of the parent's objects could close an unrelated file.
    """
    _graveyard.append(remains)
    descriptors = [each for each in descriptors if each >= 0]
    if not descriptors:
        return
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        with suppress(OSError):
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
