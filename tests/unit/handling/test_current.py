"""Whose handler runs here, and for which connection: in its task or thread, and what it starts."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from datastream_ws.handling.current import belongs_here, called_for, handling, passes_gate

OWNER, OTHER = "client", "another client"
OLD, NEW = "connection 1", "connection 2"


@contextmanager
def handled_by(owner: object) -> Iterator[None]:
    token = handling.set(owner)
    try:
        yield
    finally:
        handling.reset(token)


def in_thread(function: Callable[[], Any], *, with_context: bool = True) -> Any:
    """Call it in another thread, with this one's context as executors do."""
    found: list[Any] = []
    context = contextvars.copy_context() if with_context else contextvars.Context()
    thread = threading.Thread(target=lambda: found.append(context.run(function)))
    thread.start()
    thread.join()
    return found[0]


# --- handlers ---


def test_in_a_thread() -> None:
    assert handling.get() is None
    with handled_by(OWNER):
        assert handling.get() is OWNER
        with handled_by(OTHER):  # one client's handler delivers to another
            assert handling.get() is OTHER
        assert handling.get() is OWNER
    assert handling.get() is None


def test_what_a_handler_starts_lives_on_its_own() -> None:
    """Threads and tasks: they may wait for the end of the client."""
    with handled_by(OWNER):
        assert in_thread(handling.get) is None

    async def handler() -> None:
        with handled_by(OWNER):

            async def task() -> object:
                return handling.get()

            assert await task() is OWNER
            assert await asyncio.create_task(task()) is None
            assert await asyncio.to_thread(handling.get) is None

    asyncio.run(handler())


# --- hooks ---


def test_whoever_runs_outside_a_hook_may_use_any_connection() -> None:
    assert belongs_here(OWNER, NEW)
    assert not passes_gate(OWNER)


def test_a_hook_belongs_to_its_connection() -> None:
    with called_for(OWNER, OLD, is_login=True):
        assert belongs_here(OWNER, OLD)
        assert not belongs_here(OWNER, NEW)
        assert belongs_here(OTHER, NEW)  # another client is none of its business
        assert passes_gate(OWNER)
        assert not passes_gate(OTHER)
    with called_for(OWNER, OLD):
        assert not passes_gate(OWNER)


def test_what_a_hook_starts_is_free() -> None:
    with called_for(OWNER, OLD, is_login=True):
        assert in_thread(lambda: belongs_here(OWNER, NEW))
        assert in_thread(lambda: passes_gate(OWNER))  # but part of the login
        assert not in_thread(lambda: passes_gate(OWNER), with_context=False)

    async def hook() -> None:
        with called_for(OWNER, OLD):

            async def task() -> bool:
                return belongs_here(OWNER, NEW)

            assert not await task()
            assert await asyncio.create_task(task())

    asyncio.run(hook())


def test_what_a_plain_hook_has_awaited_is_still_the_hook() -> None:
    """On a loop of its own, or on the client's, as the verbs of a Client are."""

    async def inside() -> bool:
        return belongs_here(OWNER, NEW)

    with called_for(OWNER, OLD):
        assert not asyncio.run(inside())
