"""Enqueue messages as tasks of Django's Tasks framework (Django 6.0 or later)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import django
from django.db import InterfaceError, OperationalError

from datastream_ws import ConfigurationError, Message, Postponed
from datastream_ws.embedding import argument_for, check_function, fields, peer_text, said

# Celery imports the module "tasks" of every app, so an older Django must not fail here.
if django.VERSION >= (6, 0):
    from django.tasks import Task

__all__ = ["forward"]

RETRY_SECONDS = 1.0
AWAY = (OperationalError, InterfaceError, OSError)  # errors that may be temporary

log = logging.getLogger("datastream_ws")


def forward(
    stream: Any,
    task: Task[..., Any],
    route: str | None = None,
    batch: tuple[int, float] | None = None,
) -> None:
    """
    Enqueue each message of a stream as a task of Django's Tasks framework.

    The task receives one argument, a dict. Its keys are ``data``, ``route``, ``seq``,
    ``connection``, ``epoch``, ``received_at`` and ``stream``, and ``key`` in a fleet. A binary
    message has ``"binary": True``, and its ``data`` is base64. With *batch*, the task receives a
    list of such dicts. To choose a queue, pass ``ingest.using(queue_name="ticks")``.

    The guarantees depend on the backend of ``TASKS``:

    - A backend that stores tasks in the database, such as ``django-tasks-db``, delivers in
      order of arrival. If the stream has ``SPOOL`` and ``JOURNAL``, it delivers at least once,
      because a killed process enqueues its last messages again after the restart. Without a spool,
      a killed process loses the messages in its memory. While the database is unavailable,
      messages wait, and enqueueing is retried every second.
    - The immediate backend runs the task in the stream's handler thread. If the task raises an
      exception, Django logs it and the message counts as handled. Use it in development and tests.

    A task that is enqueued twice has the same ``stream``, ``epoch`` and ``seq``.

    You can call it at any time. The messages are enqueued on handler threads, or within the
    transaction of the option ``ATOMIC``.

    Args:
        stream: ``datastream``, or ``datastreams[alias]``.
        task: A function with Django's decorator ``@task``.
        route: Only messages with this route. ``None`` means every message.
        batch: The largest number of messages in a task, and the longest time that the first one
            waits for more, in seconds. ``None`` means a task for each message.

    Raises:
        ImportError: If Django is older than 6.0.
        ConfigurationError: If *task* isn't a task, or can't be called with one argument, or if
            *route* or *batch* has the wrong form.

    """
    _refuse_older_django()
    forwarder = Forwarder(stream, task, batch is not None)
    if route is not None and not isinstance(route, str):
        raise ConfigurationError("forward: the route must be a string")
    if batch is None:
        stream.on_message(route)(forwarder)
    else:
        stream.on_batch(*_checked(batch), route=route)(forwarder)


def _refuse_older_django() -> None:
    if django.VERSION < (6, 0):
        raise ImportError(
            f"Django's Tasks come with Django 6.0, and this is Django {django.__version__}. "
            "Upgrade with pip install 'Django>=6.0', which needs Python 3.12 or later, or use "
            "datastream_ws.celery.forward."
        )


def _checked(batch: Any) -> tuple[int, float]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ConfigurationError(
            "forward: batch must be (most messages, longest wait in seconds), such as (100, 0.2)"
        )
    return batch[0], batch[1]


class Forwarder:
    """The handler that :func:`forward` registers for messages or batches of them."""

    def __init__(self, stream: Any, task: Any, is_batch: bool) -> None:
        if not isinstance(task, Task):
            name = getattr(task, "__qualname__", type(task).__qualname__)
            raise ConfigurationError(
                f"forward: {name} is not a task. Decorate it with @task of django.tasks."
            )
        name = task.name
        function = partial(task.func, None) if task.takes_context else task.func
        check_function(f"forward({name})", function, "messages" if is_batch else "message")
        self._task = task
        self._stream = stream
        self._is_away = False
        self.__qualname__ = f"forward({name})"

    def __call__(self, given: Message | Sequence[Message]) -> None:
        if isinstance(given, Message):
            argument: Any = argument_for(given)
        else:
            argument = [argument_for(message) for message in given]
        try:
            self._task.enqueue(argument)
        except AWAY as error:
            self._note(error)
            raise Postponed(RETRY_SECONDS) from error
        self._is_away = False

    def _note(self, error: Exception) -> None:
        """Log the first of several failures in a row."""
        if self._is_away:
            return
        self._is_away = True
        name = self._stream.alias
        text = "stream %s: tasks cannot be enqueued (%s); messages wait, retrying every %g s"
        log.warning(text, peer_text(name), said(error), RETRY_SECONDS, extra=fields(name))
