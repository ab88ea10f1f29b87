"""
Clean-up of database connections in the threads of handlers.

Django closes broken and old connections before and after each HTTP request. This module does the
same before and after each run of messages (at most 100 messages or 50 ms). A connection inside an
atomic block stays open, and that includes the transaction of a test.
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
from django.db import InterfaceError, OperationalError, connections, reset_queries, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from datastream_ws.embedding import is_handler_thread

__all__ = [
    "NAME_LENGTH",
    "Hygiene",
    "clean_connections",
    "is_passing",
    "moment",
    "non_atomic",
    "with_clean_connections",
]

NAME_LENGTH = 200  # length of the models' name columns, in characters

# Classes of SQLSTATE: connection exception, operator intervention (server shutdown).
LOST_STATES = ("08", "57P")
# MySQL's numbers for a lost connection.
LOST_NUMBERS = (2006, 2013, 2055)
# Serialization failure and deadlock, then MySQL's lock wait timeout and deadlock.
CONFLICT_STATES = ("40001", "40P01")
CONFLICT_NUMBERS = (1205, 1213)


def clean_connections() -> None:
    """Close this thread's connections that are broken or too old, outside atomic blocks."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def close_in_memory() -> None:
    """
    Close this thread's connections to SQLite databases in memory, which ``close()`` leaves open.

    Only the package's own threads call it. The test's thread keeps its connection and the data.
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
    Return whether a retry on a new connection may succeed. This is the default RETRY_MESSAGE.

    True for a lost database connection, and for a conflict with another transaction (a deadlock or
    a locked SQLite file). The message is retried once.
    """
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    cause = error.__cause__ or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is not None:
        return str(state).startswith((*LOST_STATES, *CONFLICT_STATES))
    if type(cause).__module__.startswith("psycopg"):
        return True  # the server did not send this error, so the connection is broken
    if isinstance(cause, sqlite3.Error):
        return SqliteLocks.has_met(cause)
    if error.args and error.args[0] in (*LOST_NUMBERS, *CONFLICT_NUMBERS):
        return True
    return _has_broken_connection()


class SqliteLocks:
    """
    Changes how transactions begin in SQLite, once a handler has failed because of a locked file.

    A transaction that reads before it writes fails if another one writes in between. A timeout
    doesn't help, because SQLite doesn't wait if that could cause a deadlock. A transaction that
    takes the write lock as it begins waits for its turn. ``transaction_mode`` in DATABASES does
    the same permanently.
    Source: https://sqlite.org/lang_transaction.html
    """

    met = False

    @classmethod
    def has_met(cls, error: sqlite3.Error) -> bool:
        """Return whether *error* is about a lock. If so, later runs take the lock first."""
        locked = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        cls.met = cls.met or locked
        return locked

    @staticmethod
    def take_first() -> None:
        """Make this thread's SQLite transactions take the write lock as they begin."""
        for connection in connections.all(initialized_only=True):
            if connection.vendor == "sqlite" and not connection.in_atomic_block:
                with suppress(OperationalError):  # the handler will fail with it
                    connection.ensure_connection()
                if getattr(connection, "transaction_mode", None) is None:  # set at each connect
                    setattr(connection, "transaction_mode", "IMMEDIATE")  # noqa: B010  # no stub has it


def non_atomic(view: Callable[..., Any]) -> Callable[..., Any]:
    """Exclude a view from the transactions of ``ATOMIC_REQUESTS`` in all databases."""
    for alias in connections.settings:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def _has_broken_connection() -> bool:
    """Return whether a connection of this thread is broken."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "sqlite":
            continue
        if connection.connection is None:
            return True  # it could not be opened, or atomic() closed it
        if connection.errors_occurred and not connection.is_usable():
            return True
    return False


class Hygiene:
    """
    Connection clean-up around each run of a stream's messages, passed to ``use(…, per="run")``.

    It runs in the thread of a synchronous handler. For coroutine handlers, which use the async ORM,
    it runs in a thread of asgiref. Each stream has its own thread for this, so that streams don't
    wait for each other or for the views of an ASGI server. The first async query starts the thread.
    """

    def __init__(self) -> None:
        self._context = ThreadSensitiveContext()
        self._pid = os.getpid()

    def run(self) -> ConnectionsRun:
        """Return the context manager for one run."""
        return ConnectionsRun(self)

    @property
    def context(self) -> ThreadSensitiveContext:
        if self._pid != os.getpid():  # after a fork, the thread only exists in the parent
            self._pid = os.getpid()
            self._context = ThreadSensitiveContext()
        return self._context

    @property
    def executor(self) -> Executor | None:
        """The thread of the async ORM. ``None`` before its first use."""
        return SyncToAsync.context_to_thread_executor.get(self.context)

    def close(self) -> None:
        """End the async ORM's thread and close its connections, because the stream has ended."""
        executor = SyncToAsync.context_to_thread_executor.pop(self.context, None)
        if executor is not None:
            closing = executor.submit(close_all)
            executor.shutdown(wait=False)
            with suppress(TimeoutError):  # a query hangs
                closing.result(1.0)


class ConnectionsRun:
    """The context of one run: synchronous handlers use ``with``, coroutines ``async with``."""

    __slots__ = ("_hygiene", "_token")

    def __init__(self, hygiene: Hygiene) -> None:
        self._hygiene = hygiene
        self._token: Token[Any] | None = None

    def __enter__(self) -> None:
        begin_run()

    def __exit__(self, *exception: object) -> None:
        clean_connections()
        if is_handler_thread():  # deliver() runs in the test's thread instead
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
    """Wrap a synchronous or coroutine *function*, so that :class:`Hygiene` surrounds each call."""
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
    """Convert a UNIX time for the models: an aware time, or local time without USE_TZ."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC) if settings.USE_TZ else datetime.fromtimestamp(at)
