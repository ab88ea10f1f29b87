"""
The blinker signals of a stream. The sender is the app, and ``stream`` is the ``DataStream``.

- ``message_received`` is sent for every message, with ``message``.
- ``stream_ready`` is sent when the stream is ready.
- ``stream_disconnected`` is sent when a connection has ended. Its ``event`` is a
  :class:`~datastream_ws.DisconnectEvent`.
- ``stream_error`` is sent for every reported error, including those of the network, with ``error``.
- ``stream_failed`` is sent when the client has failed, with ``error``.

All signals except ``message_received`` also pass ``key`` to receivers that have this parameter or
``**extra``. It's the key of the fleet's stream. It's ``None`` without a fleet, and for a
``stream_error`` of the fleet's source or lease. A message has its own ``key``.

Receivers are synchronous functions. Each is called in its own application context, or in the
context of the run if ``DATASTREAM_CONTEXT = "run"``. If a receiver raises an exception, it's
reported like a handler's, and the other receivers are still called. A receiver that fails because
the database connection was lost is retried once.

::

    @message_received.connect_via(app)
    def store(app, *, stream, message, **extra):
        ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from blinker import ANY, NamedSignal

from datastream_ws import State
from datastream_ws.embedding import check_function, current_key

if TYPE_CHECKING:
    from flask import Flask

    from datastream_ws import DisconnectEvent, Handlers, Message, StateEvent

__all__ = [
    "message_received",
    "stream_disconnected",
    "stream_error",
    "stream_failed",
    "stream_ready",
]

F = TypeVar("F", bound=Callable[..., Any])


class StreamSignal(NamedSignal):
    """
    A signal that refuses receivers with the wrong parameters.

    Args:
        name: The name of the signal in blinker.
        *facts: The names of the keyword arguments of receivers, besides ``stream``.

    """

    def __init__(self, name: str, *facts: str) -> None:
        super().__init__(name)
        self._facts = ("stream", *facts)

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect *receiver*. Raises ConfigurationError if it has the wrong parameters."""
        given = [name for name in self._facts if name != "key" or takes_key(receiver)]
        check_function(self.name.replace("-", "_"), receiver, "app", tuple(given))
        return super().connect(receiver, sender, weak)


message_received = StreamSignal("message-received", "message")
stream_ready = StreamSignal("stream-ready", "key")
stream_disconnected = StreamSignal("stream-disconnected", "event", "key")
stream_error = StreamSignal("stream-error", "error", "key")
stream_failed = StreamSignal("stream-failed", "error", "key")


class Announcer:
    """
    The sender of the signals of one stream in one app.

    Args:
        app: The app.
        stream: The argument ``stream`` of receivers.
        handlers: The handlers of the client in this app. To save time, a handler for
            ``message_received`` is only registered when the signal has a receiver.
        wants_retry: A function that returns whether a receiver is retried after an error.
        has_own_contexts: Whether each receiver is called in its own application context, instead
            of the context of the run.

    """

    def __init__(
        self,
        app: Flask,
        stream: object,
        handlers: Handlers,
        wants_retry: Callable[[BaseException], bool],
        has_own_contexts: bool = True,
    ) -> None:
        self._app = app
        self._stream = stream
        self._handlers = handlers
        self._wants_retry = wants_retry
        self._has_own_contexts = has_own_contexts
        self._sends_messages = False
        handlers.on_state(self._state)
        handlers.on_disconnect(self._disconnected)
        handlers.on_error(self._error)
        message_received.receiver_connected.connect(self._receiver_connected, message_received)
        self._receiver_connected()

    def _receiver_connected(self, *_: Any, **__: Any) -> None:
        if not self._sends_messages and message_received.has_receivers_for(self._app):
            self._sends_messages = True
            self._handlers.on_message(self._message)

    def _message(self, message: Message) -> None:
        self._send(message_received, message=message)

    def _state(self, event: StateEvent) -> None:
        if event.state is State.READY:
            self._send(stream_ready, key=current_key())
        elif event.state is State.FAILED:
            self._send(stream_failed, error=event.error, key=current_key())

    def _disconnected(self, event: DisconnectEvent) -> None:
        self._send(stream_disconnected, event=event, key=current_key())

    def _error(self, error: BaseException) -> None:
        self._send(stream_error, error=error, key=current_key())

    def _send(self, signal: NamedSignal, **facts: Any) -> None:
        """Call every receiver, and then raise their exceptions in an ExceptionGroup."""
        errors: list[Exception] = []
        for receiver in signal.receivers_for(self._app):
            try:
                # A failed receiver may have left a broken session in the context of the run.
                self._call(receiver, facts, self._has_own_contexts or bool(errors))
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"receivers of {signal.name} failed", errors)

    def _call(self, receiver: Callable[..., Any], facts: dict[str, Any], in_own: bool) -> None:
        if "key" in facts and not takes_key(receiver):
            facts = {name: fact for name, fact in facts.items() if name != "key"}
        try:
            self._call_once(receiver, facts, in_own)
        except Exception as error:
            if not self._wants_retry(error):
                raise
            self._call_once(receiver, facts, True)

    def _call_once(self, receiver: Callable[..., Any], facts: dict[str, Any], in_own: bool) -> None:
        with self._app.app_context() if in_own else nullcontext():
            self._app.ensure_sync(receiver)(self._app, stream=self._stream, **facts)


def takes_key(receiver: Callable[..., Any]) -> bool:
    """Return whether a receiver accepts ``key``, which only fleets need."""
    try:
        parameters = inspect.signature(receiver, follow_wrapped=False).parameters
    except (TypeError, ValueError):  # a builtin function may have no signature
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    return "key" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
