"""Forks: what a child makes anew, locks first, and then the clients that it has inherited."""

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
    """A client, as the fork rule sees it."""

    def forget_parent(self) -> None:
        """In a forked child: become idle without touching the parent's objects."""
        ...


class Owner(weakref.ref[object]):
    """An object, for as long as it lives, and which of its methods is called."""

    __slots__ = ("function",)

    function: Callable[[Any], None]


class Callbacks:
    """Functions, and bound methods for as long as their objects live; called in this order."""

    def __init__(self) -> None:
        # By number: an object that compares by value could not be found again.
        self._found: dict[int, Callback | Owner] = {}

    def add(self, callback: Callback) -> None:
        if not isinstance(callback, MethodType):
            self._found[id(callback)] = callback
            return
        # Not a WeakMethod: that one's own callback complains at interpreter exit.
        owner = Owner(callback.__self__, self._forget)
        owner.function = callback.__func__
        self._found[id(owner)] = owner

    def _forget(self, owner: weakref.ref[object]) -> None:
        self._found.pop(id(owner), None)

    def call(self) -> None:
        """Call all of them, also where one raises: that is logged."""
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

# The parent's objects, kept alive in a child: their finalisers would touch what is shared.
_graveyard: list[Any] = []


def in_child(callback: Callback) -> None:
    """
    Have *callback* called in every forked child, before anything else of this package runs there.

    Use it for a lock that outlives calls, because a thread of the parent may hold it during the
    fork. A bound method is called as long as its object lives. The registry keeps no reference.
    """
    _renewals.add(callback)


def watch_forks(client: Forkable) -> None:
    """Have *client* told in forked children, after all of :func:`in_child`."""
    _clients.add(client.forget_parent)


def notice_fork() -> None:
    """Do what the hook does, where a fork in C (uWSGI's) has called no hook."""
    if _pid != os.getpid():
        _after_fork_in_child()


def _after_fork_in_child() -> None:
    global _pid
    _pid = os.getpid()  # first: what is called below may look for a fork, too
    _renewals.call()
    _clients.call()


def bury(remains: Any, descriptors: list[int]) -> None:
    """
    In a forked child: keep the parent's objects alive, and let go of its sockets.

    The descriptors are pointed at /dev/null.
    A plain close would free the numbers, and a later finaliser of the parent's objects would
    close whatever had been given one of them since.
    """
    _graveyard.append(remains)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in filter(lambda number: number >= 0, descriptors):
        with suppress(OSError):
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
