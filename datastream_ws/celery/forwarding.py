"""The function ``forward()``, which publishes the messages of a stream as tasks."""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .. import ConfigurationError, Message
from ..embedding import argument_for, check_function, name_of
from .payload import shown, task_id_for
from .publisher import Publisher
from .sources import installations

__all__ = ["Forwarder", "app_of", "bind", "forward", "forwarders", "publisher_of"]

# Serializers that can execute code. A server must not choose the code that a worker runs.
UNSAFE = {"pickle", "yaml", "application/x-python-serialize", "application/x-yaml"}
OURS = {
    "args": "the message is the argument",
    "task_id": "it is made from stream, epoch and seq",
    "producer": "forward() uses its own",
    "connection": "forward() uses its own",
    "retry": "forward() retries until the broker accepts the message",
    "retry_policy": "forward() retries until the broker accepts the message",
}

# The keys are Clients, or the stream objects of an adapter. They live as long as the process.
_publishers: weakref.WeakKeyDictionary[Any, Publisher] = weakref.WeakKeyDictionary()
_forwarders: weakref.WeakKeyDictionary[Any, list[Forwarder]] = weakref.WeakKeyDictionary()
_apps: weakref.WeakKeyDictionary[Any, Callable[[], Any]] = weakref.WeakKeyDictionary()


def forward(
    client: Any,
    task: Any,
    route: str | None = None,
    batch: tuple[int, float] | None = None,
    **apply_async_options: Any,
) -> None:
    """
    Publish each message of a stream as a task, at least once and in order.

    The task gets one argument, a dict with ``data``, ``route``, ``seq``, ``connection``, ``epoch``,
    ``received_at`` and ``stream``. A binary message has ``"binary": True``, and its ``data`` is
    base64. A message of a fleet also has ``key``, which is a number or a string. With *batch*, the
    task gets a list of such dicts, all of one stream.

    While the broker is down or hangs, messages wait in the inbox and in the spool. A worker sets a
    spool for a stream that has none. If the outcome of a publish is unknown, it is repeated with
    the same task id, which is made from stream, epoch and seq.

    You can call it before or after :func:`install`. The name of a task is looked up when the first
    message arrives.

    Args:
        client: A Client, a Fleet, or a Django or Flask stream.
        task: A task, or its name.
        route: Only messages with this route. ``None`` means every message.
        batch: The largest number of messages in a task, and the longest time that the first one
            waits for more, in seconds. ``None`` means a task for each message.
        **apply_async_options: The options of ``task.apply_async()``, such as queue, priority and
            expires. The result is ignored unless you set ``ignore_result``.

    Raises:
        ConfigurationError: If ``forward()`` sets an option itself, such as ``task_id``. Also if an
            option is a misspelled *batch* or *route*, if the serializer is unsafe, or if the task
            can't be called with one argument.

    """
    forwarder = Forwarder(client, task, apply_async_options, batch is not None)
    if route is not None and not isinstance(route, str):
        raise ConfigurationError("forward: the route must be a string")
    if batch is None:
        client.on_message(route)(forwarder)
    else:
        client.on_batch(*_batch(batch), route=route)(forwarder)
    _forwarders.setdefault(client, []).append(forwarder)


def _batch(batch: Any) -> tuple[int, float]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ConfigurationError(
            "forward: batch must be (most messages, longest wait in seconds), such as (100, 0.2)"
        )
    return batch[0], batch[1]


class Forwarder:
    """The handler of one :func:`forward`. It gets a message, or a list of messages."""

    def __init__(
        self, client: Any, task: Any, options: dict[str, Any], batch: bool = False
    ) -> None:
        name = getattr(task, "name", task)
        if not isinstance(name, str) or not name:
            raise ConfigurationError("forward: the task must be a Celery task or its name")
        for option in options.keys() - {"router"}:  # an option of apply_async() similar to route
            if near := difflib.get_close_matches(option, ("batch", "route"), n=1, cutoff=0.8):
                raise ConfigurationError(
                    f"forward: unknown option {option!r}. Did you mean {near[0]!r}?"
                )
        for option in OURS.keys() & options.keys():
            raise ConfigurationError(f"forward: {option} cannot be set, because {OURS[option]}")
        _refuse_unsafe(options.get("serializer"), "forward(serializer=…)")
        self.task = name
        self._own = None if isinstance(task, str) else task
        self._client = weakref.ref(client)
        self._options = {"ignore_result": True} | options
        self._argument = "messages" if batch else "message"
        self._check_arguments(task)
        self._target = f"{name}\n{options.get('queue') or options.get('routing_key') or ''}"
        self.__qualname__ = f"forward({name})"

    def __call__(self, given: Message | Sequence[Message]) -> None:
        client = self._client()
        app = app_of(client, self._own)
        if isinstance(given, Message):
            messages: Sequence[Message] = (given,)
            argument: Any = argument_for(given)
        else:
            messages = given
            argument = [argument_for(message) for message in given]
        options = {
            "task_id": task_id_for(self._target, messages),
            "argsrepr": shown(messages),  # by default, Celery logs the payload
            **self._options,
        }

        def send(producer: Any, publish_options: dict[str, Any]) -> None:
            call = {**publish_options, **options, "producer": producer, "retry": False}
            task = self._task_of(app)
            if task is None:
                app.send_task(self.task, args=(argument,), **call)
            else:
                task.apply_async(args=(argument,), **call)

        if app.conf.task_always_eager:  # in a test, the task runs here without a broker
            send(None, {})
        else:
            publisher_of(client).publish(app, send)

    def _check_arguments(self, task: Any) -> None:
        if run := getattr(task, "run", None):
            check_function(f"forward({self.task})", run, self._argument)

    def _task_of(self, app: Any) -> Any:
        """Return the task, or ``None`` if this process hasn't registered it."""
        return self._own or app.tasks.get(self.task)

    def check(self, app: Any) -> None:
        """Check the task in the app's configuration. Raises ConfigurationError."""
        task = self._task_of(app)
        self._check_arguments(task)
        if "serializer" in self._options:
            return
        chosen = getattr(task, "serializer", None) or app.conf.task_serializer
        _refuse_unsafe(chosen, f"the serializer of task {self.task}")


def _refuse_unsafe(serializer: Any, where: str) -> None:
    if serializer in UNSAFE:
        raise ConfigurationError(
            f"{where} is {serializer}, which can execute code. Use serializer='json'."
        )


# --- which app, which publisher --------------------------------------------------------------


def bind(client: Any, app: Any) -> None:
    """Publish the messages of *client* with *app*."""
    _apps[client] = weakref.ref(app)


def app_of(client: Any, task: Any = None) -> Any:
    """
    Return the Celery app that a stream publishes with.

    Raises:
        ConfigurationError: If ``install()`` wasn't called for this stream.

    """
    bound = _apps.get(client)
    app = bound() if bound is not None else None
    app = app or getattr(task, "app", None)
    if app is None and len(installations) == 1:
        app = next(iter(installations))
    if app is None:
        raise ConfigurationError(
            "forward: no Celery app is known for this stream. Call install(app, client)."
        )
    return app


def publisher_of(client: Any) -> Publisher:
    """Return the publisher of a stream, which is created on first use."""
    if client not in _publishers:
        _publishers.setdefault(client, Publisher(name_of(client)))
    return _publishers[client]


def forwarders(client: Any) -> list[Forwarder]:
    """Return the forwarders of a stream."""
    return list(_forwarders.get(client, ()))
