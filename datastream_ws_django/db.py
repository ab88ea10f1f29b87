"""
Database connections of handlers: cleaned around each run of messages, in the thread that used them.

What Django does around an HTTP request is done here around a run (at most 100 messages, or
50 ms): connections that are too old or broken are closed, but never one inside an atomic block,
which a test's transaction is too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Token
from datetime import UTC, datetime
from functools import wraps
from typing import Any, overload

from asgiref.sync import (
    SyncToAsync,
    ThreadSensitiveContext,
    iscoroutinefunction,
    sync_to_async,
)
from django.conf import settings
from django.db import InterfaceError, OperationalError, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper

from datastream_ws.embedding import is_handler_thread

__all__ = [
    "NAME_LENGTH",
    "Hygiene",
    "clean_connections",
    "is_passing",
    "moment",
    "with_clean_connections",
]

NAME_LENGTH = 200  # characters that the models' columns of names have room for

# Classes of SQLSTATE: connection exception, operator intervention (the server went down).
LOST_STATES = ("08", "57P")
# MySQL: server has gone away; lost connection during query, at reading.
LOST_NUMBERS = (2006, 2013, 2055)
# Somebody else's transaction won: serialization failure, deadlock; MySQL: lock wait, deadlock.
CONFLICT_STATES = ("40001", "40P01")
CONFLICT_NUMBERS = (1205, 1213)


def clean_connections() -> None:
    """Close this thread's connections that are broken or too old, outside atomic blocks."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def close_in_memory() -> None:
    """
    Close this thread's connections to SQLite in memory, as a test's is; their close() does not.

    Only in threads of our own. Whoever made the database, the test's thread, keeps the data.
    """
    connection: Any
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            BaseDatabaseWrapper.close(connection)


def close_all() -> None:
    connections.close_all()
    close_in_memory()


def begin_run() -> None:
    reset_queries()
    clean_connections()
    if SqliteLocks.met:
        SqliteLocks.take_first()


def is_passing(error: BaseException) -> bool:
    """
    Whether a handler failed over what is over by now: the default RETRY_MESSAGE.

    That is a database connection that was gone, or another transaction that came first (a
    deadlock, a locked SQLite file). The message is handled once more, on a new connection.
    """
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    cause = error.__cause__ or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is not None:
        return str(state).startswith((*LOST_STATES, *CONFLICT_STATES))
    if type(cause).__module__.startswith("psycopg"):
        return True  # what the server itself says has a state
    if isinstance(cause, sqlite3.Error):
        return SqliteLocks.has_met(cause)
    if error.args and error.args[0] in (*LOST_NUMBERS, *CONFLICT_NUMBERS):
        return True
    return _has_broken_connection()


class SqliteLocks:
    """
    What to do about a locked SQLite file, once a handler has met one.

    A transaction that reads before it writes fails at once when another writes meanwhile; no
    timeout helps, for SQLite does not wait where that could be a deadlock. One that is the writer
    from its beginning waits for its turn. ``transaction_mode`` in DATABASES does the same for good.
    Source: https://sqlite.org/lang_transaction.html
    """

    met = False

    @classmethod
    def has_met(cls, error: sqlite3.Error) -> bool:
        """Whether *error* is about a lock; if so, runs begin differently from now on."""
        locked = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        cls.met = cls.met or locked
        return locked

    @staticmethod
    def take_first() -> None:
        """Have this thread's SQLite transactions take the lock as they begin."""
        for connection in connections.all(initialized_only=True):
            if connection.vendor == "sqlite" and not connection.in_atomic_block:
                with suppress(OperationalError):  # the handler will meet it
                    connection.ensure_connection()
                if getattr(connection, "transaction_mode", None) is None:  # set at each connect
                    setattr(connection, "transaction_mode", "IMMEDIATE")  # noqa: B010  # no stub has it


def _has_broken_connection() -> bool:
    """Whether an operation failed on a connection of this thread that does not work any more."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "sqlite":
            continue
        if connection.connection is None:
            return True  # it could not be opened, or atomic() has closed it
        if connection.errors_occurred and not connection.is_usable():
            return True
    return False


class Hygiene:
    """
    Clean-up around a run of one stream's messages: an argument of ``use(…, per="run")``.

    Plain handlers: in their thread. Coroutine handlers: the async ORM works in a thread that
    asgiref keeps for us; each stream has one of its own, so that streams do not wait for each
    other, or for the views of an ASGI server. A stream that never used it pays nothing.
    """

    def __init__(self) -> None:
        self._context = ThreadSensitiveContext()
        self._pid = os.getpid()

    def run(self) -> ConnectionsRun:
        """Return the context manager for one run."""
        return ConnectionsRun(self)

    @property
    def context(self) -> ThreadSensitiveContext:
        if self._pid != os.getpid():  # after a fork: the thread is the parent's
            self._pid = os.getpid()
            self._context = ThreadSensitiveContext()
        return self._context

    @property
    def executor(self) -> Executor | None:
        """The async ORM's thread, once it was used."""
        return SyncToAsync.context_to_thread_executor.get(self.context)

    def close(self) -> None:
        """The stream has ended: end the async ORM's thread and its connections."""
        executor = SyncToAsync.context_to_thread_executor.pop(self.context, None)
        if executor is not None:
            closing = executor.submit(close_all)
            executor.shutdown(wait=False)
            with suppress(TimeoutError):  # somebody's query hangs
                closing.result(1.0)


class ConnectionsRun:
    """One run; entered by plain handlers' threads, and asynchronously around coroutine handlers."""

    __slots__ = ("_hygiene", "_token")

    def __init__(self, hygiene: Hygiene) -> None:
        self._hygiene = hygiene
        self._token: Token[Any] | None = None

    def __enter__(self) -> None:
        begin_run()

    def __exit__(self, *exception: object) -> None:
        clean_connections()
        if is_handler_thread():  # not in deliver(), which works in the test's own
            close_in_memory()

    async def __aenter__(self) -> None:
        self._token = SyncToAsync.thread_sensitive_context.set(self._hygiene.context)
        if self._hygiene.executor is not None:
            await sync_to_async(begin_run)()

    async def __aexit__(self, *exception: object) -> None:
        if self._hygiene.executor is not None:
            await sync_to_async(clean_connections)()
        if self._token is not None:
            SyncToAsync.thread_sensitive_context.reset(self._token)


def with_clean_connections(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return *function*, plain or coroutine, with :class:`Hygiene` around each call."""
    hygiene = Hygiene()
    if iscoroutinefunction(function):

        @wraps(function)
        async def awaited() -> Any:
            async with hygiene.run():
                return await function()

        return awaited

    @wraps(function)
    def called() -> Any:
        with hygiene.run():
            return function()

    return called


@overload
def moment(at: float) -> datetime: ...
@overload
def moment(at: None) -> None: ...
def moment(at: float | None) -> datetime | None:
    """Return a UNIX time as the project's models store it: aware, or local where USE_TZ is off."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC) if settings.USE_TZ else datetime.fromtimestamp(at)
